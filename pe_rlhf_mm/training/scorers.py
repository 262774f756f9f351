"""What drawn completions are worth to RL: the word of the reward model, or that of an evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pe_rlhf_mm import hosts, registry
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.scoring import score_outcomes
from pe_rlhf_mm.judging.load import load_judge
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.registry import UnknownId
from pe_rlhf_mm.rollout.server import Server
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.jury import ALONE, Jury
from pe_rlhf_mm.types import Completions, Evaluator, Outcome, Prompts, Sample, Score


class Asked(NamedTuple):
    """A batch of prompts, and which of all prompts each of them is."""

    prompts: Prompts
    numbers: Sequence[int]


class Worth(NamedTuple):
    """Rewards of completions, those that are `known`, and what is measured of them."""

    rewards: Float[Array, "B G"]
    known: Bool[Array, "B G"]
    metrics: Mapping[str, Any]

    def of_known(self, completions: Completions) -> Completions:
        """Without the tokens of those of which nothing is known: they teach nothing."""
        return completions._replace(mask=completions.mask & self.known[..., None])


class Scorer(NamedTuple):
    """Who says what completions are worth.

    `roles`: those whose word it takes; they read the completions in the pass in which the policy does. `worth`: (what
    those said, the prompts, the completions) -> what these are worth.
    """

    roles: tuple[str, ...]
    worth: Callable[[Mapping[str, Any], Asked, Completions], Worth]


def learned_by(jury: Jury) -> Scorer:
    """The verdict of reward models."""

    def worth(said: Mapping[str, Any], asked: Asked, completions: Completions) -> Worth:
        rewards = jury.verdict(said)
        metrics = {"reward": rewards.mean(), **{name: x.mean() for name, x in jury.aside(said).items()}}
        return Worth(rewards, completions.mask.any(axis=-1), metrics)

    return Scorer(jury.readers, worth)


LEARNED = learned_by(ALONE)
"""The word of the role `reward`."""


class EvaluatorReward(NamedTuple):
    """An evaluator in the place of a reward model. The part "reward" of a score is the reward, or else its value."""

    id: str
    evaluator: Evaluator

    def scores(self, outcomes: Sequence[Outcome]) -> list[Score]:
        """A score of each outcome. Raises UserError if none has a value: RL would learn nothing, and not stop."""
        scores = score_outcomes(self.id, self.evaluator, outcomes, seed=0)
        if outcomes and all(score.value is None for score in scores):
            raise UserError(
                f"the evaluator {self.id}, which is the reward, scored none of {len(scores)} replies. Of the first "
                f"one it said: {scores[0].why}"
            )
        return [s if s.value is None else replace(s, value=s.parts.get("reward", s.value)) for s in scores]


def evaluator_reward(settings: RLConfig) -> EvaluatorReward | None:
    """The evaluator that is the reward of RL, with its judge; None where the reward is learned or a task's own.

    Raises UserError (UnknownId) for one that does not exist or asks for more than a judge, and where a judge is
    missing, is silent, or would not be asked.
    """
    if settings.reward in ("learned", "task"):
        if settings.judge:
            raise UserError(
                f"rl.judge is given, and rl.reward is {settings.reward}. Give rl.reward an evaluator that asks a judge."
            )
        return None
    try:
        id = registry.evaluators.resolve(settings.reward)
    except UnknownId as error:
        raise UnknownId(f"rl.reward is neither learned nor task: {error}") from None
    asks = registry.evaluators.asks(id)
    if "judge" in asks and not settings.judge:
        raise UserError(f"the evaluator {id} asks a judge, and none is named: --rl.judge REF")
    if settings.judge and "judge" not in asks:
        raise UserError(f"rl.judge is given, and the evaluator {id} asks none: leave it out.")
    registry.evaluators.ready(id, {"judge": settings.judge or None})  # before a judge is loaded
    if "://" in settings.judge:
        hosts.led(Server(settings.judge).refuse_silence)  # SFT may take hours before it is asked
    judge = load_judge(settings.judge, calls=settings.judge_calls) if settings.judge else None
    return EvaluatorReward(id, registry.evaluators.make(id, {"judge": judge}))


def reward_by(evaluator: EvaluatorReward, processor: Processor, samples: Sequence[Sample]) -> Scorer:
    """An evaluator as a scorer of the completions of samples. It alone sees their targets."""

    def worth(said: Mapping[str, Any], asked: Asked, completions: Completions) -> Worth:
        tokens, mask = hosts.fetched(completions)
        outcomes = [
            Outcome(samples[number], [processor.decode(drawn[chosen].tolist())], repeat=repeat)
            for number, *group in zip(asked.numbers, tokens, mask, strict=True)
            for repeat, (drawn, chosen) in enumerate(zip(*group, strict=True))
        ]
        values = hosts.led(lambda: [score.value for score in evaluator.scores(outcomes)])  # a judge is asked once
        known = np.array([value is not None for value in values]).reshape(tokens.shape[:2])
        rewards = np.array([value or 0.0 for value in values], np.float32).reshape(known.shape)
        metrics = {"scored": rewards.sum() / known.sum(), "unscored": 1 - known.mean()}
        return Worth(*by_rows((jnp.asarray(rewards), jnp.asarray(known))), metrics)

    return Scorer((), worth)


def rewarded(evaluator: EvaluatorReward, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Episodes whose last step has the evaluator's reward, and the others none; what it could not score is lost."""
    return [_rewarded(outcome, score) for outcome, score in zip(outcomes, evaluator.scores(outcomes), strict=True)]


def _rewarded(outcome: Outcome, score: Score) -> Outcome:
    rewards = [0.0] * (len(outcome.steps) - 1) + [score.value or 0.0]
    steps = [replace(step, reward=reward) for step, reward in zip(outcome.steps, rewards, strict=True)]
    return replace(outcome, steps=steps, unanswered=score.why if score.value is None else outcome.unanswered)
