"""How far the reward model's probabilities can be believed: a reliability diagram, for `calibration.svg.jinja`."""

from __future__ import annotations

import math
from typing import NamedTuple

from pe_rlhf_mm.reports.axes import Axis, Frame, Tick
from pe_rlhf_mm.reports.records import Record, at, number
from pe_rlhf_mm.reports.wording import count, percent

FRAME = Frame(width=360, height=280, left=44, right=350, top=24, bottom=236)
LARGEST, SMALLEST = 11.0, 2.0
"""Radii of dots. The area stands for the number of labels, but for those that nobody would see."""
MOST_BINS, MOST_LABELS, ROUNDING = 50, 1e12, 1e-6


class Bin(NamedTuple):
    """`n` labels that were given about the same probability, from `low` on: its mean, and the share that was met."""

    low: float
    n: float
    predicted: float
    observed: float


class Calibration(NamedTuple):
    """What a run found of its reward model; `caption` and `spoken` say it in words."""

    bins: list[Bin]
    caption: str
    spoken: str

    @property
    def low(self) -> float:
        """Where the probabilities begin: at one half where a label says which of two replies is better."""
        return min(bin.low for bin in self.bins)

    @property
    def lowest(self) -> float:
        """Where the shares begin: no dot lies outside."""
        return min(self.low, *(math.floor(10 * bin.observed) / 10 for bin in self.bins))

    def sizes(self) -> list[float]:
        """Of every bin, the radius of its dot against that of the largest."""
        most = max(bin.n for bin in self.bins)
        return [max(math.sqrt(bin.n / most), SMALLEST / LARGEST) for bin in self.bins]


class Dot(NamedTuple):
    """A bin on the drawing."""

    x: float
    y: float
    radius: float


class Drawing(NamedTuple):
    """A calibration ready to be drawn. `diagonal`: where what is predicted is what is observed."""

    frame: Frame
    caption: str
    spoken: str
    dots: list[Dot]
    diagonal: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def find_calibration(summary: Record) -> Calibration | None:
    """None for a run that has none, or none that can be read."""
    found = at(summary, "reward_model", "calibration")
    records = at(found, "bins")
    bins = [
        bin
        for record in (records[:MOST_BINS] if isinstance(records, list) else [])
        if (bin := _bin(record)) is not None
    ]
    if not bins:
        return None
    error = number(found, "error")
    off = "" if error is None or not 0 <= error <= 1 else f", on average {100 * error:.1f} points off"
    ends = [f"{percent(bin.observed)} of those given {percent(bin.predicted)}" for bin in bins]
    labels = f"{count(sum(bin.n for bin in bins))} labels"
    return Calibration(
        bins=bins,
        caption=f"{labels}{off}",
        spoken=f"Calibration of the reward model, {labels}{off}. Met: {', '.join(ends)}.",
    )


def _bin(record: object) -> Bin | None:
    """None for a bin without labels, and for one with numbers that are no shares."""
    low, n, predicted, observed = (number(record, name) for name in Bin._fields)
    if low is None or n is None or predicted is None or observed is None:
        return None
    sound = 0 < n < MOST_LABELS and 0 <= low < 1 and low - ROUNDING <= predicted <= 1 and 0 <= observed <= 1
    return Bin(low, n, predicted, observed) if sound else None


def draw_calibration(summary: Record) -> Drawing | None:
    """The plot of a run that has one, in percent."""
    calibration = find_calibration(summary)
    if calibration is None:
        return None
    x = Axis(100 * calibration.low, 100, 10, FRAME.left, FRAME.right)
    y = Axis(100 * calibration.lowest, 100, 10, FRAME.bottom, FRAME.top)
    dots = [
        Dot(x.place(100 * bin.predicted), y.place(100 * bin.observed), round(LARGEST * size, 1))
        for bin, size in zip(calibration.bins, calibration.sizes(), strict=True)
    ]
    diagonal = f"M{x.place(x.low)} {y.place(x.low)}L{x.place(100)} {y.place(100)}"
    return Drawing(
        frame=FRAME,
        caption=calibration.caption,
        spoken=calibration.spoken,
        dots=sorted(dots, key=_radius, reverse=True),  # the smaller ones in front
        diagonal=diagonal,
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
    )


def _radius(dot: Dot) -> float:
    return dot.radius
