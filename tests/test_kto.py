"""KTO: the loss by hand, what stands beside a rated reply, what is learnt of ratings, and the whole job."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import CONFIG, FIRST_WORD, Heard, processor, random_roles

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.roles import fingerprint
from pe_rlhf_mm.algorithms.preferences import kto
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.labels import write_labels
from pe_rlhf_mm.data.processor import EncodedPrompt
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.config import PreferenceConfig
from pe_rlhf_mm.training.judged import training_ratings
from pe_rlhf_mm.training.preferences import beside_strangers, optimize_preferences, ratings_met
from pe_rlhf_mm.training.reward import Judged, Row
from pe_rlhf_mm.types import Completions, Message, Rated, Sample

POLICY, ANCHOR = jnp.array([[-1.0, -3], [-4, -1]]), jnp.array([[-3.0, -4], [-3, -1]])
"""The rated replies have gained 2 and -1 nats, those to other prompts 1 and 0: z is 1/2."""
SMALL = pe.TuneConfig(
    lora=pe.LoraConfig(rank=3, targets=("q", "v")),
    method="kto",
    sft=pe.SFTConfig(steps=2, batch_size=8, learning_rate=1e-3),
    preferences=PreferenceConfig(steps=2, batch_size=8, learning_rate=1e-3, evaluate_every=2),
    rl=pe.RLConfig(max_tokens=4, evaluation_samples=4),
    test_samples=4,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_is_what_it_is_by_hand() -> None:
    """β (r - z) = 0.75 and -0.75; the second reply is wrong, and counts twice."""
    expected = (sigmoid(-0.75) + 2 * sigmoid(-0.75)) / 2
    assert kto(POLICY, ANCHOR, jnp.array([1.0, 0.0]), 0.5, 1.0, 2.0) == pytest.approx(expected)
    half = (0.5 * 1.0 * sigmoid(-0.75) + 0.5 * 2.0 * sigmoid(0.75) + 2 * sigmoid(-0.75)) / 2
    assert kto(POLICY, ANCHOR, jnp.array([0.5, 0.0]), 0.5, 1.0, 2.0) == pytest.approx(half)


def test_a_policy_that_lost_what_others_say_has_gone_nowhere() -> None:
    """z is a divergence, which is never below 0."""
    policy = POLICY.at[:, 1].add(-5)
    expected = (sigmoid(-0.5 * 2) + sigmoid(-0.5)) / 2
    assert kto(policy, ANCHOR, jnp.array([1.0, 0.0]), 0.5, 1.0, 1.0) == pytest.approx(expected)


def test_right_replies_are_lifted_wrong_ones_pushed_and_strangers_left_alone() -> None:
    slope = jax.grad(kto)(POLICY, ANCHOR, jnp.array([1.0, 0.0]), 0.5, 1.0, 2.0)
    each = -0.5 * sigmoid(0.75) * sigmoid(-0.75) / 2
    np.testing.assert_allclose(slope, [[each, 0], [-2 * each, 0]], rtol=1e-5)


def test_what_is_measured() -> None:
    found = ratings_met(POLICY - ANCHOR, jnp.array([1.0, 0.0]))
    assert {name: float(x) for name, x in found.items()} == {"accuracy": 1, "margin": 3, "better": 2, "worse": -1}
    assert float(ratings_met(POLICY - ANCHOR, jnp.array([0.0, 0.0]))["accuracy"]) == 0.5
    assert float(ratings_met(jnp.array([[0.3, 0.5]]), jnp.array([1.0]))["accuracy"]) == 0  # less than strangers gained


# --- examples -----------------------------------------------------------------------------------------------------


def rated(count: int) -> list[Judged]:
    return [Judged((Row(EncodedPrompt([i], ()), [[100 + i]]),), [float(i % 2)]) for i in range(count)]


def test_beside_every_reply_stands_one_to_another_prompt() -> None:
    found = beside_strangers(rated(9), seed=3)
    strangers = []
    for i, example in enumerate(found):
        ((prompt, (own, strange)),) = example.rows
        assert (prompt.tokens, own, example.labels) == ([i], [100 + i], [float(i % 2), 0.5])
        assert strange != own
        strangers += strange
    assert sorted(strangers) == list(range(100, 109))
    assert [e.rows for e in beside_strangers(rated(9), seed=3)] == [e.rows for e in found]
    assert [e.rows for e in beside_strangers(rated(9), seed=4)] != [e.rows for e in found]
    with pytest.raises(UserError, match="there is one rating only"):
        beside_strangers(rated(1), seed=0)


class Marked(ToyTask):
    """The toy task's pairs are there too, and would be twice as many."""

    def ratings(self, split: str, *, seed: int = 0) -> Iterator[Rated]:
        for number, sample in enumerate(self.samples(split)):
            yield Rated(sample.messages, sample.target if number % 3 else "no idea", float(bool(number % 3)))


