"""What evaluators share that hold a reply against the texts a sample names as right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pe_rlhf_mm.types import Outcome, Sample, Score

Compare = Callable[[str, Sequence[str]], Score]
"""From a reply and the right texts (one at least) to a score."""


def targets_of(sample: Sample) -> list[str]:
    """The right texts of a sample: its target, or each of several; none where nobody knows."""
    target = sample.target
    if target is None:
        return []
    return [target] if isinstance(target, str) or not isinstance(target, Iterable) else [str(text) for text in target]


def score_each(outcomes: Sequence[Outcome], compare: Compare) -> list[Score]:
    """The last reply of each outcome (empty if there is none) held against the sample's targets."""
    return [_score(outcome, compare) for outcome in outcomes]


def _score(outcome: Outcome, compare: Compare) -> Score:
    targets = targets_of(outcome.sample)
    if not targets:
        return Score(None, "the sample has no target")
    return compare(outcome.replies[-1] if outcome.replies else "", targets)
