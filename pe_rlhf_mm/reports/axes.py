"""Axes of a drawing: where a value lies, and the round numbers beside it."""

from __future__ import annotations

import math
from typing import NamedTuple


class Frame(NamedTuple):
    """The size of a drawing, and the edges of the field that it fills."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


class Tick(NamedTuple):
    """A labelled place on an axis."""

    place: float
    label: str


class Axis(NamedTuple):
    """The range of an axis, the distance between its ticks, and where on the drawing it starts and ends."""

    low: float
    high: float
    step: float
    start: int
    end: int

    def place(self, value: float) -> float:
        """Where on the drawing a value lies."""
        return round(self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[Tick]:
        """Round values within the range."""
        first, last = math.ceil(self.low / self.step - 1e-6), math.floor(self.high / self.step + 1e-6)
        return [Tick(self.place(self.step * i), _tick_label(self.step * i, self.step)) for i in range(first, last + 1)]


def round_step(rough: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _tick_label(value: float, step: float) -> str:
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    if abs(step * 10**digits - round(step * 10**digits)) > 1e-6:  # steps of 0.25
        digits += 1
    return f"{value + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}")
