"""Evaluation of a policy on a task: replies, scores, and a table that says how sure it is."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm import registry
from pe_rlhf_mm.envs.episode import lost_by
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.evaluation.answering import PolicyFunction, answer, facts_of, refuse_equal_tries
from pe_rlhf_mm.evaluation.attempts import Attempt, attempts_at
from pe_rlhf_mm.evaluation.best_of import expected_best, told_of
from pe_rlhf_mm.evaluation.episodes import EpisodeCounts, count_episodes, refuse_all_lost
from pe_rlhf_mm.evaluation.given import Given
from pe_rlhf_mm.evaluation.intervals import Bounds, Interval, clustered_mean, or_dash
from pe_rlhf_mm.evaluation.log import EvalLog, read_log
from pe_rlhf_mm.evaluation.win_rate import WinRate, win_rate
from pe_rlhf_mm.types import Evaluator, Outcome, Sample, Score, Task

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy

SHOWN = 200
"""Characters of why scores are missing."""
NOTHING = Given()
ASKING = {
    "judge": "pe/judge-win-rate",
    "against": "pe/judge-win-rate",
    "reward": "pe/reward-model",
    "anchor": "pe/drift",
}
"""An evaluator that asks for it, of each thing that may be given."""
Tick = Callable[[int, int], None]
"""(how many are finished, of how many)."""


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

    `given`: the names of what evaluators had besides the outcomes. `left`: outcomes that a log does not have yet.
    """

    task: str
    outcomes: Sequence[Outcome] = field(repr=False)
    scores: dict[str, list[Score]] = field(repr=False)
    metrics: Sequence[Metric]
    given: Mapping[str, str] = field(default_factory=dict)
    left: int = 0

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
            lines += [f"{title(id)}: {n} unscored because {why:.{SHOWN}}" for why, n in whys.most_common(1)]
        rates = self.win_rates
        for m in self.metrics:
            if m.parts and m.evaluator not in rates:
                parts = ", ".join(f"{name} {mean:.3f}" for name, mean in m.parts.items())
                lines.append(f"{title(m.evaluator)}: {parts}")
        lines += [f"{title(id)}: {rate.text()}" for id, rate in rates.items()]
        if self.episodes is not None:
            lines.append(self.episodes.text())
        if self.left:
            whole = len(self.outcomes) + self.left
            lines.append(f"unfinished: {len(self.outcomes)} of {whole} outcomes; the command that began it goes on")
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
        scores[id], bounds = _scores(id, evaluator, outcomes, seed), bounds_of(evaluator)
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


def _scores(id: str, evaluator: Evaluator, outcomes: Sequence[Outcome], seed: int) -> list[Score]:
    whole = [outcome for outcome in outcomes if lost_by(outcome) is None]
    found = iter(_checked(id, evaluator.score(whole, seed=seed), whole, bounds_of(evaluator)))
    losses = [lost_by(outcome) for outcome in outcomes]
    return [next(found) if why is None else Score(None, f"the episode was lost: {why}") for why in losses]


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
    return value is None or (isinstance(value, Real) and math.isfinite(value))


def bounds_of(evaluator: Evaluator) -> Bounds:
    """What an evaluator says that its values lie between; None for one that says nothing."""
    found: Bounds = getattr(evaluator, "bounds", None)
    return found


def evaluate(
    task: str,
    policy: Policy | PolicyFunction | str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    repeats: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 16,
    seed: int = 0,
    environments: int = 4,
    evaluators: Sequence[str] = (),
    given: Given = NOTHING,
    out: str | Path | None = None,
    tick: Tick | None = None,
) -> Evaluation:
    """Evaluates a policy on a task; episodes are played where the task has an environment.

    `policy`: a Policy, a plain function from messages to text, a run folder, or the name or folder of a model.
    `repeats`: tries at every sample, for which a Policy draws its replies at a `temperature` (0: the likeliest one).
    `environments`: how many are played at once. `evaluators`: these in place of the task's, and `given`: what they may
    ask for, as `Given(judge=load_judge(..))`. `out`: the folder of a log
    (`evaluation/log.py`); what is finished there already is not done again. Raises UnknownId for an unknown task,
    UserError for an empty split, a policy that cannot be used, an evaluator without what it needs, a folder that holds
    something else, or if every episode is lost.
    """
    from pe_rlhf_mm.rollout.load import policy_from

    for name, number, least in (("max_tokens", max_tokens, 1), ("seed", seed, 0), ("repeats", repeats, 1)):
        if number < least:
            raise OutOfRange(f"{name} must be at least {least}, not {number}")
    id = registry.tasks.resolve(task)
    instance = registry.tasks.make(task)
    offered = given.offered(task=id, split=split)
    by = _chosen(instance, evaluators, offered, known=("policy", "max_tokens"))
    samples = collect_samples(instance, split, limit=limit, seed=seed)
    attempts = attempts_at(samples, repeats, seed=seed)
    facts = {"task": id, "split": split, "seed": seed, "max_tokens": max_tokens, "temperature": temperature}
    facts |= {"samples": len(samples), "repeats": repeats}
    with contextlib.nullcontext() if out is None else EvalLog(Path(out), facts) as log:
        known = {}  # before the log is said to run again: it stays what it is where the task has changed
        if log is not None:
            _refuse_strangers(log, instance, samples, split=split, seed=seed)
            known = log.outcomes(attempts)
        chosen = policy_from(policy)
        refuse_equal_tries(chosen, repeats, temperature)
        _refuse_function(chosen, by)
        if log is not None:
            log.begin(facts_of(chosen))
        ask = partial(
            answer, instance, chosen, environments=environments, max_tokens=max_tokens, temperature=temperature
        )
        outcomes = _outcomes(ask, attempts, known, log, tick)
        offered |= {"policy": chosen, "max_tokens": max_tokens}
        found = replace(summarize(id, outcomes, by, seed=seed, offered=offered), given=given.told())
        if log is not None:
            log.finish(found)
        return found


