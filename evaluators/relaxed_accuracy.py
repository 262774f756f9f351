"""Relaxed accuracy: a number within 5 % of the target, or the very text, as questions about charts are scored.

    1 if |reply - target| <= 0.05 · |target|, where both are numbers and the target is not 0;
    otherwise 1 if the texts are the same, letter case aside

"12%" is 0.12. A number with a unit or with commas is a text. Sources: Methani et al., 2020 (arXiv 1909.00997), section
5.2; Masry et al., 2022 (ChartQA, arXiv 2203.10244), section 5; the code that its numbers are published by is that of
pix2struct.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pe_rlhf_mm.evaluators.against_targets import score_each
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score

TOLERANCE = 0.05
"""Of the target: reading a number off an axis is not exact."""


def number(text: str) -> float | None:
    """What a text says if it is a number, with or without a percent sign."""
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_right(said: str, target: str) -> bool:
    """Whether a reply is close enough to one target."""
    found, expected = number(said), number(target)
    if found is not None and expected:
        return abs(found - expected) / abs(expected) <= TOLERANCE
    return said.lower() == target.lower()


def relaxed_accuracy(reply: str, targets: Sequence[str]) -> float:
    """1 if the reply is right by any of the targets, otherwise 0."""
    said = reply.strip()
    return float(any(is_right(said, target.strip()) for target in targets))


def _score(reply: str, targets: Sequence[str]) -> Score:
    return Score(relaxed_accuracy(reply, targets), f"said {reply.strip()!r:.200}, expected {' or '.join(targets)!r}")


@register_evaluator("pe/relaxed-accuracy@1")
class RelaxedAccuracy:
    """1 if the last reply is a number within 5 % of a target, or its text, otherwise 0."""

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return score_each(outcomes, _score)
