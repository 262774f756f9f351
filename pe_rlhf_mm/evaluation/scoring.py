"""What evaluators say of outcomes: a score of each, and a table that says how sure the mean is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from statistics import fmean
from typing import Any

from pe_rlhf_mm import registry
from pe_rlhf_mm.envs.episode import lost_by
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.best_of import expected_best, told_of
from pe_rlhf_mm.evaluation.episodes import EpisodeCounts, count_episodes
from pe_rlhf_mm.evaluation.intervals import Bounds, Interval, clustered_mean, or_dash
from pe_rlhf_mm.evaluation.win_rate import WinRate, win_rate
from pe_rlhf_mm.types import Evaluator, Outcome, Score, Task

SHOWN, REASONS = 200, 3
"""Characters of why scores are missing, and reasons that are told."""


@dataclass(frozen=True)
class Metric:
    """One evaluator's verdict on all outcomes. `unscored` outcomes are counted, never averaged.

    `parts`: the means of what else an evaluator tells of an outcome. `clusters`: how many the n scored ones lie in.
    `bounds`: what the values lie between, if the evaluator says so. Of samples that were tried several times there is a
    metric for the best of k tries too, over samples.
    """

    evaluator: str
    value: float
    interval: Interval
    n: int
    unscored: int
    parts: Mapping[str, float] = field(default_factory=dict)
    clusters: int = 0
    bounds: Bounds = None


@dataclass(frozen=True)
class Evaluation:
    """Outcomes with their scores; `metrics` in the task's order, the headline first.

    `given`: the names of what evaluators had besides the outcomes. `left`: outcomes that a log does not have yet;
    `unasked`: those that it has besides, since fewer were asked for this time.
    """

    task: str
    outcomes: Sequence[Outcome] = field(repr=False)
    scores: dict[str, list[Score]] = field(repr=False)
    metrics: Sequence[Metric]
    given: Mapping[str, str] = field(default_factory=dict)
    left: int = 0
    unasked: int = 0

    @property
    def headline(self) -> Metric:
        return self.metrics[0]

    @property
    def episodes(self) -> EpisodeCounts | None:
        """How the episodes went; None where the task has no environment."""
        return count_episodes(self.outcomes) if any(outcome.steps for outcome in self.outcomes) else None

    @property
    def win_rates(self) -> dict[str, WinRate]:
        """Of the evaluators that compare a reply with another one."""
        clusters = [outcome.sample.cluster or outcome.sample.id for outcome in self.outcomes]
        found = {id: win_rate(scores, clusters) for id, scores in self.scores.items()}
        return {id: rate for id, rate in found.items() if rate is not None}

    def table(self) -> str:
        """Task, evaluator, n (unscored), clusters, value and 95 % interval, as text; below it, why scores are missing,
        means of parts, wins, and how episodes went."""
        title = registry.title
        first, second = max(20, len(title(self.task))), max(20, *(len(title(m.evaluator)) for m in self.metrics))
        head = f"{'task':<{first}} {'evaluator':<{second}} {'n':>14} {'clusters':>8} {'value':>8}   95 % interval"
        lines = [head]
        for m in self.metrics:
            n = f"{m.n} ({m.unscored} unscored)" if m.unscored else str(m.n)
            value, interval = or_dash(m.value, ".3f"), m.interval.text(".3f")
            named = f"{title(self.task):<{first}} {title(m.evaluator):<{second}}"
            lines.append(f"{named} {n:>14} {m.clusters:>8} {value:>8}   {interval}")
        for id, scores in self.scores.items():
            whys = Counter(score.why for score in scores if score.value is None)
            lines += [f"{title(id)}: {n} unscored because {why:.{SHOWN}}" for why, n in whys.most_common(REASONS)]
        rates = self.win_rates
        for m in self.metrics:
            if m.parts and m.evaluator not in rates:
                parts = ", ".join(f"{name} {mean:.3f}" for name, mean in m.parts.items())
                lines.append(f"{title(m.evaluator)}: {parts}")
        lines += [f"{title(id)}: {rate.text()}" for id, rate in rates.items()]
        if self.episodes is not None:
            lines.append(self.episodes.text())
        if silent := sum(outcome.unanswered is not None for outcome in self.outcomes):
            lines.append(f"{silent} outcomes without an answer are in no log: the same command asks again")
        if self.left:
            whole = len(self.outcomes) + self.left
            lines.append(f"unfinished: {len(self.outcomes)} of {whole} outcomes; the command that began it goes on")
        if self.unasked:
            lines.append(
                f"the log has {self.unasked} more outcomes, which were not asked for this time and have no scores now; "
                "eval score scores them all"
            )
        return "\n".join(lines)


def summarize(
    task: str,
    outcomes: Sequence[Outcome],
    evaluators: Sequence[str],
    *,
    seed: int = 0,
    offered: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Scores outcomes with every named evaluator; lost episodes are unscored, whatever the evaluator.

    `offered`: what evaluators may ask for by name, as a judge. Raises UserError for one that breaks the contract.
    """
    scores: dict[str, list[Score]] = {}
    metrics = []
    for reference in evaluators:
        id = registry.evaluators.resolve(reference)
        evaluator: Evaluator = registry.evaluators.make(reference, offered)
        scores[id], bounds = score_outcomes(id, evaluator, outcomes, seed=seed), bounds_of(evaluator)
        known = [
            (s.value, o.sample.cluster or o.sample.id)
            for s, o in zip(scores[id], outcomes, strict=True)
            if s.value is not None
        ]
        values, clusters = [value for value, _ in known], [cluster for _, cluster in known]
        value, interval = clustered_mean(values, clusters, bounds=bounds, seed=seed)
        parts = _means([score.parts for score in scores[id] if score.value is not None])
        unscored = len(outcomes) - len(known)
        metrics += [Metric(id, value, interval, len(known), unscored, parts, len(set(clusters)), bounds)]
        if getattr(evaluator, "more_is_better", True):
            metrics += _bests(id, outcomes, scores[id], bounds, seed=seed)
    return Evaluation(task, outcomes, scores, metrics)


