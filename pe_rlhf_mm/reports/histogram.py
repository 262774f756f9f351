"""How often each value was given: one bar for each, or for each stretch of them where they are many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pe_rlhf_mm.reports.wording import decimal

MOST_VALUES = 6
STRETCHES = 10


class Bin(NamedTuple):
    """A value or a stretch of values, and how many each of the series has of it."""

    label: str
    counts: list[int]


def bins(series: Sequence[Sequence[float]]) -> list[Bin]:
    """The bars of one or several series on a common scale, from the lowest value up."""
    values = sorted({value for own in series for value in own})
    if len(values) <= MOST_VALUES:
        return [Bin(decimal(value), [list(own).count(value) for own in series]) for value in values]
    edges = np.linspace(values[0], values[-1], STRETCHES + 1)
    counts = [np.histogram(own, edges)[0].tolist() for own in series]
    labels = [f"{decimal(low)} to {decimal(high)}" for low, high in itertools.pairwise(edges)]
    return [Bin(label, list(several)) for label, several in zip(labels, zip(*counts, strict=True), strict=True)]
