"""Evaluation of a policy on a task: replies, scores, and a table that says how sure it is."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from pe_rlhf_mm import registry
from pe_rlhf_mm.envs.episode import lost_by
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.evaluation.answering import PolicyFunction, answer, facts_of
from pe_rlhf_mm.evaluation.episodes import EpisodeCounts, count_episodes, refuse_all_lost
from pe_rlhf_mm.evaluation.intervals import Interval, clustered_mean, or_dash
from pe_rlhf_mm.evaluation.log import EvalLog, read_log
from pe_rlhf_mm.types import Evaluator, Outcome, Sample, Score, Task

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy

Tick = Callable[[int, int], None]
"""(how many are finished, of how many)."""


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


def evaluate(
    task: str,
    policy: Policy | PolicyFunction | str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    max_tokens: int = 16,
    seed: int = 0,
    environments: int = 4,
    evaluators: Sequence[str] = (),
    out: str | Path | None = None,
    tick: Tick | None = None,
) -> Evaluation:
    """Evaluates a policy on a task; episodes are played where the task has an environment.

    `policy`: a Policy, a plain function from messages to text, a run folder, or the name or folder of a model.
    `environments`: how many are played at once. `evaluators`: these in place of the task's. `out`: the folder of a log
    (`evaluation/log.py`); what is finished there already is not done again. Raises UnknownId for an unknown task,
    UserError for an empty split, a policy that cannot be used, a folder that holds something else, or if every episode
    is lost.
    """
    from pe_rlhf_mm.rollout.load import policy_from

    if max_tokens < 1:
        raise OutOfRange(f"max_tokens must be at least 1, not {max_tokens}")
    if seed < 0:
        raise OutOfRange(f"seed must be 0 or more, not {seed}")
    id = registry.tasks.resolve(task)
    instance = registry.tasks.make(task)
    by = _chosen(instance, evaluators)
    samples = collect_samples(instance, split, limit=limit, seed=seed)
    facts = {"task": id, "split": split, "seed": seed, "max_tokens": max_tokens}
    with contextlib.nullcontext() if out is None else EvalLog(Path(out), facts) as log:
        chosen = policy_from(policy)
        if log is not None:
            log.begin(facts_of(chosen))
        known = {} if log is None else log.outcomes(samples)
        left = [number for number in range(len(samples)) if number not in known]

        def keep(number: int, outcome: Outcome) -> None:
            known[left[number]] = outcome
            if log is not None:
                log.write(outcome, seed + left[number])
            if tick is not None:
                tick(len(known), len(samples))

        asked, seeds = [samples[number] for number in left], [seed + number for number in left]
        answer(instance, chosen, asked, seeds, environments=environments, max_tokens=max_tokens, keep=keep)
        outcomes = [known[number] for number in range(len(samples))]
        refuse_all_lost(outcomes)
        found = summarize(id, outcomes, by, seed=seed)
        if log is not None:
            log.finish(found)
        return found


def _chosen(task: Task, evaluators: Sequence[str]) -> Sequence[str]:
    """Those named, or the task's. Raises as `check_evaluators`."""
    if not evaluators:
        check_evaluators(task)
    for reference in evaluators:
        registry.evaluators.factory(reference)
    return tuple(evaluators) or task.evaluators


def rescore(folder: str | Path, evaluators: Sequence[str] = ()) -> Evaluation:
    """Scores a log by the task's evaluators or by those named, and writes the scores in place of those it had.

    Raises UserError for a folder that is no log, one that is being written to, and one without a finished sample.
    """
    facts = read_log(Path(folder))
    task = registry.tasks.make(facts["task"])
    by = _chosen(task, evaluators)
    with EvalLog(Path(folder), facts) as log:
        samples = collect_samples(task, facts["split"], limit=None, seed=facts["seed"])
        known = log.outcomes(samples)
        if not known:
            raise UserError(f"{folder} has no finished sample to score.")
        found = summarize(facts["task"], [known[i] for i in sorted(known)], by, seed=facts["seed"])
        log.finish(found)
        return found
