"""Checks of a task: its splits, samples, pairs, ratings, solutions and evaluators."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from pe_rlhf_mm import registry
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing.contents import check_contents
from pe_rlhf_mm.testing.environments import check_env
from pe_rlhf_mm.testing.labels import check_labels
from pe_rlhf_mm.testing.problems import Problems, check_messages, check_replies, told
from pe_rlhf_mm.types import Outcome, Sample, Task

SPLITS = ("train", "validation", "test")
COMPARED = 1000
"""So many samples of each split are compared with those of the others."""


def check_task(task: str | Task, *, n: int = 8) -> list[str]:
    """The problems of a task, or of what a reference leads to; `n` samples of every split are looked at closely.

    Raises UnknownId or BrokenEntry for a reference that leads nowhere, and whatever its file raises when imported.
    """
    instance = registry.tasks.make(task) if isinstance(task, str) else task
    problems = Problems()
    missing = registry.tasks.missing(instance)
    if not problems.expect(not missing, f"{type(instance).__name__} has no {' and no '.join(missing)}"):
        return problems
    with problems.during("evaluators"):
        _check_evaluators(instance.evaluators, problems)
    found = _check_splits(instance, problems, n)
    shown = found["train"][:n]
    check_labels(instance, SPLITS, problems, n)
    with problems.during("environment()"):
        environment = instance.environment()
        if environment is not None:
            problems += check_env(environment, shown, solve=instance.solve, n=n)
        else:  # episodes show what they are made of when they are played
            if not problems:  # what is broken has no contents to compare
                _check_asked(found, problems, n)
                check_contents(found, problems)
            _check_solutions(instance, shown, problems)
    return problems


def _check_evaluators(names: Sequence[str], problems: Problems) -> None:
    if problems.expect(
        isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 0,
        f"evaluators is {names!r:.80}; expected a tuple of ids with the headline first, such as ('pe/exact-match',)",
    ):
        for name in names:
            with problems.during(f"making the evaluator {name!r}"):
                registry.evaluators.make(name)


def _check_splits(task: Task, problems: Problems, n: int) -> dict[str, list[Sample]]:
    """Checks the samples of every split and returns them."""
    found: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        with problems.during(f"samples({split!r})"):
            found[split] = _check_split(task, split, problems, n)
    counts = {split: Counter(str(sample.id) for sample in samples) for split, samples in found.items()}
    for split, ids in counts.items():
        twice = [id for id, count in ids.items() if count > 1]
        problems.expect(
            not twice, f"{split!r} has {len(twice)} ids more than once, such as {twice[:1]}; make them unique"
        )
    for one, other in itertools.combinations(SPLITS, 2):
        shared = sorted(counts[one].keys() & counts[other].keys())
        problems.expect(
            not shared, f"{one!r} and {other!r} share {len(shared)} ids, such as {shared[:1]}; splits must not overlap"
        )
    _check_unknown_split(task, problems)
    return found


def _check_split(task: Task, split: str, problems: Problems, n: int) -> list[Sample]:
    samples = list(itertools.islice(task.samples(split), max(n, COMPARED)))
    problems.expect(bool(samples), f"samples({split!r}) yields nothing; it must yield one at least")
    before = len(problems)
    for sample in samples[:n]:
        _check_sample(sample, split, problems)
    if len(problems) == before:
        again = itertools.islice(task.samples(split), n)
        problems.expect(
            [_told(sample) for sample in again] == [_told(sample) for sample in samples[:n]],
            f"samples({split!r}) gives other samples, or another order, when it is called again with the same seed; "
            "ids, texts and targets must be stable",
        )
    return [sample for sample in samples if isinstance(sample, Sample)]


def _told(sample: Sample) -> tuple[object, ...]:
    """What two passes must have in common; a target that is an object of its own kind is taken on trust."""
    return sample.id, told(sample.messages), sample.target if isinstance(sample.target, str | int | float) else None


def _check_unknown_split(task: Task, problems: Problems) -> None:
    with problems.during("samples('no such split'), which should raise UserError and name the splits there are, "):
        try:
            list(itertools.islice(task.samples("no such split"), 1))
        except UserError:
            return
        problems.append("samples('no such split') does not complain; raise UserError and name the splits there are")


def _check_sample(sample: Sample, split: str, problems: Problems) -> None:
    if problems.expect(
        isinstance(sample, Sample), f"samples({split!r}) yields a {type(sample).__name__}; expected pe_rlhf_mm.Sample"
    ):
        what = f"sample {sample.id!r} of {split!r}"
        problems.expect(isinstance(sample.id, str) and sample.id != "", f"{what}: an id must be a string, not empty")
        problems.expect(
            sample.cluster is None or isinstance(sample.cluster, str), f"{what}: cluster must be a string or None"
        )
        check_messages(sample.messages, what, problems)


def _check_asked(found: Mapping[str, Sequence[Sample]], problems: Problems, n: int) -> None:
    """Where no environment goes on with it, a conversation must ask something: a system message alone does not."""
    for split, samples in found.items():
        for sample in samples[:n]:
            problems.expect(
                any(message.role != "system" for message in sample.messages),
                f"sample {sample.id!r} of {split!r} has nothing but a system message, and nothing to answer",
            )


def _check_solutions(task: Task, samples: Sequence[Sample], problems: Problems) -> None:
    """The task's own solutions, where it has any, must earn the full score of its headline evaluator."""
    outcomes = []
    for sample in samples:
        what = f"solve() of sample {sample.id!r}"
        with problems.during(what):
            replies = task.solve(sample)
            if check_replies(replies, what, problems) and replies is not None:
                outcomes.append(Outcome(sample, replies))
    if problems:  # of an evaluator, perhaps, which cannot score then
        return
    headline = task.evaluators[0]
    with problems.during(f"scoring solutions with {headline}"):
        scores = registry.evaluators.make(headline).score(outcomes)
        for outcome, score in zip(outcomes, scores, strict=True):
            problems.expect(
                score.value is not None and score.value >= 1,
                f"the solution {list(outcome.replies)} of sample {outcome.sample.id!r} scores {score.value} with "
                f"{headline}; expected 1 ({score.why})",
            )
