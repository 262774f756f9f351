"""Evaluation of a policy on a task: replies, scores, and a table that says how sure it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from pe_rlhf_mm import registry
from pe_rlhf_mm.envs.episode import lost_by
from pe_rlhf_mm.envs.pool import pool_of
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.evaluation.episodes import EpisodeCounts, count_episodes, play_samples
from pe_rlhf_mm.evaluation.intervals import Interval, clustered_mean, or_dash
from pe_rlhf_mm.types import Evaluator, Message, Outcome, Sample, Score, Task

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy

PolicyFunction = Callable[[Sequence[Message]], str]
Tick = Callable[[int, int], None]
CHUNK = 512


@dataclass(frozen=True)
class Metric:
    """One evaluator's verdict on all outcomes. `unscored` outcomes are counted, never averaged."""

    evaluator: str
    value: float
    interval: Interval
    n: int
    unscored: int


@dataclass(frozen=True)
class Evaluation:
    """Outcomes with their scores; `metrics` in the task's order, the headline first."""

    task: str
    outcomes: Sequence[Outcome]
    scores: dict[str, list[Score]]
    metrics: Sequence[Metric]

    @property
    def headline(self) -> Metric:
        return self.metrics[0]

    @property
    def episodes(self) -> EpisodeCounts | None:
        """How the episodes went; None where the task has no environment."""
        return count_episodes(self.outcomes) if any(outcome.steps for outcome in self.outcomes) else None

    def table(self) -> str:
        """Task, evaluator, n (unscored), value and 95 % interval, as text; below it, how episodes went."""
        lines = [f"{'task':<20} {'evaluator':<20} {'n':>14} {'value':>8}   95 % interval"]
        for m in self.metrics:
            n = f"{m.n} ({m.unscored} unscored)" if m.unscored else str(m.n)
            value, interval = or_dash(m.value, ".3f"), m.interval.text(".3f")
            lines.append(f"{self.task:<20} {m.evaluator:<20} {n:>14} {value:>8}   {interval}")
        if self.episodes is not None:
            lines.append(self.episodes.text())
        return "\n".join(lines)


def collect_samples(task: Task, split: str, *, limit: int | None, seed: int = 0) -> list[Sample]:
    """The first `limit` samples of a split. Raises UserError if there is none."""
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, not {limit}")
    try:
        samples = list(itertools.islice(task.samples(split, seed=seed), limit))
    except Exception as error:
        error.add_note(f"(in samples({split!r}) of {type(task).__name__})")
        raise
    if not samples:
        raise UserError(
            f"the split {split!r} of {type(task).__name__} is empty; samples({split!r}) must yield one at least"
        )
    return samples


def summarize(task: str, outcomes: Sequence[Outcome], evaluators: Sequence[str], *, seed: int = 0) -> Evaluation:
    """Scores outcomes with every named evaluator; lost episodes are unscored, whatever the evaluator.

    Raises UserError for an evaluator that breaks the contract.
    """
    scores: dict[str, list[Score]] = {}
    metrics = []
    for reference in evaluators:
        id = registry.evaluators.resolve(reference)
        evaluator: Evaluator = registry.evaluators.make(reference)
        scores[id] = _scores(id, evaluator, outcomes, seed)
        known = [
            (s.value, o.sample.cluster or o.sample.id)
            for s, o in zip(scores[id], outcomes, strict=True)
            if s.value is not None
        ]
        value, interval = clustered_mean([v for v, _ in known], [c for _, c in known], seed=seed)
        metrics.append(Metric(id, value, interval, len(known), len(outcomes) - len(known)))
    return Evaluation(task, outcomes, scores, metrics)


def check_evaluators(task: Task) -> None:
    """Raises UserError (UnknownId, BrokenEntry) unless the task names evaluators that exist."""
    if isinstance(task.evaluators, str) or not task.evaluators:
        raise UserError(f"{type(task).__name__}.evaluators is {task.evaluators!r}; expected a tuple of one id at least")
    for reference in task.evaluators:
        registry.evaluators.factory(reference)


