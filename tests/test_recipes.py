"""SFT and reward modelling: who moves, what is kept, what is learnt, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, FIRST_WORD, Heard, processor, random_roles, state

from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles, Trainable, fingerprint
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.data.streams import Fed
from pe_rlhf_mm.errors import TrainingDiverged, UserError
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training import forward, reward, sft
from pe_rlhf_mm.training.config import RewardConfig, RLConfig, SFTConfig, TuneConfig
from pe_rlhf_mm.training.loop import train
from pe_rlhf_mm.training.lora_config import LoraConfig
from pe_rlhf_mm.training.optimizers import adam
from pe_rlhf_mm.training.presets import settings_of
from pe_rlhf_mm.training.reward import Judged, Row
from pe_rlhf_mm.training.sft import Demonstration
from pe_rlhf_mm.types import Completions

GOOD, BAD, STOP = FIRST_WORD + 1, FIRST_WORD + 2, CONFIG.stop_id
ASKED = [EncodedPrompt([FIRST_WORD + i % 7, FIRST_WORD + 3], ()) for i in range(32)]
SHOWN = [Demonstration(prompt, [GOOD, STOP]) for prompt in ASKED]
PAIRS = [Judged([Row(prompt, [[GOOD, STOP], [BAD, STOP]])], (1.0, 0.0)) for prompt in ASKED]
RATINGS = [Judged([Row(p, [[word, STOP]])], (float(word == GOOD),)) for p in ASKED for word in (GOOD, BAD)]
SFT = SFTConfig(steps=60, batch_size=16, learning_rate=0.02)
REWARD = RewardConfig(steps=30, batch_size=16, learning_rate=0.02, validate_every=10, validation_pairs=16)


@pytest.fixture(scope="module")
def words() -> Processor:
    return processor()


def full_copies() -> Roles:
    made = role_table.only_backbone(state()).start("sft", BACKBONE).start("reward", BACKBONE)
    return made.with_head("reward", jax.random.normal(jax.random.key(1), (CONFIG.decoder.width,)))


def sft_run(words: Processor, roles: Roles, **options: object) -> tuple[Roles, Heard]:
    heard = Heard()
    return sft.sft(roles, words, Gallery(CONFIG), SHOWN, SFT, observer=heard, **options), heard


def reward_run(words: Processor, roles: Roles, settings: RewardConfig = REWARD, pairs: list = PAIRS) -> Roles:
    return reward.train_reward_model(roles, words, Gallery(CONFIG), pairs, pairs, settings)


def scores(words: Processor, roles: Roles, examples: list = PAIRS) -> reward.Scored:
    return reward.score_judged(roles, words, Gallery(CONFIG), examples)


def test_sft_learns_its_demonstrations_and_moves_its_own_slot_only(words: Processor) -> None:
    before = random_roles("sft", "reward")
    after, heard = sft_run(words, before)
    assert heard.steps[-1]["loss"] < 0.1 < heard.steps[0]["loss"]
    assert fingerprint(after.backbone) == fingerprint(before.backbone)
    assert fingerprint(after.pick("reward")) == fingerprint(before.pick("reward"))
    for target, low in after.slots["sft"].items():
        assert (low.a != before.slots["sft"][target].a).any()
        assert (low.b != before.slots["sft"][target].b).any()


def test_sft_learns_to_stop(words: Processor) -> None:
    """The stop token is one of the demonstrated tokens: without it in the mask its likelihood would not rise."""
    roles, _ = sft_run(words, random_roles("sft"))
    prompts = words.prompts(ASKED[:4], Gallery(CONFIG), length=8)
    row = (prompts, Completions(np.full((4, 1, 2), [GOOD, STOP]), np.ones((4, 1, 2), bool)))
    logprobs = forward.score_policy(CONFIG, roles.weights("sft"), *row, forward.PLAIN).logprobs
    assert (jnp.exp(logprobs[:, 0, 1]) > 0.9).all()


def test_the_reward_recipe_moves_its_own_slot_and_head_only(words: Processor) -> None:
    before = random_roles("sft", "reward")
    after = reward_run(words, before)
    assert fingerprint(after.backbone) == fingerprint(before.backbone)
    assert fingerprint(after.pick("sft")) == fingerprint(before.pick("sft"))
    assert all((low.b != before.slots["reward"][t].b).any() for t, low in after.slots["reward"].items())
    assert (after.heads["reward"].weight != before.heads["reward"].weight).any()


def test_in_mode_full_a_role_trains_its_copy_and_nothing_else(words: Processor) -> None:
    before = full_copies()
    after, _ = sft_run(words, before)
    after = reward_run(words, after)
    assert fingerprint(after.backbone) == fingerprint(before.backbone)
    assert (
        len({fingerprint(after.copies["sft"]), fingerprint(after.copies["reward"]), fingerprint(before.backbone)}) == 3
    )


@pytest.mark.parametrize("loss", ["pairwise", "pointwise"])
def test_both_losses_learn_which_reply_is_better(words: Processor, loss: str) -> None:
    before = random_roles("reward")
    after = reward_run(words, before, replace(REWARD, loss=loss))
    assert scores(words, after).right.mean() == 1.0


def test_a_pair_that_is_labelled_the_other_way_round_is_learnt_the_other_way_round(words: Processor) -> None:
    turned = [pair._replace(labels=(0.0, 1.0)) for pair in PAIRS]
    only_the_last = replace(REWARD, validate_every=1000)
    after = reward.train_reward_model(random_roles("reward"), words, Gallery(CONFIG), turned, PAIRS, only_the_last)
    assert scores(words, after).right.mean() == 0.0


def test_scores_are_standardised_on_validation_replies_and_no_ranking_changes(words: Processor) -> None:
    roles = random_roles("reward")
    before = scores(words, roles).scores
    after = scores(words, reward.standardised(roles, words, Gallery(CONFIG), PAIRS)).scores
    np.testing.assert_allclose(after.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(after.std(), 1, atol=1e-5)
    np.testing.assert_array_equal(np.argsort(after, axis=None), np.argsort(before, axis=None))


def test_the_zero_of_ratings_stays_where_it_divides_right_from_wrong(words: Processor) -> None:
    roles = random_roles("reward")
    before = scores(words, roles, RATINGS).scores
    after = scores(words, reward.standardised(roles, words, Gallery(CONFIG), RATINGS), RATINGS).scores
    assert abs(before.mean()) > 0.1, "a shift would show"
    np.testing.assert_allclose(after, before / before.std(), rtol=1e-4, atol=1e-5)


def test_ratings_are_learnt_one_reply_at_a_time(words: Processor) -> None:
    pointwise = replace(REWARD, loss="pointwise")
    after = reward_run(words, random_roles("reward"), pointwise, RATINGS)
    found = scores(words, after, RATINGS)
    assert found.scores.shape == (64, 1)
    assert found.right.mean() == 1.0
    assert (found.scores[::2] > 0).all(), "right replies have a log-odds above 0, and the head keeps that zero"


def test_a_margin_in_the_settings_drives_the_scores_of_a_pair_further_apart(words: Processor) -> None:
    """At d the pull is σ(m - d): with margin 4 it is still 0.98 where without one it is 0.5."""
    wide = [pair._replace(margin=2.0) for pair in PAIRS]
    gaps = {}
    for name, pairs, margin in (("none", wide, 0.0), ("on", wide, 2.0), ("nothing to multiply", PAIRS, 2.0)):
        heard = Heard()
        settings = replace(REWARD, margin=margin, dropout=0.0)
        reward.train_reward_model(
            random_roles("reward"), words, Gallery(CONFIG), pairs, pairs, settings, observer=heard
        )
        gaps[name] = heard.steps[-1]["margin"]
    assert gaps["none"] == gaps["nothing to multiply"]
    assert gaps["on"] > gaps["none"] + 1


def test_the_margins_of_a_batch_are_those_of_its_pairs_times_the_setting(words: Processor) -> None:
    pairs = [pair._replace(margin=i / 4) for i, pair in enumerate(PAIRS)]
    fed = reward.feed(words, Gallery(CONFIG), pairs, batch_size=32, margin=0.5, seed=0)
    batch = next(fed.batches(0))
    np.testing.assert_allclose(np.sort(batch.margin), np.arange(32) / 8)
    np.testing.assert_array_equal(batch.labels, [[1, 0]] * 32)
    np.testing.assert_array_equal(batch.completions.tokens[:, :, 0], [[GOOD, BAD]] * 32)


@pytest.mark.parametrize(
    ("score", "label", "right"),
    [(0.1, 1.0, 1.0), (-0.1, 1.0, 0.0), (0.1, 0.3, 0.0), (-0.1, 0.0, 1.0), (0.0, 0.0, 1.0), (3.0, 0.5, 0.5)],
)
def test_a_rating_is_met_by_the_sign_of_its_score(score: float, label: float, right: float) -> None:
    assert reward.Scored(np.array([[score]]), np.array([[label]])).right == [right]


@pytest.mark.parametrize(("labels", "right"), [((1, 0), 1), ((0.7, 0.3), 1), ((0, 1), 0), ((0.5, 0.5), 0.5)])
def test_a_pair_is_met_by_the_order_of_its_scores(labels: tuple, right: float) -> None:
    """Both scores lie above 0: as ratings they could not both be met."""
    assert reward.Scored(np.array([[2.0, 1.0]]), np.array([labels])).right == [right]
    assert reward.Scored(np.array([[1.0, 1.0]]), np.array([labels])).right == [0.5]


def test_a_reward_model_that_says_the_same_of_everything_stays_finite(words: Processor) -> None:
    roles = random_roles("reward").with_head("reward", jnp.zeros(CONFIG.decoder.width))
    standard = reward.standardised(roles, words, Gallery(CONFIG), PAIRS)
    assert np.isfinite(scores(words, standard).scores).all()
    assert scores(words, standard).right.mean() == 0.5


# --- the loop -----------------------------------------------------------------------------------------------------


def walk(trainable: Trainable, roles: Roles, batch: float, key: jax.Array) -> tuple[jax.Array, dict]:
    """A loss whose gradient is the same for ever: every step moves the bias by one learning rate."""
    return trainable.heads["reward"].bias * batch, {}


def steps_of(numbers: list[float], **options: object) -> Trainable:
    def stream() -> Iterator[float]:
        yield from (jnp.float32(n) for n in numbers)

    roles = random_roles("reward")
    optimizer = adam(1.0, len(numbers))
    key, silent = jax.random.key(0), Heard()
    return train(
        "reward_model", roles, roles.pick("reward"), Fed(lambda start: stream(), 0.0), walk, optimizer,
        steps=len(numbers), key=key, observer=silent, **options,
    )  # fmt: skip


def test_what_scored_best_is_kept_and_not_what_came_last() -> None:
    """The bias walks -1, -2, -3, -4; it is best at -2."""
    best = steps_of([1.0] * 4, validate=lambda t: -abs(float(t.heads["reward"].bias) + 2), validate_every=1)
    last = steps_of([1.0] * 4)
    np.testing.assert_allclose(best.heads["reward"].bias, -2, atol=1e-4)
    np.testing.assert_allclose(last.heads["reward"].bias, -4, atol=1e-4)


def test_of_equally_good_checkpoints_the_first_is_kept_and_the_last_step_is_always_looked_at() -> None:
    same = steps_of([1.0] * 4, validate=lambda t: 0.5, validate_every=2)
    np.testing.assert_allclose(same.heads["reward"].bias, -2, atol=1e-4)
    end = steps_of([1.0] * 3, validate=lambda t: -float(t.heads["reward"].bias), validate_every=2)
    np.testing.assert_allclose(end.heads["reward"].bias, -3, atol=1e-4)


def test_a_loss_that_is_no_number_stops_at_that_step_and_names_it() -> None:
    with pytest.raises(TrainingDiverged, match=r"reward_model: .*loss not finite at step 3\."):
        steps_of([1.0, 1.0, float("nan"), 1.0])


def test_dropout_acts_in_training_and_never_in_scoring(words: Processor) -> None:
    one, other = (sft_run(words, random_roles("sft"), dropout=p)[1].steps[0]["loss"] for p in (0.0, 0.5))
    assert one != other
    roles = random_roles("reward")
    np.testing.assert_array_equal(scores(words, roles).scores, scores(words, roles).scores)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (LoraConfig, {"rank": 0}, "LoraConfig.rank must be above 0, not 0"),
        (LoraConfig, {"dropout": 1.0}, r"LoraConfig.dropout must be in \[0, 1\), not 1.0"),
        (SFTConfig, {"learning_rate": -1.0}, "SFTConfig.learning_rate must be above 0"),
        (RewardConfig, {"dropout": -0.1}, "RewardConfig.dropout must be"),
        (RewardConfig, {"margin": -1.0}, "RewardConfig.margin must be 0 or more, not -1.0"),
        (RewardConfig, {"labels": Path("labels.jsonl")}, "RewardConfig.labels must be text, not PosixPath"),
        (RLConfig, {"beta": 1.5}, r"RLConfig.beta must be in \[0, 1\], not 1.5"),
        (RLConfig, {"temperature": 0.0}, "RLConfig.temperature must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**values)


def test_defaults_are_the_papers_where_it_gives_them() -> None:
    """PE-RLHF, A.3: rank 16 for the policy, 4 for the reward model; β 0.05; dropout 0.01 in reward modelling."""
    defaults = TuneConfig()
    assert (defaults.lora.rank, defaults.lora.reward_rank) == (16, 4)
    assert (defaults.rl.beta, defaults.reward.dropout, defaults.rl.kl) == (0.05, 0.01, "return")


def test_a_task_brings_its_own_settings_and_wrong_ones_are_refused() -> None:
    class Tuned(ToyTask):
        tuning = TuneConfig(seed=7)

    class Again(Tuned): ...

    class Wrong(ToyTask):
        tuning = {"seed": 7}  # noqa: RUF012 - wrong on purpose

    assert settings_of(Tuned()).seed == settings_of(Again()).seed == 7
    assert settings_of(ToyTask()) == TuneConfig()
    with pytest.raises(UserError, match=r"Wrong\.tuning must be a TuneConfig, not a dict"):
        settings_of(Wrong())
