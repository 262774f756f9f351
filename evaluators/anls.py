"""ANLS: how few letters have to be changed to make the reply the answer, as questions about documents are scored.

    s = 1 - d(reply, target) / max(|reply|, |target|) if that is more than 1/2, otherwise 0

d is the edit distance of Levenshtein. Letter case and surplus space do not count, and of several targets the best one
does. Sources: Biten et al., 2019 (arXiv 1905.13648), equation 1, whose threshold τ on d is 1/2; Mathew et al., 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

from pe_rlhf_mm.evaluators.against_targets import score_each
from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score

THRESHOLD = 0.5
"""A reply of which half or more would have to be changed is worth nothing."""


def normalize(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


def edit_distance(one: str, other: str) -> int:
    """Letters that are put in, left out or replaced to make one text the other, a row of the table at a time."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        before, row = row, [i]
        for j, expected in enumerate(other, start=1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != expected)))
    return row[-1]


def likeness(said: str, target: str) -> float:
    """The formula above, of normalised texts; 1 for two that are empty."""
    longer = max(len(said), len(target))
    if abs(len(said) - len(target)) >= THRESHOLD * longer > 0:
        return 0.0  # they differ by so many letters at least: a long reply need not be read
    distance = edit_distance(said, target) / longer if longer else 0.0
    return 1 - distance if distance < THRESHOLD else 0.0


def anls(reply: str, targets: Sequence[str]) -> float:
    """The score of a reply, 0 to 1, against the target that is most like it."""
    said = normalize(reply)
    return max(likeness(said, normalize(target)) for target in targets)


def _score(reply: str, targets: Sequence[str]) -> Score:
    return Score(anls(reply, targets), f"said {normalize(reply)!r:.200}, expected {' or '.join(targets)!r}")


@register_evaluator("pe/anls@1")
class ANLS:
    """Likeness of the last reply to the most similar target, 0 below one half."""

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return score_each(outcomes, _score)
