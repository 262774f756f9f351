"""Confidence intervals that know that questions about one picture are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
DRAWS = 2000
DASH = "–"


class Interval(NamedTuple):
    """From low to high; NaN where nothing can be said."""

    low: float
    high: float

    def text(self, form: str) -> str:
        """Both ends in a number format, or a dash."""
        return DASH if math.isnan(self.low) else f"[{self.low:{form}}, {self.high:{form}}]"


def or_dash(value: float, form: str) -> str:
    """A value in a number format, or a dash where nothing can be said."""
    return DASH if math.isnan(value) else f"{value:{form}}"


def clustered_mean(values: Sequence[float], clusters: Sequence[str], *, seed: int = 0) -> tuple[float, Interval]:
    """The mean of `values` with its 95 % interval, by a seeded bootstrap over whole clusters (Cameron & Miller 2015).

    Clusters are drawn with replacement; each draw's mean is the sum of the drawn values over their number. With a
    single cluster nothing can be said about the spread, and the interval is (nan, nan).
    """
    if len(values) == 0:
        return float("nan"), Interval(float("nan"), float("nan"))
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, float))
    sizes = np.bincount(member).astype(float)
    mean = float(sums.sum() / sizes.sum())
    if len(sums) < 2:
        return mean, Interval(float("nan"), float("nan"))
    means = _bootstrap_means(sums, sizes, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return mean, Interval(float(low), float(high))


def _bootstrap_means(
    sums: Float[np.ndarray, " c"], sizes: Float[np.ndarray, " c"], rng: np.random.Generator
) -> Float[np.ndarray, " d"]:
    weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)
    means: Float[np.ndarray, " d"] = (weights @ sums) / (weights @ sizes)
    return means
