"""Win rates, and what they would be between replies of one length.

    logit P(preferred) = a + b · tanh(Δ / σ)        length-controlled rate = 1 / (1 + exp(-a))

Δ is how many characters longer than the other one a reply is, and σ the standard deviation of Δ (over n - 1). The fit
is by cross-entropy against the judge's probabilities plus RIDGE/2 · (a² + b²), which moves nothing that matters where
there is an answer, and gives one where all are won. Source: AlpacaEval 2 (Dubois et al., 2024; arXiv 2404.04475)
without its terms for single instructions, whose difficulties are known for its own 805 only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pe_rlhf_mm.evaluation.intervals import SHARE, Interval, clustered_mean, or_dash
from pe_rlhf_mm.types import Score

PARTS = ("preference", "flipped", "length", "other_length")
"""What the scores of an evaluator that compares two replies have."""
FEW = 10
"""So many verdicts may all flip by chance."""
RIDGE = 0.01
STEPS = 100


@dataclass(frozen=True)
class WinRate:
    """A tie is half a win. `flipped`: the share of verdicts that went with the place; lengths are in characters.

    `length_controlled` is NaN where the lengths differ by the same for all samples, and nothing can be told.
    """

    rate: float
    interval: Interval
    length_controlled: float
    wins: int
    ties: int
    losses: int
    unscored: int
    flipped: float
    length: float
    other_length: float

    def text(self) -> str:
        """One line, and a second one of doubt where most verdicts went with the place."""
        doubt = doubt_of_judge(self.flipped, self.wins + self.ties + self.losses)
        return (
            f"{self.wins} wins, {self.ties} ties, {self.losses} losses, {self.unscored} unscored; at equal length "
            f"{or_dash(self.length_controlled, '.3f')}; {100 * self.flipped:.1f} % flipped with the order; "
            f"{self.length:.0f} characters against {self.other_length:.0f}" + (f"\n{doubt}" if doubt else "")
        )


def doubt_of_judge(flipped: float, verdicts: float) -> str:
    """What to think of a judge who, more often than not, prefers a place and not a reply; nothing of any other."""
    if flipped <= 0.5 or verdicts < FEW:
        return ""
    return (
        f"{100 * flipped:.0f} % of the verdicts flipped with the order: this judge prefers a place and not a reply, "
        "and what it says means little. Try a stronger judge."
    )


def win_rate(scores: Sequence[Score], clusters: Sequence[str], *, seed: int = 0) -> WinRate | None:
    """Sums up the scores of an evaluator that compares two replies; None for any other, and where nothing is scored."""
    known = [(s, cluster) for s, cluster in zip(scores, clusters, strict=True) if s.value is not None]
    if not known or not all(name in s.parts for s, _ in known for name in PARTS):
        return None
    values = [float(s.value) for s, _ in known if s.value is not None]
    preference, flipped, length, other = np.array([[s.parts[name] for name in PARTS] for s, _ in known], float).T
    rate, interval = clustered_mean(values, [cluster for _, cluster in known], bounds=SHARE, seed=seed)
    wins, losses = values.count(1.0), values.count(0.0)
    return WinRate(
        rate,
        interval,
        length_controlled(preference, length - other),
        wins,
        len(values) - wins - losses,
        losses,
        len(scores) - len(values),
        float(flipped.mean()),
        float(length.mean()),
        float(other.mean()),
    )


def length_controlled(preference: Float[np.ndarray, " n"], longer: Float[np.ndarray, " n"]) -> float:
    """The rate at Δ = 0 by the formula above; the mean where no reply is longer than the other one."""
    if not longer.any():
        return float(preference.mean())
    spread = float(longer.std(ddof=1)) if len(longer) > 1 else 0.0
    if spread == 0.0:
        return float("nan")
    features = np.stack([np.ones_like(longer), np.tanh(longer / spread)], axis=1)
    return 1 / (1 + math.exp(-_logistic_fit(features, preference)[0]))


def _logistic_fit(x: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """The coefficients of a logistic regression with a ridge, by Newton's method with steps that are halved."""
    found = np.zeros(x.shape[1])

    def loss(at: Float[np.ndarray, " k"]) -> float:
        return float(np.logaddexp(0, x @ at).sum() - y @ (x @ at) + RIDGE / 2 * at @ at)

    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(x @ found)))
        slope = x.T @ (p - y) + RIDGE * found
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + RIDGE * np.eye(len(found)), slope)
        while loss(found - step) > loss(found) and np.abs(step).max() > 1e-12:
            step = step / 2
        found = found - step
        if np.abs(step).max() < 1e-10:
            break
    return found
