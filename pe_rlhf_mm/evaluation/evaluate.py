"""Evaluation of a policy on a task: what it says to the samples, now and in a log, and how that is scored."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm import registry
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.evaluation.answering import PolicyFunction, answer, facts_of, refuse_equal_tries
from pe_rlhf_mm.evaluation.attempts import Attempt, attempts_at
from pe_rlhf_mm.evaluation.episodes import refuse_all_lost
from pe_rlhf_mm.evaluation.given import Given
from pe_rlhf_mm.evaluation.log import EvalLog, read_log
from pe_rlhf_mm.evaluation.scoring import Evaluation, check_evaluators, summarize
from pe_rlhf_mm.types import Outcome, Sample, Task

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.endpoint import EndpointPolicy
    from pe_rlhf_mm.rollout.policy import Policy

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


def evaluate(
    task: str,
    policy: Policy | EndpointPolicy | PolicyFunction | str | Path,
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

    `policy`: a Policy, a plain function from messages to text, a run folder, the name or folder of a model, or the
    address of one that a server offers, `http://host:port/v1#model`. `repeats`: tries at every sample, for which a
    Policy draws its replies at a `temperature` (0: the likeliest one). `environments`: how many are played at once.
    `evaluators`: these in place of the task's, and `given`: what they may ask for, as `Given(judge=load_judge(..))`.
    `out`: the folder of a log (`evaluation/log.py`); what is finished there already is not done again. Raises UnknownId
    for an unknown task, UserError for an empty split, a policy that cannot be used, an evaluator without what it needs,
    a folder that holds something else, or if every episode is lost.
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
        known, unasked = {}, 0  # before the log is said to run again: it stays what it is where the task has changed
        if log is not None:
            _refuse_strangers(log, instance, samples, split=split, seed=seed)
            known = log.outcomes(attempts)
            unasked = log.finished - len(known)
        chosen = policy_from(policy)
        refuse_equal_tries(chosen, repeats, temperature)
        _refuse_mute(chosen, by)
        if log is not None:
            log.begin(facts_of(chosen))
        ask = partial(
            answer, instance, chosen, environments=environments, max_tokens=max_tokens, temperature=temperature
        )
        outcomes = _outcomes(ask, attempts, known, log, tick)
        offered |= {"policy": chosen, "max_tokens": max_tokens}
        found = replace(summarize(id, outcomes, by, seed=seed, offered=offered), given=given.told())
        if log is not None:
            found = replace(found, unasked=unasked)
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
        if log is not None and outcome.unanswered is None:  # the same command asks again
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


def _refuse_mute(policy: Policy | EndpointPolicy | PolicyFunction, evaluators: Sequence[str]) -> None:
    """Raises UserError for a policy without weights where an evaluator reads its probabilities."""
    for reference in evaluators:
        if "policy" in registry.evaluators.asks(reference) and not hasattr(policy, "weights"):
            raise UserError(
                f"the evaluator {reference} reads probabilities, and a function or a server as policy tells none. Name "
                "a run folder or a model as the policy, or leave the evaluator out."
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
        outcomes = finished_outcomes(log, task, facts)
        found = summarize(facts["task"], outcomes, by, seed=facts["seed"], offered=offered)
        found = replace(found, given=given.told(), left=log.left())
        log.finish(found)
        return found


def finished_outcomes(log: EvalLog, task: Task, facts: Mapping[str, Any]) -> list[Outcome]:
    """What a log of a task holds: all samples once, then all of them again, and so on.

    `facts`: those of `read_log`. Raises UserError where the task has changed, and where nothing is finished.
    """
    samples = collect_samples(task, facts["split"], limit=log.asked, seed=facts["seed"])
    _refuse_strangers(log, task, samples, split=facts["split"], seed=facts["seed"])
    known = log.outcomes(attempts_at(samples, log.tries(), seed=facts["seed"]))
    if not known:
        raise UserError(f"{log.folder} has no finished sample.")
    return [known[i] for i in sorted(known)]
