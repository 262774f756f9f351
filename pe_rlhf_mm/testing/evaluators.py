"""Checks of an evaluator, by letting it score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from pe_rlhf_mm import registry
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing.problems import Problems
from pe_rlhf_mm.testing.toys import toy_outcomes
from pe_rlhf_mm.types import Evaluator, Outcome, Score

TOLERANCE = 1e-4
"""Learned evaluators score in batches, whose last bits differ."""


def check_evaluator(evaluator: str | Evaluator, outcomes: Sequence[Outcome] | None = None) -> list[str]:
    """The problems of an evaluator, or of what a reference leads to; without `outcomes`, on those of the toy task."""
    instance = registry.evaluators.make(evaluator) if isinstance(evaluator, str) else evaluator
    given = list(outcomes) if outcomes is not None else toy_outcomes()
    problems = Problems()
    if not problems.expect(isinstance(instance, Evaluator), f"{type(instance).__name__} has no method score"):
        return problems
    contents = _contents(given)
    try:
        values = _values(instance, given, problems)
        _check_bounds(instance, values, problems)
        if not problems:
            _check_agreement(instance, given, values, problems)
    except Exception as error:
        problems.append(f"score(){_culprit(instance, given)} raised {type(error).__name__}: {error}")
    with problems.during("score([])"):
        nothing = instance.score([])
        problems.expect(nothing == [], f"score([]) gave {nothing!r:.80}; expected []")
    problems.expect(_contents(given) == contents, "score() changes the outcomes it is given; it must only read them")
    return problems


def _culprit(evaluator: Evaluator, outcomes: Sequence[Outcome]) -> str:
    """The first outcome that cannot be scored by itself either, if there is one."""
    for outcome in outcomes:
        try:
            evaluator.score([outcome])
        except Exception:
            return f" of an outcome with the replies {list(outcome.replies)!r:.80}"
    return ""


def _contents(outcomes: Sequence[Outcome]) -> list[tuple[int, list[str], int]]:
    return [(id(outcome), list(outcome.replies), len(outcome.steps)) for outcome in outcomes]


def _values(evaluator: Evaluator, outcomes: list[Outcome], problems: Problems) -> list[float | None]:
    """The values of the scores; what is wrong with them is noted."""
    scores = evaluator.score(outcomes)
    if not problems.expect(
        isinstance(scores, list) and len(scores) == len(outcomes),
        f"score() of {len(outcomes)} outcomes gave {scores!r:.80}; expected a list of as many Scores",
    ):
        return []
    for score, outcome in zip(scores, outcomes, strict=False):
        problems.expect(
            isinstance(score, Score)
            and (score.value is None or (isinstance(score.value, Real) and math.isfinite(score.value))),
            f"sample {outcome.sample.id!r} was scored {score!r:.80}; expected a Score of a finite number or of None",
        )
    return [score.value for score in scores if isinstance(score, Score)]


def _check_bounds(evaluator: Evaluator, values: Sequence[float | None], problems: Problems) -> None:
    from pe_rlhf_mm.evaluation.scoring import bounds_of

    try:
        bounds = bounds_of(evaluator)
    except UserError as error:
        problems.expect(False, str(error))
        return
    outside = [value for value in values if value is not None and bounds and not bounds[0] <= value <= bounds[1]]
    problems.expect(not outside, f"score() gave {outside[:1]}, outside its bounds {bounds}")


def _check_agreement(
    evaluator: Evaluator, outcomes: list[Outcome], values: list[float | None], problems: Problems
) -> None:
    """Scores must be the same again, the other way round, and for every outcome alone."""
    problems.expect(
        _alike(_values(evaluator, outcomes, problems), values), "score() gives other scores when it is called again"
    )
    alone = [value for outcome in outcomes for value in _values(evaluator, [outcome], problems)]
    problems.expect(
        _alike(_values(evaluator, outcomes[::-1], problems), values[::-1]) and _alike(alone, values),
        "a score depends on which other outcomes are scored with it, or on their order",
    )


def _alike(some: list[float | None], others: list[float | None]) -> bool:
    return len(some) == len(others) and all(
        one is other is None or (one is not None and other is not None and abs(one - other) <= TOLERANCE)
        for one, other in zip(some, others, strict=True)
    )