def test_ratings_are_those_of_the_task_and_of_pairs_each_reply(tmp_path: Path) -> None:
    settings = PreferenceConfig()
    own = training_ratings(Marked(), settings, seed=0)
    assert own == list(Marked().ratings("train"))
    of_pairs = training_ratings(ToyTask(), settings, seed=0)
    assert [(r.reply, r.label) for r in of_pairs[:2]] == [("red", 1.0), (of_pairs[1].reply, 0.0)]
    assert len(of_pairs) == 2 * ToyTask.SIZES["train"]
    write_labels(tmp_path / "labels.jsonl", [Rated([Message("user", "?")], "a", 0.25)])
    (kept,) = training_ratings(Marked(), PreferenceConfig(labels=str(tmp_path / "labels.jsonl")), seed=0)
    assert (kept.reply, kept.label) == ("a", 0.25)


# --- training -----------------------------------------------------------------------------------------------------


def test_a_policy_learns_what_is_right_and_what_is_wrong() -> None:
    """Of two replies to each prompt; only the policy moves."""
    words, right, wrong = processor(), FIRST_WORD + 20, FIRST_WORD + 21
    prompts = [EncodedPrompt([FIRST_WORD + i, FIRST_WORD + 7], ()) for i in range(8)]
    judged = [Judged((Row(p, [[r]]),), [y]) for p in prompts for r, y in ((right, 1.0), (wrong, 0.0))]
    settings, before, heard = PreferenceConfig(steps=40, batch_size=8, learning_rate=0.02), random_roles("sft"), Heard()
    gallery = Gallery(CONFIG)
    after = optimize_preferences(before, words, gallery, judged, "kto", settings, observer=heard)
    batch = (
        words.prompts(prompts, gallery, length=2),
        Completions(*(x for x in words.completions([[[right], [wrong]]] * 8, length=1))),
    )

    def likely(role: str) -> np.ndarray:
        found = forward.policy(CONFIG, after.weights(role), *batch).logprobs
        return np.asarray(found)[..., 0].mean(axis=0)

    gained = likely("policy") - likely("anchor")
    assert gained[0] > 0.5
    assert gained[1] < -0.5
    assert heard.steps[-1]["accuracy"] == 1
    assert fingerprint(after.pick("sft")) == fingerprint(before.pick("sft"))


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_whole_job(mode: str, tmp_path: Path) -> None:
    config = replace(SMALL, mode=mode)  # type: ignore[arg-type]
    summary = pe.tune(f"{__name__}:Marked", out=tmp_path / "run", config=config, quiet=True)
    assert summary["method"] == "kto"
    assert summary["reward_model"] is None
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] == "preferences" and "loss" in line]
    assert steps[0]["loss"] == pytest.approx(0.5)  # knowing nothing
    assert "after KTO" in (tmp_path / "run/report.md").read_text()


def test_a_task_with_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    class Nothing:
        evaluators: Sequence[str] = ("pe/exact-match",)

        def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
            return ToyTask().samples(split)

        def environment(self) -> None: ...

        def solve(self, sample: Sample) -> Sequence[str]:
            return [sample.target]

    with pytest.raises(
        UserError,
        match=r"no ratings\(split, seed\) and no preferences\(split, seed\), and the method kto learns from nothing",
    ):
        training_ratings(Nothing(), PreferenceConfig(), seed=0)
