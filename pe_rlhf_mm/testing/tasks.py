"""Checks of a task: its splits, samples, pairs, solutions and evaluators."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from pe_rlhf_mm import registry
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing.environments import check_env
from pe_rlhf_mm.testing.problems import Problems, check_messages
from pe_rlhf_mm.types import Outcome, Preference, PreferenceTask, Sample, Task

SPLITS = ("train", "validation", "test")
COMPARED = 1000
"""So many samples of each split are compared with those of the others."""


def check_task(task: str | Task, *, n: int = 8) -> list[str]:
    """The problems of a task, or of what a reference leads to; `n` samples of every split are looked at closely.

    Raises UnknownId or BrokenEntry for a reference that leads nowhere, and whatever its file raises when imported.
    """
    instance = registry.tasks.make(task) if isinstance(task, str) else task
    problems = Problems()
    missing = [name for name in ("evaluators", "samples", "environment", "solve") if not hasattr(instance, name)]
    if not problems.expect(not missing, f"{type(instance).__name__} has no {' and no '.join(missing)}"):
        return problems
    _check_names_of_evaluators(instance, problems)
    shown = _check_splits(instance, problems, n)
    if isinstance(instance, PreferenceTask):
        _check_preferences(instance, problems, n)
    with problems.during("environment()"):
        environment = instance.environment()
        if environment is not None:
            problems += check_env(environment, shown, solve=instance.solve, n=n)
        elif not problems:
            _check_solutions(instance, shown, problems)
    return problems


def _check_names_of_evaluators(task: Task, problems: Problems) -> None:
    names = task.evaluators
    if problems.expect(
        not isinstance(names, str) and len(names) > 0,
        f"evaluators is {names!r}; expected a tuple of ids with the headline first, such as ('pe/exact-match',)",
    ):
        for name in names:
            with problems.during(f"finding the evaluator {name!r}"):
                registry.evaluators.factory(name)


def _check_splits(task: Task, problems: Problems, n: int) -> list[Sample]:
    """Checks the samples of every split; returns the first ones of training."""
    found: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        with problems.during(f"samples({split!r})"):
            found[split] = list(itertools.islice(task.samples(split), max(n, COMPARED)))
            if not problems.expect(
                bool(found[split]), f"samples({split!r}) yields nothing; it must yield one at least"
            ):
                continue
            for sample in found[split][:n]:
                _check_sample(sample, split, problems)
            again = [sample.id for sample in itertools.islice(task.samples(split), n)]
            problems.expect(
                again == [sample.id for sample in found[split][:n]],
                f"samples({split!r}) gives other ids, or another order, when it is called again; both must be stable",
            )
    counts = {split: Counter(getattr(sample, "id", None) for sample in samples) for split, samples in found.items()}
    for split, ids in counts.items():
        twice = [id for id, count in ids.items() if count > 1]
        problems.expect(
            not twice, f"{split!r} has {len(twice)} ids more than once, such as {twice[:1]}; make them unique"
        )
    for one, other in itertools.combinations(SPLITS, 2):
        shared = sorted(str(id) for id in counts[one].keys() & counts[other].keys())
        problems.expect(
            not shared, f"{one!r} and {other!r} share {len(shared)} ids, such as {shared[:1]}; splits must not overlap"
        )
    _check_unknown_split(task, problems)
    return found["train"][:n]


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


def _check_preferences(task: PreferenceTask, problems: Problems, n: int) -> None:
    for split in ("train", "validation"):
        with problems.during(f"preferences({split!r})"):
            pairs, again = (list(itertools.islice(task.preferences(split, seed=0), n)) for _ in range(2))
            problems.expect(bool(pairs), f"preferences({split!r}) yields nothing; it must yield one at least")
            for number, pair in enumerate(pairs):
                what = f"pair {number} of {split!r}"
                if not problems.expect(
                    isinstance(pair, Preference), f"{what} is a {type(pair).__name__}; expected pe_rlhf_mm.Preference"
                ):
                    continue
                problems.expect(pair.chosen != pair.rejected, f"{what}: both replies are {pair.chosen!r}")
                problems.expect(
                    0 <= pair.probability <= 1, f"{what}: probability {pair.probability} is not between 0 and 1"
                )
                check_messages(pair.messages, what, problems)
            replies = [[(p.chosen, p.rejected) for p in group if isinstance(p, Preference)] for group in (pairs, again)]
            problems.expect(
                replies[0] == replies[1], f"preferences({split!r}, seed=0) gives other pairs when it is called again"
            )


def _check_solutions(task: Task, samples: Sequence[Sample], problems: Problems) -> None:
    """The task's own solutions, where it has any, must earn the full score of its headline evaluator."""
    with problems.during("solve()"):
        solved = [(sample, task.solve(sample)) for sample in samples]
        wrong = [s for s, replies in solved if isinstance(replies, str)]
        if not problems.expect(not wrong, "solve() gave a string; expected a sequence of replies, or None"):
            return
        outcomes = [Outcome(sample, replies) for sample, replies in solved if replies is not None]
        for outcome, score in zip(outcomes, registry.evaluators.make(task.evaluators[0]).score(outcomes), strict=True):
            problems.expect(
                score.value is None or score.value >= 1,
                f"the solution {list(outcome.replies)} of sample {outcome.sample.id!r} scores {score.value} with "
                f"{task.evaluators[0]}; expected 1 ({score.why})",
            )