def _refuse_strangers(log: EvalLog, task: Task, samples: Sequence[Sample], *, split: str, seed: int) -> None:
    """Raises UserError where the task has no more what the log has; this time fewer samples may be asked for."""
    asked = log.asked
    more = asked is None or asked > len(samples)
    known = collect_samples(task, split, limit=asked, seed=seed) if more else samples
    log.refuse_strangers({sample.id for sample in known})


def _outcomes(
    ask: Callable[..., None],
    attempts: Sequence[Attempt],
    known: dict[int, Outcome],
    log: EvalLog | None,
    tick: Tick | None,
) -> list[Outcome]:
    """Those that are known, and the others, which are asked for now. Raises UserError if every episode is lost."""
    left = [number for number in range(len(attempts)) if number not in known]

    def keep(number: int, outcome: Outcome) -> None:
        known[left[number]] = outcome
        if log is not None:
            log.write(outcome, attempts[left[number]].seed)
        if tick is not None:
            tick(len(known), len(attempts))

    ask([attempts[number] for number in left], keep=keep)
    outcomes = [known[number] for number in range(len(attempts))]
    refuse_all_lost(outcomes)
    return outcomes


def _chosen(
    task: Task, evaluators: Sequence[str], offered: Mapping[str, Any], known: Sequence[str] = ()
) -> Sequence[str]:
    """Those named, or the task's. `known`: the names of what there will be besides what is offered.

    Raises as `check_evaluators`, and UserError where none asks for what is offered.
    """
    ready = {**offered, **dict.fromkeys(known, known)}
    if isinstance(evaluators, str):
        raise UserError(f"evaluators={evaluators!r} is a string; expected a list of ids, as [{evaluators!r}]")
    if not evaluators:
        check_evaluators(task, ready)
    for reference in evaluators:
        registry.evaluators.ready(reference, ready)
    chosen = tuple(evaluators) or task.evaluators
    asked = {name for reference in chosen for name in registry.evaluators.asks(reference)}
    for name, thing in offered.items():
        if thing is not None and name not in asked:
            raise UserError(
                f"{name} was given, and none of the evaluators asks for it: {', '.join(chosen)}. Name one that does, "
                f"such as --evaluator {ASKING[name]}."
            )
    return chosen


def _refuse_function(policy: Policy | PolicyFunction, evaluators: Sequence[str]) -> None:
    """Raises UserError for a function where an evaluator reads the probabilities of the policy."""
    for reference in evaluators:
        if "policy" in registry.evaluators.asks(reference) and not hasattr(policy, "generate"):
            raise UserError(
                f"the evaluator {reference} reads probabilities, and a function as policy has none. Name a run folder "
                "or a model as the policy, or leave the evaluator out."
            )


def rescore(
    folder: str | Path,
    evaluators: Sequence[str] = (),
    *,
    given: Given = NOTHING,
) -> Evaluation:
    """Scores a log by the task's evaluators or by those named, and writes the scores in place of those it had.

    `given`: as of `evaluate`. Raises UserError for a folder that is no log, one that is being written to,
    one without a finished sample, and an evaluator without what it needs.
    """
    facts = read_log(Path(folder))
    task = registry.tasks.make(facts["task"])
    offered = given.offered(task=facts["task"], split=facts["split"])
    for reference in () if isinstance(evaluators, str) else evaluators:
        if "policy" in registry.evaluators.asks(reference):
            raise UserError(
                f"the evaluator {reference} asks the policy, and a log has none. The `pe-rlhf eval run` that wrote "
                f"{folder} measures it, with --evaluator {reference}: what is answered is not answered again."
            )
    by = _chosen(task, evaluators, offered)
    with EvalLog(Path(folder), facts) as log:
        samples = collect_samples(task, facts["split"], limit=log.asked, seed=facts["seed"])
        _refuse_strangers(log, task, samples, split=facts["split"], seed=facts["seed"])
        known = log.outcomes(attempts_at(samples, log.tries(), seed=facts["seed"]))
        if not known:
            raise UserError(f"{folder} has no finished sample to score.")
        found = summarize(facts["task"], [known[i] for i in sorted(known)], by, seed=facts["seed"], offered=offered)
        found = replace(found, given=given.told(), left=log.left())
        log.finish(found)
        return found