def _means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each part, over the scores that have it."""
    names = dict.fromkeys(name for own in parts for name in own)
    return {name: fmean(own[name] for own in parts if name in own) for name in names}


def _bests(id: str, outcomes: Sequence[Outcome], scores: Sequence[Score], bounds: Bounds, *, seed: int) -> list[Metric]:
    """The best of k tries; a sample of which fewer could be scored is unscored."""
    told = told_of(1 + max((outcome.repeat for outcome in outcomes), default=0))
    if not told:
        return []
    clusters = {outcome.sample.id: outcome.sample.cluster or outcome.sample.id for outcome in outcomes}
    values: dict[str, list[float]] = {sample: [] for sample in clusters}
    for outcome, score in zip(outcomes, scores, strict=True):
        if score.value is not None:
            values[outcome.sample.id].append(score.value)
    found = []
    for k in told:
        best = {sample: expected_best(tries, k) for sample, tries in values.items() if len(tries) >= k}
        own = [clusters[sample] for sample in best]
        value, interval = clustered_mean([*best.values()], own, bounds=bounds, seed=seed)
        unscored = len(values) - len(best)
        found.append(
            Metric(f"{id} best of {k}", value, interval, len(best), unscored, clusters=len(set(own)), bounds=bounds)
        )
    return found


def check_evaluators(task: Task, offered: Mapping[str, Any] | None = None) -> None:
    """Raises UserError (UnknownId, BrokenEntry) unless the task names evaluators that exist and have what they need."""
    if isinstance(task.evaluators, str) or not task.evaluators:
        raise UserError(f"{type(task).__name__}.evaluators is {task.evaluators!r}; expected a tuple of one id at least")
    for reference in task.evaluators:
        registry.evaluators.ready(reference, offered)


def score_outcomes(id: str, evaluator: Evaluator, outcomes: Sequence[Outcome], *, seed: int) -> list[Score]:
    """A score of each outcome: of None where it is lost or has no answer, and otherwise what the evaluator says.

    Raises UserError for an evaluator that breaks the contract.
    """
    whole = [outcome for outcome in outcomes if lost_by(outcome) is None]
    bounds = bounds_of(evaluator)
    try:
        given = evaluator.score(whole, seed=seed)
    except Exception as error:
        error.add_note(f"(the evaluator {id} was scoring {len(whole)} outcomes; what is answered is kept in a log)")
        raise
    found = iter(_checked(id, given, whole, bounds))
    return [next(found) if (why := _missed(outcome)) is None else Score(None, why) for outcome in outcomes]


def _missed(outcome: Outcome) -> str | None:
    """Why there is nothing to score, if so."""
    why = lost_by(outcome)
    return why if why is None else f"the episode was lost: {why}" if outcome.steps else f"no answer: {why}"


def _checked(id: str, scores: Sequence[Score], outcomes: Sequence[Outcome], bounds: Bounds) -> list[Score]:
    if not isinstance(scores, Sequence) or len(scores) != len(outcomes):
        found = f"{len(scores)} scores" if isinstance(scores, Sequence) else f"a {type(scores).__name__}"
        raise UserError(f"evaluator {id} gave {found} for {len(outcomes)} outcomes; expected one Score for each")
    for score, outcome in zip(scores, outcomes, strict=True):
        if not isinstance(score, Score) or not _can_be_averaged(score.value):
            raise UserError(
                f"evaluator {id} gave {score!r:.80} for sample {outcome.sample.id}; "
                "expected a Score of a finite number, or of None where nothing can be said"
            )
        if bounds is not None and score.value is not None and not bounds[0] <= score.value <= bounds[1]:
            raise UserError(
                f"evaluator {id} gave {score.value} for sample {outcome.sample.id}, and says that its values lie "
                f"between {bounds[0]:g} and {bounds[1]:g}; mend its bounds, or the value"
            )
    return list(scores)


def _can_be_averaged(value: object) -> bool:
    return value is None or _is_finite(value)


def bounds_of(evaluator: Evaluator) -> Bounds:
    """What an evaluator says that its values lie between; None for one that says nothing.

    Raises UserError for bounds that are no two finite numbers, the lower one first.
    """
    found: Any = getattr(evaluator, "bounds", None)
    if found is None:
        return None
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(_is_finite(end) for end in found)):
        raise UserError(f"{type(evaluator).__name__}.bounds is {found!r:.80}; expected two finite numbers, as (0, 1)")
    low, high = found
    if not low < high:
        raise UserError(f"{type(evaluator).__name__}.bounds is {found!r:.80}; expected the lower one first, as (0, 1)")
    return float(low), float(high)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
