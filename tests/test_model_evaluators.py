"""What models say of replies: likelihoods, drift, learned rewards, and how good a reward model is on labels."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from models import slot_of

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import lora
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.errors import PromptTooLong, UserError
from pe_rlhf_mm.evaluation.calibration import calibration, fit_scale, sigmoid
from pe_rlhf_mm.evaluation.given import Given
from pe_rlhf_mm.registry import evaluators
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.training.likelihood import likelihoods
from pe_rlhf_mm.training.reward import Scored
from pe_rlhf_mm.training.reward_accuracy import evaluate_reward, reward_calibration
from pe_rlhf_mm.types import Message, Outcome, Reply, Sample, Step

ASKED = [Message("user", "What is it?")]


@functools.cache
def anchor() -> Policy:
    return pe.load_policy("tiny-vlm")


@functools.cache
def moved() -> Policy:
    """tiny-vlm with an adapter of random numbers."""
    model = pe.load_model("tiny-vlm")
    return Policy(model.processor, Weights(model.state, lora.only(slot_of(model.config), 0.1)), "moved")


def outcome(*replies: str, steps: Sequence[Step] = (), id: str = "s") -> Outcome:
    return Outcome(Sample(id, ASKED), replies, steps)


# --- likelihoods and drift --------------------------------------------------------------------------------------


def test_a_likelihood_is_that_of_the_models_own_logits() -> None:
    """Independent of rows, blocks and padding: the whole sequence through `Model.logits`, token by token."""
    model = pe.load_model("tiny-vlm")
    asked, replies = [ASKED, [Message("user", "Say a longer thing, please.")]], ["a red square", "no"]
    found = likelihoods(anchor(), asked, replies)
    for messages, reply, likelihood in zip(asked, replies, found, strict=True):
        (prompt,) = model.processor.encode([messages], pe.data.images.Gallery(model.config))
        (completion,) = model.processor.encode_replies([reply])
        logits = np.array(model.logits(np.array([[*prompt.tokens, *completion]])))[0].astype(float)
        logits[:, list(model.config.forbidden_ids)] = -np.inf
        logprobs = jax.nn.log_softmax(logits, axis=-1)[len(prompt.tokens) - 1 : -1]
        own = logprobs[np.arange(len(completion)), completion]
        entropies = -np.sum(np.where(np.isfinite(logprobs), np.exp(logprobs) * logprobs, 0), axis=-1)
        assert likelihood.tokens == len(completion)
        np.testing.assert_allclose(likelihood.logprob, own.sum(), rtol=1e-4)
        np.testing.assert_allclose(likelihood.entropy, entropies.mean(), rtol=1e-4)


def drift(policy: Policy, *outcomes: Outcome, max_tokens: int = 4) -> list[pe.Score]:
    offered = {"policy": policy, "anchor": anchor(), "max_tokens": max_tokens}
    return evaluators.make("pe/drift", offered).score(outcomes)


def test_drift_is_the_log_ratio_and_nothing_from_oneself() -> None:
    outcomes = [outcome("a red square"), outcome("no")]
    assert [score.value for score in drift(anchor(), *outcomes)] == [0, 0]
    conversations, replies = [ASKED, ASKED], ["a red square", "no"]
    ours, theirs = (likelihoods(policy, conversations, replies) for policy in (moved(), anchor()))
    expected = [a.logprob - b.logprob for a, b in zip(ours, theirs, strict=True)]
    found = drift(moved(), *outcomes)
    assert min(abs(value) for value in expected) > 0.01
    np.testing.assert_allclose([score.value for score in found], expected, rtol=1e-5)
    assert [score.parts["tokens"] for score in found] == [own.tokens for own in ours]
    assert [score.parts["finished"] for score in found] == [float(own.tokens <= 4) for own in ours]
    assert [score.parts["finished"] for score in drift(moved(), *outcomes, max_tokens=99)] == [1, 1]


def test_drift_of_an_episode_is_that_of_its_turns() -> None:
    """The second reply answers what was observed after the first one."""
    seen = [Step([]), Step([Message("user", "The door is open now.")]), Step([], terminated=True)]
    second = [*ASKED, Message("assistant", "open it"), *seen[1].observation]
    turns = ([ASKED, second], ["open it", "go in"])
    ours, theirs = (likelihoods(policy, *turns) for policy in (moved(), anchor()))
    (found,) = drift(moved(), outcome("open it", "go in", steps=seen))
    expected = sum(a.logprob - b.logprob for a, b in zip(ours, theirs, strict=True))
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)
    assert found.parts["tokens"] == sum(own.tokens for own in ours)
    entropy = sum(own.entropy * own.tokens for own in ours) / found.parts["tokens"]
    np.testing.assert_allclose(found.parts["entropy"], entropy, rtol=1e-5)


def test_what_a_model_cannot_read_is_not_scored_and_the_others_are() -> None:
    found = drift(moved(), outcome("no"), outcome("x " * 100_000), outcome(), outcome("yes"))
    assert [score.value is None for score in found] == [False, True, True, False]
    assert "the model cannot read it: reply 0 ('x x" in found[1].why
    assert found[2].why == "there is no reply"
    assert found[0].value == drift(moved(), outcome("no"))[0].value


# --- learned rewards --------------------------------------------------------------------------------------------


class Lengths:
    """A reward model that counts letters, and reads no question."""

    name = "lengths"

    def __init__(self) -> None:
        self.heard: list[Sequence[Message]] = []

    def score(self, conversations: Sequence[Sequence[Message]], replies: Sequence[Reply]) -> list[float]:
        if any("?!" in reply for reply in replies):
            raise PromptTooLong("too long")
        self.heard += conversations
        return [float(len(reply)) for reply in replies]


def test_the_learned_reward_is_that_of_the_last_reply_to_all_before_it() -> None:
    rewards = Lengths()
    seen = [Step([]), Step([Message("user", "Go on.")]), Step([], terminated=True)]
    evaluator = evaluators.make("pe/reward-model", {"reward": rewards})
    found = evaluator.score([outcome("abc"), outcome("a", "bcdef", steps=seen), outcome("?!"), outcome()])
    assert [score.value for score in found] == [3, 5, None, None]
    assert [*rewards.heard[1]] == [*ASKED, Message("assistant", "a"), Message("user", "Go on.")]


def test_what_is_no_reward_model_is_refused_before_anything_is_asked() -> None:
    asked: list[object] = []
    for given, why in (
        (Given(reward="runs/mine"), "reward='runs/mine' is no reward; expected pe.load_reward"),
        (Given(anchor=len), "anchor=<built-in function len> tells no probabilities"),
        (Given(), "pe/reward-model needs a reward, and none was given: --reward"),
    ):
        with pytest.raises(UserError, match=why):
            pe.evaluate("pe/easy-vqa", policy=asked.append, limit=2, evaluators=["pe/reward-model"], given=given)
    with pytest.raises(UserError, match="pe/drift needs an anchor"):
        pe.evaluate("pe/easy-vqa", policy=asked.append, limit=2, evaluators=["pe/drift"])
    assert asked == []


# --- calibration ------------------------------------------------------------------------------------------------


def test_a_function_has_no_drift_and_is_asked_nothing() -> None:
    asked: list[object] = []

    def says_yes(messages: object) -> str:
        asked.append(messages)
        return "yes"

    with pytest.raises(
        UserError, match=r"pe/drift reads probabilities, and a function or a server as policy tells none\. Name a run"
    ):
        pe.evaluate("pe/easy-vqa", says_yes, limit=2, evaluators=["pe/drift"], given=Given(anchor=anchor()))
    assert asked == []


def test_calibration_by_hand() -> None:
    """0.62 and 0.68 came true once: 0.65 said, 0.5 seen. 0.9 and 1.0 share the last bin, and came true: 0.05 off."""
    found = calibration(np.array([0.62, 0.9, 0.68, 1.0]), np.array([1.0, 1.0, 0.0, 1.0]))
    assert found.n == 4
    assert [b[:3] for b in found.bins] == [(0.6, 0.7, 2), (0.9, 1.0, 2)]
    np.testing.assert_allclose([b[3:] for b in found.bins], [(0.65, 0.5), (0.95, 1.0)])
    np.testing.assert_allclose(found.error, (2 * 0.15 + 2 * 0.05) / 4)


def test_a_scale_that_labels_were_drawn_with_is_found_again() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=40_000)
    for scale in (0.5, 3.0):
        labels = (rng.random(len(scores)) < sigmoid(scale * scores)).astype(float)
        np.testing.assert_allclose(fit_scale(scores, labels), scale, rtol=0.05)
    assert fit_scale(scores, (scores < 0).astype(float)) == 0, "who is always wrong is no better than a guess"
    assert fit_scale(scores, (scores > 0).astype(float)) > 99
    np.testing.assert_array_equal(sigmoid(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])


def test_a_pair_is_predicted_by_the_reply_that_is_taken_for_the_better_one() -> None:
    """Scale by hand: 3 of 4 pairs apart by 1 are ranked right, so σ(k) = 0.75; of the tested, 1 of 2."""
    held_out = Scored(np.array([[1.0, 0], [2, 1], [5, 4], [0, 1]]), np.array([[1.0, 0]] * 4))
    scored = Scored(np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 0]] * 2))
    found = reward_calibration(scored, held_out)
    np.testing.assert_allclose(found["scale"], np.log(3), rtol=1e-6)
    (only,) = found["bins"]
    np.testing.assert_allclose((only["predicted"], only["observed"], only["n"]), (0.75, 0.5, 2))
    np.testing.assert_allclose(found["error"], 0.25)


# --- the whole way ----------------------------------------------------------------------------------------------

SMALL = pe.TuneConfig(
    lora=pe.LoraConfig(rank=2),
    sft=pe.SFTConfig(steps=2, batch_size=4, demonstrations=8),
    reward=pe.RewardConfig(steps=4, batch_size=4, pairs=16, validation_pairs=8, validate_every=2),
    rl=pe.RLConfig(steps=2, prompts=4, evaluation_samples=4, max_tokens=4),
)


class Confident(ToyTask):
    """With a domain, and without labels of one split."""

    def preferences(self, split: str, *, seed: int = 0):  # type: ignore[no-untyped-def]
        if split == "hidden":
            return
        for number, pair in enumerate(super().preferences(split, seed=seed)):
            yield replace(pair, metadata={"domain": ("warm", "cold")[number % 2]})


TASK = f"{__name__}:Confident"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "run"
    pe.tune(TASK, out=folder, config=SMALL, quiet=True)
    return folder


def test_the_run_tells_what_the_test_of_its_reward_model_finds(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = json.loads((tuned / "summary.json").read_text())["reward_model"]
    found = evaluate_reward(TASK, pe.load_run_reward(tuned))["pairs"]
    assert (found["accuracy"], found["n"]) == (written["accuracy"], 16)
    np.testing.assert_allclose(found["calibration"]["error"], written["calibration"]["error"], rtol=1e-4)
    assert sum(b["n"] for b in found["calibration"]["bins"]) == 16
    assert run(["eval", "reward", TASK, "--reward", str(tuned)]) == 0
    table = capsys.readouterr().out
    assert f"pairs                                      16     {found['accuracy']:.3f}" in table
    assert "pairs, domain cold" in table
    assert "points off on average" in table


def test_a_reward_model_is_not_tested_on_nothing(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "reward", TASK, "--reward", str(tuned), "--split", "hidden"]) == 2
    assert "has no pairs of the split 'hidden'" in capsys.readouterr().err
    assert run(["eval", "reward", "canvas/press", "--reward", "tiny-vlm"]) == 2
    assert "tiny-vlm is no run folder" in capsys.readouterr().err


def test_a_role_of_a_run_is_named_behind_a_colon(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--policy", f"{tuned}:sft", "--anchor", f"{tuned}:sft", "--reward", str(tuned), "--limit", "4"]
    by = ["--evaluator", "pe/drift", "--evaluator", "pe/reward-model", "--json"]
    assert run(["eval", "run", TASK, *named, *by]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"][0]["value"] == 0
    assert (told["anchor"], told["reward"]) == (f"{tuned}:sft", f"{tuned}:reward")
    assert run(["eval", "run", TASK, "--policy", f"{tuned}:nobody", "--limit", "4"]) == 2
    assert "has no role 'nobody'; saved so far: policy, reward, sft, value" in capsys.readouterr().err
