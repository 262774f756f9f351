"""Confidence intervals that know that questions about one picture are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

LEVEL = 0.95
DRAWS = 2000
DASH = "–"
Bounds = tuple[float, float] | None
"""What values lie between; None where nobody knows."""
SHARE = (0.0, 1.0)


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


def of_differences(bounds: Bounds) -> Bounds:
    """What the difference of two values lies between."""
    return None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])


def clustered_mean(
    values: Sequence[float], clusters: Sequence[str], *, bounds: Bounds = None, seed: int = 0
) -> tuple[float, Interval]:
    """The mean of `values` with its 95 % interval, by a seeded bootstrap over whole clusters (Cameron & Miller 2015).

    Clusters are drawn with replacement; each draw's mean is the sum of the drawn values over their number. Where all
    clusters agree, every draw is the same, which is no certainty: `bounds`, what values lie between, then tell how far
    the clusters that were not met could move the mean. Without them, and of a single cluster, nothing can be said, and
    the interval is (nan, nan).
    """
    if len(values) == 0:
        return float("nan"), Interval(float("nan"), float("nan"))
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, float))
    sizes = np.bincount(member).astype(float)
    mean = float(sums.sum() / sizes.sum())
    if len(sums) < 2:
        return mean, Interval(float("nan"), float("nan"))
    if np.ptp(sums / sizes) <= 1e-12 * abs(mean):
        return mean, _of_agreement(mean, len(sums), bounds)
    means = _bootstrap_means(sums, sizes, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return mean, Interval(float(low), float(high))


def mean_of_repeats(values: Sequence[float], bounds: Bounds = None) -> tuple[float, Interval]:
    """The mean of n independent repeats with its 95 % interval, mean ± t · s / √n, t of Student's distribution with
    n - 1 degrees of freedom, cut at `bounds`, what values lie between. Of one repeat nothing can be said, and the
    interval is (nan, nan)."""
    repeats = len(values)
    if repeats < 2:
        return (float(values[0]) if repeats else float("nan")), Interval(float("nan"), float("nan"))
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = float(stdtrit(repeats - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(repeats)
    low, high = (-math.inf, math.inf) if bounds is None else bounds
    return mean, Interval(max(mean - reach, low), min(mean + reach, high))


def _of_agreement(mean: float, clusters: int, bounds: Bounds) -> Interval:
    """Of C clusters with one mean m: at most a share q = 1 - 0.025^(1/C) of all others differ (Clopper & Pearson 1934),
    by no more than there is room for: from m - q (m - low) to m + q (high - m)."""
    if bounds is None:
        return Interval(float("nan"), float("nan"))
    low, high = bounds
    share = 1 - ((1 - LEVEL) / 2) ** (1 / clusters)
    return Interval(mean - share * (mean - low), mean + share * (high - mean))


def _bootstrap_means(
    sums: Float[np.ndarray, " c"], sizes: Float[np.ndarray, " c"], rng: np.random.Generator
) -> Float[np.ndarray, " d"]:
    weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)
    means: Float[np.ndarray, " d"] = (weights @ sums) / (weights @ sizes)
    return means
