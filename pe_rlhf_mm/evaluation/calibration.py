"""Whether probabilities mean what they say: of all that was given 0.8, 80 % should come true.

    expected calibration error = Σ_b n_b / n · |mean predicted_b - mean observed_b|

over bins b of equal width: Guo et al., 2017 (arXiv 1706.04599), equation 3, whose temperature is `fit_scale`, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

WIDTH = 0.1
STEEPEST = 100.0
"""The largest scale that is fitted: what is perfectly told apart on the fitted labels would have none."""


class CalibrationBin(NamedTuple):
    """`n` predictions from `low` to `high`: their mean, and the mean of what was observed."""

    low: float
    high: float
    n: int
    predicted: float
    observed: float


class Calibration(NamedTuple):
    """The expected calibration error, over how many predictions, and the bins that have any."""

    error: float
    n: int
    bins: list[CalibrationBin]


def calibration(predicted: Float[np.ndarray, " N"], observed: Float[np.ndarray, " N"]) -> Calibration:
    """Of probabilities against what came true: 0, 1, or a probability where that is all there is."""
    of_bin = np.clip((predicted / WIDTH + 1e-9).astype(int), 0, round(1 / WIDTH) - 1)
    bins = []
    for b in np.unique(of_bin).tolist():
        own = of_bin == b
        means = float(predicted[own].mean()), float(observed[own].mean())
        bins.append(CalibrationBin(round(b * WIDTH, 3), round((b + 1) * WIDTH, 3), int(own.sum()), *means))
    error = sum(b.n * abs(b.predicted - b.observed) for b in bins) / max(len(predicted), 1)
    return Calibration(error, len(predicted), bins)


def sigmoid(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(np.asarray(x, float) / 2))


def fit_scale(scores: Float[np.ndarray, " N"], labels: Float[np.ndarray, " N"]) -> float:
    """The k of 0 to STEEPEST for which σ(k · score) has the least cross-entropy against the labels.

    The cross-entropy is convex in k, and its slope, Σ score · (σ(k · score) - label), is halved down to its zero.
    """
    low, high = 0.0, STEEPEST
    for _ in range(50):
        middle = (low + high) / 2
        slope = float(np.sum(scores * (sigmoid(middle * scores) - labels)))
        low, high = (middle, high) if slope < 0 else (low, middle)
    return low
