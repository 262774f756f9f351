"""Checks of an evaluator, by letting it score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pe_rlhf_mm import registry
from pe_rlhf_mm.testing.problems import Problems
from pe_rlhf_mm.testing.toys import toy_outcomes
from pe_rlhf_mm.types import Evaluator, Outcome, Score


def check_evaluator(evaluator: str | Evaluator, outcomes: Sequence[Outcome] | None = None) -> list[str]:
    """The problems of an evaluator, or of what a reference leads to; without `outcomes`, on those of the toy task."""
    instance = registry.evaluators.make(evaluator) if isinstance(evaluator, str) else evaluator
    given = list(outcomes) if outcomes is not None else toy_outcomes()
    problems = Problems()
    if not problems.expect(isinstance(instance, Evaluator), f"{type(instance).__name__} has no method score"):
        return problems
    with problems.during("score()"):
        scores = instance.score(given)
        if not problems.expect(
            isinstance(scores, list) and len(scores) == len(given),
            f"score() of {len(given)} outcomes gave {scores!r:.80}; expected a list of as many Scores",
        ):
            return problems
        for score, outcome in zip(scores, given, strict=True):
            problems.expect(
                isinstance(score, Score) and (score.value is None or math.isfinite(score.value)),
                f"sample {outcome.sample.id!r} was scored {score!r:.80}; expected a Score of a number or of None",
            )
        problems.expect(instance.score(given) == scores, "score() gives other scores when it is called again")
        problems.expect(
            instance.score(given[::-1]) == scores[::-1],
            "a score depends on which other outcomes are scored with it, or on their order",
        )
        problems.expect(instance.score([]) == [], "score([]) must be []")
    return problems
