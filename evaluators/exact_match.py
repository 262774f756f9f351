"""Exact match: the reply is the target, letter case, surrounding space and a final full stop aside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pe_rlhf_mm.registry import register_evaluator
from pe_rlhf_mm.types import Outcome, Score


def extract_answer(reply: str) -> str:
    """What counts of a reply."""
    return reply.strip().removesuffix(".").rstrip().casefold()


@register_evaluator("pe/exact-match@1")
class ExactMatch:
    """1 if the last reply equals the target (or one of a list of targets), otherwise 0."""

    bounds = (0.0, 1.0)

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [self._score(outcome) for outcome in outcomes]

    def _score(self, outcome: Outcome) -> Score:
        target = outcome.sample.target
        if target is None:
            return Score(None, "the sample has no target")
        targets = [target] if isinstance(target, str) or not isinstance(target, Iterable) else list(target)
        said = extract_answer(outcome.replies[-1]) if outcome.replies else ""
        right = said in {extract_answer(str(t)) for t in targets}
        return Score(float(right), f"said {said!r}, expected {' or '.join(map(str, targets))!r}")
