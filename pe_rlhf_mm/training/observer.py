"""What a recipe tells the world while it trains. A run folder listens, a progress bar listens, a test listens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from pe_rlhf_mm.errors import TrainingDiverged

Thing = TypeVar("Thing")


class Observer(Protocol):
    def begin(self, stage: str, steps: int) -> None:
        """A stage of so many steps begins."""

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Step number `step` (from 1) is done."""

    def note(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Something was measured beside the training, at that step."""


def counted(observer: Observer, stage: str, things: Iterable[Thing], count: int) -> Iterator[Thing]:
    """At most `count` of the things, each of which is a step of a stage when it has been dealt with."""
    observer.begin(stage, count)
    for number, thing in enumerate(itertools.islice(things, count), start=1):
        yield thing
        observer.step(stage, number, {})


class Silent:
    """Hears nothing."""

    def begin(self, stage: str, steps: int) -> None: ...

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def note(self, stage: str, step: int, metrics: Mapping[str, float]) -> None: ...


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]):
        self._observers = observers

    def begin(self, stage: str, steps: int) -> None:
        for observer in self._observers:
            observer.begin(stage, steps)

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.step(stage, step, metrics)

    def note(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.note(stage, step, metrics)


def refuse_non_finite(stage: str, step: int, metrics: Mapping[str, float]) -> None:
    """Raises TrainingDiverged if a metric is not a finite number."""
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if bad:
        raise TrainingDiverged(
            f"{stage}: {', '.join(bad)} not finite at step {step}. What was saved before is intact. "
            "Usual causes: a learning rate that is too high, or rewards that are no numbers; try a rate 10 times lower."
        )
