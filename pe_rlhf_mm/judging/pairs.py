"""Pairs of replies for a judge to compare: those of a task, or two tries of a policy at each sample, out of a log."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pe_rlhf_mm import registry
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.evaluation.evaluate import finished_outcomes
from pe_rlhf_mm.evaluation.log import EvalLog, read_log
from pe_rlhf_mm.types import Outcome, Preference, PreferenceTask

POLICY = ("policy", "fingerprint", "max_tokens", "temperature")
"""What of the facts of a log tells whose replies it has."""


class Pairs(NamedTuple):
    """`facts`: what the pairs are known again by. `alike`: samples that make no pair, since all tries say the same."""

    pairs: Sequence[Preference]
    facts: Mapping[str, Any]
    alike: int = 0


def task_pairs(task: str, split: str, *, limit: int | None, seed: int) -> Pairs:
    """The first `limit` pairs of a split of a task. Raises UserError if it has none."""
    id, instance = registry.tasks.resolve(task), registry.tasks.make(task)
    if not isinstance(instance, PreferenceTask):
        raise UserError(
            f"{registry.title(id)} has no preferences(split, seed), and so no pairs of its own. Those of a policy's "
            "replies come from a log: --replies LOG."
        )
    pairs = _first(instance.preferences(split, seed=seed), limit)
    if not pairs:
        raise UserError(f"{registry.title(id)} has no pairs in its split {split!r}: there is nothing to label.")
    return Pairs(pairs, {"task": id, "split": split, "seed": seed, "replies": None})


def logged_pairs(folder: Path, task: str, split: str | None, *, limit: int | None) -> Pairs:
    """Of the tries at each sample the first one, and the next one that says something else, space around it aside.

    Nobody has said which is better: each is a tie. Raises UserError for the log of another task or split, one of played
    episodes, and one in which no two replies differ.
    """
    id, facts = registry.tasks.resolve(task), read_log(folder)
    for name, expected in (("task", id), ("split", split or facts["split"])):
        if facts[name] != expected:
            raise UserError(f"{folder} is a log of the {name} {facts[name]!r}; expected {expected!r}.")
    with EvalLog(folder, facts) as log:
        outcomes = finished_outcomes(log, registry.tasks.make(task), facts)
        tries: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            tries.setdefault(outcome.sample.id, []).append(outcome)
    if any(outcome.steps for outcome in outcomes):
        raise UserError(f"{folder} holds played episodes; a judge compares single replies to one prompt.")
    found = [_pair(own) for own in tries.values()]
    pairs = _first((pair for pair in found if pair is not None), limit)
    if not pairs:
        raise UserError(
            f"{folder} has no two different replies to one sample. Several tries make them: pe-rlhf eval run TASK "
            "--split train --repeats 2 --temperature 1 --out LOG."
        )
    whose = {name: facts.get(name) for name in POLICY}
    told = {"task": id, "split": facts["split"], "seed": facts["seed"], "replies": whose}
    return Pairs(pairs, told, alike=found.count(None))


def _pair(tries: Sequence[Outcome]) -> Preference | None:
    first, *others = (outcome.replies[-1] for outcome in tries)
    other = next((reply for reply in others if reply.strip() != first.strip()), None)
    sample = tries[0].sample
    domain = {"domain": sample.metadata["domain"]} if "domain" in sample.metadata else {}
    metadata = {"sample": sample.id, **domain}
    return None if other is None else Preference(sample.messages, first, other, 0.5, 0.0, sample.cluster, metadata)


def _first(pairs: Iterable[Preference], limit: int | None) -> list[Preference]:
    if limit is not None and limit < 1:
        raise OutOfRange(f"limit must be at least 1, not {limit}")
    return list(itertools.islice(pairs, limit))
