"""Preference optimisation: the losses by hand, who moves and what is learnt, what is refused, and the whole job."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, FIRST_WORD, Heard, processor, random_batch, random_roles, state
from report_pages import SETTINGS, SUMMARY, make_run, read, row, sample

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles, fingerprint, only_backbone
from pe_rlhf_mm.algorithms import preferences as losses
from pe_rlhf_mm.cli.tune import tune as command
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.labels import write_labels
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.errors import OutOfRange, TrainingDiverged, UserError
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.reports import methods as names
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training import forward, preferences
from pe_rlhf_mm.training.config import PreferenceConfig, TuneConfig
from pe_rlhf_mm.training.preferences import METHODS, optimize_preferences
from pe_rlhf_mm.training.prepare import Data, prepare
from pe_rlhf_mm.training.reward import Judged, JudgedBatch, Row
from pe_rlhf_mm.training.start import read_start
from pe_rlhf_mm.types import Completions, Message, Preference, Rated, Text

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
POLICY, ANCHOR = jnp.array([[-1.0, -3], [-2, -1]]), jnp.array([[-2.0, -2], [-1, -3]])
"""The first reply has gained 1 - (-1) = 2 nats more than the second, and -1 - 2 = -3."""
PROBABILITY = jnp.array([1.0, 0.25])
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "dpo": functools.partial(losses.dpo, beta=0.5),
    "ipo": functools.partial(losses.ipo, beta=0.25),
    "slic": lambda policy, anchor, p: losses.slic(policy, p, delta=1.0, weight=0.5),
}

# --- losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # β h = 1 and -1.5
        ("dpo", (math.log1p(math.exp(-1)) + 0.25 * math.log1p(math.exp(1.5)) + 0.75 * math.log1p(math.exp(-1.5))) / 2),
        # a gain of 2 is wanted: (2 - 2)², and 0.25 · (-3 - 2)² + 0.75 · (3 - 2)² = 7
        ("ipo", (0 + 7) / 2),
        # d = 2 and -1: 0 + 0.5 · 1, and 0.25 · (2 + 0.5 · 2) + 0.75 · (0 + 0.5 · 1) = 1.125
        ("slic", (0.5 + 1.125) / 2),
    ],
)
def test_the_losses_are_what_they_are_by_hand(name: str, expected: float) -> None:
    np.testing.assert_allclose(LOSSES[name](POLICY, ANCHOR, PROBABILITY), expected, **ROUNDING)


def plain_dpo(policy: list, anchor: list, p: float) -> float:
    """The better reply by a softmax over implicit rewards."""
    first, second = (math.exp(0.5 * (policy[i] - anchor[i])) for i in (0, 1))
    return -p * math.log(first / (first + second)) - (1 - p) * math.log(second / (first + second))


def plain_ipo(policy: list, anchor: list, p: float) -> float:
    """h = log of π(y_1) anchor(y_2) / (π(y_2) anchor(y_1)), which is to be 1 / 2β, or minus that."""
    h = math.log(math.exp(policy[0]) * math.exp(anchor[1]) / (math.exp(policy[1]) * math.exp(anchor[0])))
    return p * (h - 2) ** 2 + (1 - p) * (-h - 2) ** 2


def plain_slic(policy: list, anchor: list, p: float) -> float:
    total = 0.0
    for weight, (better, worse) in ((p, policy), (1 - p, policy[::-1])):
        total += weight * (max(0.0, 1 - better + worse) - 0.5 * better)
    return total


PLAIN = {"dpo": plain_dpo, "ipo": plain_ipo, "slic": plain_slic}


def drawn(seed: int = 0, pairs: int = 7) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    policy, anchor = (jnp.asarray(rng.normal(-4, 2, (pairs, 2)), jnp.float32) for _ in range(2))
    return policy, anchor, jnp.asarray(rng.choice([1, 0, 0.5, 0.7], pairs), jnp.float32)


@pytest.mark.parametrize("name", LOSSES)
def test_the_losses_are_those_of_plain_loops(name: str) -> None:
    found = drawn()
    expected = np.mean(
        [PLAIN[name](*map(np.ndarray.tolist, map(np.asarray, pair))) for pair in zip(*found, strict=True)]
    )
    np.testing.assert_allclose(LOSSES[name](*found), expected, **ROUNDING)


def test_online_dpo_is_dpo_on_the_replies_that_were_picked_out_of_groups() -> None:
    """Three groups of four replies; pairs of the second and the fourth, the third and the first, and one that ties."""
    rng = np.random.default_rng(0)
    policy, anchor = (jnp.asarray(rng.normal(-2, 1, (3, 4, 5)), jnp.float32) for _ in range(2))
    mask = jnp.arange(5) < jnp.asarray(rng.integers(1, 6, (3, 4)))[..., None]
    side = jnp.array([[0.0, 1, 0, -1], [-1, 0, 1, 0], [0, 0, 0, 0]])[..., None] * mask
    whole, at = (jnp.where(mask, x, 0).sum(-1) for x in (policy, anchor)), jnp.array([[1, 3], [2, 0], [0, 0]])
    pairs = [jnp.take_along_axis(x, at, axis=1) for x in whole]
    expected = losses.dpo(*pairs, jnp.ones(3), 0.5)

    def found(policy: jax.Array) -> jax.Array:
        return losses.online_dpo(policy, anchor, side, mask, 0.5)

    np.testing.assert_allclose(found(policy), expected, **ROUNDING)
    slope = jax.grad(found)(policy)
    assert ((slope != 0) == (side != 0)).all()
    assert (slope * side <= 0).all(), "the better one is to become likelier, and the worse one less likely"


def test_in_online_dpo_a_group_counts_by_the_replies_that_something_is_known_of() -> None:
    """h is 1 + 2 of two replies and -1 of three; of the third group nothing is known."""
    ratio = jnp.array([[[1.0], [-2], [50]], [[-1], [0], [0]], [[1], [2], [3]]])
    mask = jnp.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)[..., None]
    side = jnp.array([[1.0, -1, 0], [1, 0, -1], [0, 0, 0]])[..., None]
    expected = (2 * math.log1p(math.exp(-3)) + 3 * math.log1p(math.exp(1))) / 5
    np.testing.assert_allclose(losses.online_dpo(ratio, jnp.zeros((3, 3, 1)), side, mask, 1.0), expected, **ROUNDING)


def test_equal_policy_and_anchor_know_nothing() -> None:
    policy, _, p = drawn()
    np.testing.assert_allclose(LOSSES["dpo"](policy, policy, p), math.log(2), **ROUNDING)
    np.testing.assert_allclose(LOSSES["ipo"](policy, policy, p), 2.0**2, **ROUNDING)


@pytest.mark.parametrize("name", LOSSES)
def test_a_pair_may_be_swapped_with_its_probability(name: str) -> None:
    policy, anchor, p = drawn(1)
    swapped = LOSSES[name](policy[:, ::-1], anchor[:, ::-1], 1 - p)
    np.testing.assert_allclose(swapped, LOSSES[name](policy, anchor, p), **ROUNDING)


def test_the_gradient_of_dpo_is_the_surprise_and_lifts_the_better_reply() -> None:
    """dL/dh = -β (p - σ(β h)) / B: for p = 1 up with the first reply; for p = 0.25, and σ below it, up with it too."""
    slope = jax.grad(LOSSES["dpo"])(POLICY, ANCHOR, PROBABILITY)
    surprise = 0.5 * np.array([1 - 1 / (1 + math.exp(-1)), 0.25 - 1 / (1 + math.exp(1.5))]) / 2
    np.testing.assert_allclose(slope, np.stack([-surprise, surprise], axis=1), **ROUNDING)
    assert slope[0, 0] < 0 < slope[0, 1]


def test_ipo_stops_at_its_target_and_turns_back_beyond_it() -> None:
    """Pulls of 2 (h - 2) / B, at gains of 1, 2 and 3 nats."""
    slope = jax.grad(LOSSES["ipo"])(jnp.array([[1.0, 0], [2, 0], [3, 0]]), jnp.zeros((3, 2)), jnp.ones(3))
    np.testing.assert_allclose(slope[:, 0], [-2 / 3, 0, 2 / 3], **ROUNDING)


def test_slic_lets_the_worse_reply_be_once_the_margin_is_won() -> None:
    slope = jax.grad(LOSSES["slic"])(jnp.array([[-1.0, -3], [-1, -1.5]]), jnp.zeros((2, 2)), jnp.ones(2))
    np.testing.assert_allclose(slope, [[-0.5 / 2, 0], [-1.5 / 2, 1 / 2]], **ROUNDING)


# --- the recipe -------------------------------------------------------------------------------------------------

GOOD, BAD, STOP = FIRST_WORD + 1, FIRST_WORD + 2, CONFIG.stop_id
ASKED = [EncodedPrompt([FIRST_WORD + i % 7, FIRST_WORD + 3], ()) for i in range(32)]
PAIRS = [Judged([Row(prompt, [[GOOD, STOP], [BAD, STOP]])], (1.0, 0.0)) for prompt in ASKED]
QUICK = PreferenceConfig(steps=40, batch_size=16, learning_rate=0.02, beta=0.1)


@pytest.fixture(scope="module")
def words() -> Processor:
    return processor()


def full_sft() -> Roles:
    return only_backbone(state()).start("sft", BACKBONE)


def run(
    words: Processor,
    roles: Roles,
    method: str = "dpo",
    settings: PreferenceConfig = QUICK,
    pairs: list = PAIRS,
    **options: Any,
) -> tuple[Roles, Heard]:
    heard = Heard()
    return optimize_preferences(
        roles, words, Gallery(CONFIG), pairs, method, settings, observer=heard, **options
    ), heard


def likelihoods(words: Processor, roles: Roles, role: str) -> np.ndarray:
    """Of both replies to every prompt, [N, 2], each in a row of its own."""
    prompts, columns = words.prompts(ASKED, Gallery(CONFIG), length=8), []
    for word in (GOOD, BAD):
        said = Completions(np.full((32, 1, 2), [word, STOP]), np.ones((32, 1, 2), bool))
        columns.append(forward.score_policy(CONFIG, roles.weights(role), prompts, said).logprobs.sum((1, 2)))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("method", LOSSES)
def test_the_better_reply_becomes_the_likelier_one_and_nothing_but_the_policy_moves(
    words: Processor, method: str
) -> None:
    before = random_roles("sft", "reward")
    after, heard = run(words, before, method)
    first, second = likelihoods(words, after, "policy").T
    was_first, was_second = likelihoods(words, after, "sft").T
    assert (was_first < was_second + 1).any(), "or there was nothing to learn"
    assert (first > second + 1).all()
    assert (first - second > was_first - was_second).all()
    assert heard.steps[-1]["accuracy"] == 1.0
    assert heard.steps[-1]["loss"] < heard.steps[0]["loss"]
    assert fingerprint(after.backbone) == fingerprint(before.backbone)
    for role in ("sft", "reward"):
        assert fingerprint(after.pick(role)) == fingerprint(before.pick(role))
    assert fingerprint(after.slots["anchor"]) == fingerprint(before.slots["sft"])
    for target, low in after.slots["policy"].items():
        assert (low.a != before.slots["sft"][target].a).any()
        assert (low.b != before.slots["sft"][target].b).any()


def test_in_mode_full_a_copy_of_all_weights_learns(words: Processor) -> None:
    before = full_sft()
    after, heard = run(words, before, settings=replace(QUICK, steps=15, learning_rate=2e-3))
    assert fingerprint(after.backbone) == fingerprint(before.backbone)
    assert fingerprint(after.copies["sft"]) == fingerprint(after.copies["anchor"]) == fingerprint(before.copies["sft"])
    assert fingerprint(after.copies["policy"]) != fingerprint(before.copies["sft"])
    assert heard.steps[-1]["margin"] > 1


def test_the_first_step_is_taken_from_the_anchor(words: Processor) -> None:
    _, heard = run(words, random_roles("sft", "reward"), settings=replace(QUICK, steps=2))
    np.testing.assert_allclose(heard.steps[0]["loss"], math.log(2), rtol=1e-5)
    np.testing.assert_allclose([heard.steps[0][n] for n in ("margin", "better", "worse")], 0, atol=1e-4)
    assert abs(heard.steps[1]["margin"]) > 1e-3


@pytest.mark.parametrize("method", LOSSES)
def test_the_loss_is_that_of_whole_replies_each_in_a_row_of_its_own(method: str) -> None:
    """Prompts with pictures and replies of different lengths: sums over the tokens, of policy and anchor."""
    prompts, both = random_batch(np.random.default_rng(3), rows=3, group=2, steps=5)
    roles, labels = random_roles("policy", "anchor"), np.array([[1.0, 0], [0.2, 0.8], [0.5, 0.5]], np.float32)
    sums = np.zeros((2, 3, 2))
    for i, role in enumerate(("policy", "anchor")):
        for j in (0, 1):
            alone = Completions(both.tokens[:, j : j + 1], both.mask[:, j : j + 1])
            found = np.asarray(forward.score_policy(CONFIG, roles.weights(role), prompts, alone).logprobs[:, 0])
            for n in range(3):
                sums[i, n, j] = found[n, : both.mask[n, j].sum()].sum()
    settings = PreferenceConfig(beta={"dpo": 0.5, "ipo": 0.25, "slic": 9.0}[method], delta=1.0, likelihood=0.5)
    expected = np.mean([PLAIN[method](sums[0, n].tolist(), sums[1, n].tolist(), labels[n, 0]) for n in range(3)])
    batch = JudgedBatch(prompts, both, labels, np.zeros(3, np.float32))
    one = functools.partial(preferences.loss, CONFIG, method, settings, "products")
    value, metrics = jax.jit(one)(roles.pick("policy"), roles, batch, jax.random.key(0))
    np.testing.assert_allclose(value, expected, rtol=1e-4)

    ratios = sums[0] - sums[1]
    better, worse = ratios[[0, 1, 2], [0, 1, 0]], ratios[[0, 1, 2], [1, 0, 1]]
    told = {"better": better.mean(), "worse": worse.mean(), "margin": (better - worse).mean()}
    for name, number in told.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-3)
    np.testing.assert_allclose(metrics["accuracy"], ((better > worse)[:2].sum() + 0.5) / 3)


def test_a_pair_that_is_labelled_the_other_way_round_is_learnt_the_other_way_round(words: Processor) -> None:
    after, heard = run(words, random_roles("sft"), pairs=[pair._replace(labels=(0.0, 1.0)) for pair in PAIRS])
    first, second = likelihoods(words, after, "policy").T
    assert (first < second - 1).all()
    assert heard.steps[-1]["margin"] > 1, "that of the better reply, whichever of the two it is"


@pytest.mark.parametrize(
    ("scores", "kept"), [([0.1, 0.5, 0.4, 0.5], 1), ([0.6, 0.5, 0.4, 0.3], 0), ([0.1, 0.2, 0.3, 0.4], 3)]
)
def test_the_policy_that_does_best_on_validation_is_kept(words: Processor, scores: list[float], kept: int) -> None:
    """Evaluated before the first and after every second of five steps, and the last; of equals the first is kept."""
    seen: list[str] = []

    def monitor(now: Roles) -> float:
        seen.append(fingerprint(now.pick("policy")))
        return scores[len(seen) - 1]

    settings = replace(QUICK, steps=5, evaluate_every=2)
    after, heard = run(words, random_roles("sft"), settings=settings, monitor=monitor)
    assert len(set(seen)) == 4
    assert seen[0] == fingerprint(after.start("policy", "sft").pick("policy"))
    assert fingerprint(after.pick("policy")) == seen[kept]
    assert [step for step, numbers in heard.notes if "validation_accuracy" in numbers] == [0, 2, 4, 5]


def test_the_seed_decides_every_bit(words: Processor) -> None:
    one, same, other = (
        run(words, random_roles("sft"), settings=replace(QUICK, steps=3, batch_size=8), seed=seed)[0]
        for seed in (3, 3, 4)
    )
    assert fingerprint(one.pick("policy")) == fingerprint(same.pick("policy")) != fingerprint(other.pick("policy"))


def test_a_loss_that_is_no_number_stops_training_and_names_the_step(words: Processor) -> None:
    with pytest.raises(TrainingDiverged, match=r"preferences: .*loss.* not finite at step 3\."):
        run(words, random_roles("sft"), settings=replace(QUICK, learning_rate=1e38))


# --- settings and data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PreferenceConfig(beta=0.0), "PreferenceConfig.beta must be above 0, not 0.0"),
        (lambda: PreferenceConfig(delta=-1.0), "PreferenceConfig.delta must be 0 or more, not -1.0"),
        (lambda: PreferenceConfig(likelihood=-0.5), "PreferenceConfig.likelihood must be 0 or more"),
        (lambda: PreferenceConfig(pairs=-1), "PreferenceConfig.pairs must be 0 or more"),
        (lambda: PreferenceConfig(steps=0), "PreferenceConfig.steps must be above 0"),
        (lambda: PreferenceConfig(labels=Path("pairs")), "PreferenceConfig.labels must be text"),
        (lambda: TuneConfig(method="orpo"), "TuneConfig.method must be one of rlhf, dpo, ipo, slic, kto, not 'orpo'"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(OutOfRange, match=said):
        make()


def test_every_method_that_may_be_asked_for_has_a_loss_and_a_name() -> None:
    choices = set(get_args(get_type_hints(TuneConfig)["method"]))
    assert choices == {"rlhf", *METHODS} == set(names.METHODS)
    assert all(method.stage in names.STAGES[method.stage] for method in names.METHODS.values())


class Single:
    """Solutions, and nothing that was said of replies."""

    evaluators = ToyTask.evaluators
    samples, environment, solve = ToyTask.samples, ToyTask.environment, ToyTask.solve
    COLORS, SIZES = ToyTask.COLORS, ToyTask.SIZES


class NoneToTrainOn(ToyTask):
    def preferences(self, split: str, *, seed: int = 0) -> list[Preference]:
        return [] if split == "train" else list(super().preferences(split, seed=seed))


ASK = (Message("user", "Which color is it?"),)
PICTURE = next(ToyTask().samples("test")).messages[0].parts[0]
DRAWN = Preference(ASK, (Text("here: "), PICTURE), "no")


def encoded(task: object, **settings: Any) -> Data:
    return prepare(task, load_model("tiny-vlm"), TuneConfig(method="dpo", preferences=PreferenceConfig(**settings)))


def test_the_policy_is_shown_the_pairs_that_a_reward_model_would_be() -> None:
    model = load_model("tiny-vlm")
    own, theirs = encoded(ToyTask()), prepare(ToyTask(), model, TuneConfig())
    assert len(own.judged) == 32
    for one, other in zip(own.judged, theirs.judged, strict=True):
        assert one.rows[0].prompt.tokens == other.rows[0].prompt.tokens
        assert len(one.rows[0].prompt.images) == 1
        assert one.rows[0].completions == other.rows[0].completions
        assert list(one.labels) == [1.0, 0.0]
    assert own.validation_judged == []
    assert len(encoded(ToyTask(), pairs=5).judged) == 5


def test_a_file_of_pairs_takes_the_place_of_the_tasks_own(tmp_path: Path) -> None:
    write_labels(tmp_path / "pairs", [Preference(ASK, f"reply {i}", "no", probability=0.9) for i in range(5)])
    data = encoded(Single(), labels=str(tmp_path / "pairs"))
    decode = load_model("tiny-vlm").processor.decode
    assert [decode(e.rows[0].completions[0]) for e in data.judged] == [f"reply {i}" for i in range(5)]
    assert [e.labels[0] for e in data.judged] == [0.9] * 5


def test_ratings_and_replies_with_pictures_are_refused_before_training(tmp_path: Path) -> None:
    write_labels(tmp_path / "rated", [Preference(ASK, "red", "no"), Rated(ASK, "red", 1.0)])
    with pytest.raises(UserError, match="rated has ratings, and the method dpo learns from preferences only"):
        encoded(ToyTask(), labels=str(tmp_path / "rated"))
    write_labels(tmp_path / "drawn", [Preference(ASK, "red", "no"), DRAWN])
    with pytest.raises(UserError, match="drawn has replies with pictures, which a policy cannot write"):
        encoded(ToyTask(), labels=str(tmp_path / "drawn"))
    with pytest.raises(UserError, match="NoneToTrainOn has no preferences in the split 'train'"):
        encoded(NoneToTrainOn())


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (f"{__name__}:Single", r"Single has no preferences.* method dpo .*--preferences\.labels FILE"),
        ("canvas/press", "is played in an environment, and the method dpo is for tasks of one turn"),
    ],
)
def test_a_task_that_has_no_pairs_or_is_played_is_refused_before_a_model_is_loaded(
    task: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        pe.tune(task, model="no such model", out=tmp_path / "run", config=SMALL, quiet=True)
    assert not (tmp_path / "run").exists()


# --- the whole job ----------------------------------------------------------------------------------------------

SMALL = TuneConfig(
    method="dpo",
    lora=pe.LoraConfig(rank=3, targets=("q", "v")),
    sft=pe.SFTConfig(steps=3, batch_size=8, learning_rate=1e-3),
    preferences=PreferenceConfig(steps=4, batch_size=8, learning_rate=1e-3, evaluate_every=2),
    rl=pe.RLConfig(prompts=4, max_tokens=4, evaluation_samples=4),
)
TOY = f"{__name__}:ToyTask"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dpo"
    pe.tune(TOY, out=folder, config=SMALL, quiet=True)
    return folder


def stages(folder: Path) -> list[str]:
    found = [json.loads(line)["stage"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return list(dict.fromkeys(found))


def test_a_run_has_a_policy_and_no_reward_model(tuned: Path) -> None:
    summary = json.loads((tuned / "summary.json").read_text())
    assert (summary["method"], summary["reward_model"], summary["learned_reward"]) == ("dpo", None, None)
    assert (summary["preferences"]["n"], summary["sft"]["n"]) == (16, 16)
    assert math.isfinite(summary["preferences"]["kl"])
    assert "rl" not in summary
    assert set(summary["stages"]) == {"sft", "preferences", "evaluation"}
    assert {path.name for path in (tuned / "adapters").iterdir()} == {"sft", "policy"}
    assert stages(tuned) == ["sft", "preferences", "evaluation"]
    samples = [json.loads(line) for line in (tuned / "samples.jsonl").read_text().splitlines()]
    assert {(s["sft"]["reward"], s["preferences"]["reward"]) for s in samples} == {(None, None)}
    asked = [s.messages for s in ToyTask().samples("test")]
    replies = [group[0] for group in pe.load_policy(tuned).generate(asked, max_tokens=4)]
    assert replies == [s["preferences"]["reply"] for s in samples]


def test_the_page_of_a_run_speaks_of_its_method_and_of_no_reward(tuned: Path) -> None:
    page = read(tuned)
    assert re.search(r"Accuracy on 16 test questions was .* after SFT and is .* after DPO", page.text)
    assert row(page, "Preferences").startswith("Preferencestest questions answered right")
    assert "KL to SFT" in row(page, "Preferences")
    assert "Preferences: told apart" in page.text
    assert "Weights trained by DPO" in page.text
    assert "fixed by DPO" in page.text
    assert not re.search(r"\bRL\b|Reward model|nan\b", page.text.partition("Settings")[0])


def test_a_page_shows_the_numbers_of_the_tuned_policy_whatever_the_method(tmp_path: Path) -> None:
    """The figures of RL, under the names of DPO: what only reads "rl" shows nothing."""
    told = {"settings": {**SETTINGS, "method": "slic", "preferences": {"steps": 60}}}
    summary = {**SUMMARY, "preferences": SUMMARY["rl"], "reward_model": None, "rl": None}
    samples = [sample("1", 0, 1), sample("2", 0, 0)]
    samples = [{**{k: v for k, v in one.items() if k != "rl"}, "preferences": one["rl"]} for one in samples]
    page = read(make_run(tmp_path / "run", summary=summary, samples=samples, told=told))
    assert "51.2 % after SFT and is 63.4 % after SLiC: +12.2 points" in page.text
    assert row(page, "Preferences").split(" | ")[1] == "63.4 %KL to SFT 1.250 nats per reply"
    assert "1 fixed by SLiC" in page.text
    assert ["SLiC", "✓rightrl says 1", "0.250"] in page.rows
    with pytest.raises(StopIteration):
        row(page, "RL")


def test_another_run_gives_its_sft_policy_and_its_reward_model_is_not_asked_for(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = tuned / "adapters/reward"
    judge.mkdir()
    (judge / "adapter_model.safetensors").write_bytes(b"never read")
    try:
        assert read_start(tuned, "tiny-vlm", SMALL).roles == ("sft",)
        assert read_start(tuned, "tiny-vlm", replace(SMALL, method="rlhf")).roles == ("sft", "reward")
        monkeypatch.setattr(ToyTask, "tuning", SMALL, raising=False)
        command([TOY, "--method", "ipo", "--start-from", str(tuned), "--out", str(tmp_path / "run")])
    finally:
        (judge / "adapter_model.safetensors").unlink()
        judge.rmdir()
    assert stages(tmp_path / "run") == ["preferences", "evaluation"]
    theirs, ours = (folder / "adapters/sft/adapter_model.safetensors" for folder in (tuned, tmp_path / "run"))
    assert ours.read_bytes() == theirs.read_bytes()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[1:3]] == ["SFT", "IPO"]
    assert lines[3][:3] == ["gain", "by", "IPO"]
    assert lines[4][0] == "KL"


def test_mode_full_is_the_same_job_on_whole_copies(tmp_path: Path) -> None:
    config = replace(SMALL, mode="full", preferences=replace(SMALL.preferences, steps=2))
    summary = pe.tune(TOY, out=tmp_path / "full", config=config, quiet=True)
    assert summary["trainable_fraction"] == 1.0
    assert (tmp_path / "full/adapters/policy/model.safetensors").is_file()