def _scores(id: str, evaluator: Evaluator, outcomes: Sequence[Outcome], seed: int) -> list[Score]:
    whole = [outcome for outcome in outcomes if lost_by(outcome) is None]
    found = iter(_checked(id, evaluator.score(whole, seed=seed), whole))
    losses = [lost_by(outcome) for outcome in outcomes]
    return [next(found) if why is None else Score(None, f"the episode was lost: {why}") for why in losses]


def _checked(id: str, scores: Sequence[Score], outcomes: Sequence[Outcome]) -> list[Score]:
    if not isinstance(scores, Sequence) or len(scores) != len(outcomes):
        found = f"{len(scores)} scores" if isinstance(scores, Sequence) else f"a {type(scores).__name__}"
        raise UserError(f"evaluator {id} gave {found} for {len(outcomes)} outcomes; expected one Score for each")
    for score, outcome in zip(scores, outcomes, strict=True):
        if not isinstance(score, Score) or not _can_be_averaged(score.value):
            raise UserError(
                f"evaluator {id} gave {score!r:.80} for sample {outcome.sample.id}; "
                "expected a Score of a finite number, or of None where nothing can be said"
            )
    return list(scores)


def _can_be_averaged(value: object) -> bool:
    return value is None or (isinstance(value, Real) and math.isfinite(value))


def run_policy(
    policy: Policy | PolicyFunction, samples: Sequence[Sample], *, max_tokens: int, tick: Tick | None = None
) -> list[Outcome]:
    """Greedy replies of a policy, or of a plain function, to single-turn samples."""
    outcomes: list[Outcome] = []
    chunk = CHUNK if hasattr(policy, "generate") else 1
    for start in range(0, len(samples), chunk):
        block = samples[start : start + chunk]
        outcomes += [Outcome(s, [r]) for s, r in zip(block, _replies(policy, block, max_tokens), strict=True)]
        if tick is not None:
            tick(len(outcomes), len(samples))
    return outcomes


def _replies(policy: Policy | PolicyFunction, samples: Sequence[Sample], max_tokens: int) -> Iterable[str]:
    if hasattr(policy, "generate"):
        return [group[0] for group in policy.generate([s.messages for s in samples], max_tokens=max_tokens)]
    replies = []
    for sample in samples:
        try:
            reply = policy(sample.messages)
        except Exception as error:
            error.add_note(f"(the policy was answering sample {sample.id})")
            raise
        if not isinstance(reply, str):
            raise UserError(
                f"the policy answered sample {sample.id} with a {type(reply).__name__}; a string was expected"
            )
        replies.append(reply)
    return replies


def evaluate(
    task: str,
    policy: Policy | PolicyFunction | str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    max_tokens: int = 16,
    seed: int = 0,
    environments: int = 4,
    tick: Tick | None = None,
) -> Evaluation:
    """Evaluates a policy on a task with the task's evaluators; episodes are played where the task has an environment.

    `policy`: a Policy, a plain function from messages to text, a run folder, or the name or folder of a model.
    `environments`: how many are played at once. Raises UnknownId for an unknown task, UserError for an empty split, a
    policy that cannot be used, or if every episode is lost.
    """
    from pe_rlhf_mm.rollout.load import policy_from

    if max_tokens < 1:
        raise OutOfRange(f"max_tokens must be at least 1, not {max_tokens}")
    if seed < 0:
        raise OutOfRange(f"seed must be 0 or more, not {seed}")
    id = registry.tasks.resolve(task)
    instance = registry.tasks.make(task)
    check_evaluators(instance)
    samples = collect_samples(instance, split, limit=limit, seed=seed)
    pool = pool_of(instance, environments)
    if pool is None:
        outcomes = run_policy(policy_from(policy), samples, max_tokens=max_tokens, tick=tick)
    else:
        with pool:
            outcomes = play_samples(policy_from(policy), pool, samples, max_tokens=max_tokens, seed=seed, tick=tick)
    return summarize(id, outcomes, instance.evaluators, seed=seed)
