"""The checks of evaluators: what is broken in one way is reported in that way and no other."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pe_rlhf_mm.registry import UnknownId
from pe_rlhf_mm.testing import check_evaluator
from pe_rlhf_mm.types import Message, Outcome, Sample, Score


def test_the_evaluator_of_the_package_conforms() -> None:
    assert check_evaluator("pe/exact-match") == []


def test_a_reference_that_leads_nowhere_is_no_problem_of_the_evaluator() -> None:
    with pytest.raises(UnknownId):
        check_evaluator("pe/nothing")


def test_the_outcome_that_breaks_an_evaluator_is_named() -> None:
    """A policy may say nothing at all: the toy task has such an outcome."""
    hasty = Scoring(lambda outcomes: [Score(float(len(outcome.replies[0]))) for outcome in outcomes])
    assert check_evaluator(hasty) == [  # type: ignore[arg-type]
        "score() of an outcome with the replies [] raised IndexError: list index out of range"
    ]


def test_an_evaluator_may_leave_outcomes_unscored() -> None:
    class Unsure:
        def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
            return [Score(None, "no idea") for _ in outcomes]

    assert check_evaluator(Unsure()) == []


def fails(outcomes: list[Outcome]) -> Any:
    raise RuntimeError("no display")


class Scoring:
    """An evaluator that does what a function does."""

    def __init__(self, score: Callable[[list[Outcome]], object]):
        self._score = score

    def score(self, outcomes: list[Outcome], *, seed: int = 0) -> object:
        return self._score(outcomes)


def right(outcome: Outcome) -> float:
    return float(bool(outcome.replies) and outcome.replies[-1] == outcome.sample.target)


class Novelty:
    """Likes what it has not scored before."""

    def __init__(self) -> None:
        self.scored: list[list[str]] = []

    def score(self, outcomes: list[Outcome], *, seed: int = 0) -> list[Score]:
        self.scored.append([outcome.sample.id for outcome in outcomes])
        return [Score(float(self.scored.count(self.scored[-1]) == 1)) for _ in outcomes]


EVALUATORS = {
    "no evaluator": (object(), "object has no method score"),
    "raises": (Scoring(fails), r"score\(.*\).* raised RuntimeError: no display"),
    "cannot bear an empty reply": (
        Scoring(lambda os: [Score(float(o.replies[-1][0] == "r")) for o in os]),
        "IndexError",
    ),
    "one score too few": (
        Scoring(lambda os: [Score(right(o)) for o in os[1:]]),
        "of 4 outcomes gave .* a list",
    ),
    "no list": (Scoring(lambda os: os and 0.5), "of 4 outcomes gave 0.5; expected a list of as many Scores"),
    "numbers": (Scoring(lambda os: [right(o) for o in os]), r"was scored \d.0; expected a Score"),
    "words": (Scoring(lambda os: [Score("good") for o in os]), "was scored Score.value='good'.*; expected a Score"),
    "not finite": (Scoring(lambda os: [Score(float("inf")) for o in os]), "was scored Score.value=inf"),
    "rewards novelty": (Novelty(), "score.. gives other scores when it is called again"),
    "by chance": (Scoring(lambda os: [Score(random.random()) for o in os]), "is called again|depends on which"),
    "by place": (
        Scoring(lambda os: [Score(float(i)) for i, _ in enumerate(os)]),
        "depends on which other .* order",
    ),
    "in an order of its own": (
        Scoring(lambda os: [Score(right(o)) for o in sorted(os, key=lambda o: o.sample.id)]),
        "depends on which other outcomes are scored with it, or on their order",
    ),
    "by company": (
        Scoring(lambda os: [Score(right(o) - sum(map(right, os)) / len(os)) for o in os if os]),
        "depends on which other outcomes are scored with it",
    ),
    "nothing has a score": (Scoring(lambda os: [Score(right(o)) for o in os] or [Score(0.0)]), r"score\(\[\]\) gave"),
    "takes replies away": (
        Scoring(lambda os: [Score(0.0 * len([o.replies.clear() for o in os])) for o in os]),
        "changes the outcomes it is given",
    ),
    "sorts outcomes": (
        Scoring(lambda os: os.sort(key=right) or [Score(0.0) for o in os]),
        "changes the outcomes it is given",
    ),
}


@pytest.mark.parametrize(("evaluator", "said"), EVALUATORS.values(), ids=EVALUATORS)
def test_what_is_wrong_with_an_evaluator_is_reported_and_nothing_else(evaluator: Any, said: str) -> None:
    problems = check_evaluator(evaluator)
    assert problems
    for problem in problems:
        assert re.search(said, problem), problem


def test_an_evaluator_is_checked_on_the_outcomes_of_its_author() -> None:
    class Short:
        """Knows replies of up to three letters."""

        def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
            return [Score({1: 1.0, 2: 0.5, 3: 0.0}[len(o.replies[-1])]) for o in outcomes]

    ask = Sample("1", [Message("user", "short?")])
    assert check_evaluator(Short(), [Outcome(ask, ["a"]), Outcome(ask, ["abc"])]) == []
    assert check_evaluator(Short(), [Outcome(ask, ["abcd"])]) == [
        "score() of an outcome with the replies ['abcd'] raised KeyError: 4"
    ]


def test_learned_scores_may_differ_in_their_last_bits() -> None:
    class Batched:
        def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
            return [Score(0.5 + self.rounding * len(outcomes)) for _ in outcomes]

        rounding = 1e-6

    assert check_evaluator(Batched()) == []
    Batched.rounding = 1e-3
    assert len(check_evaluator(Batched())) == 1


@pytest.mark.parametrize(
    ("bounds", "said"),
    [((0, 0.5), "score() gave [1.0], outside its bounds (0.0, 0.5)"), ((1, 0), "the lower one first")],
)
def test_bounds_are_checked(bounds: tuple[float, float], said: str) -> None:
    class Sure:
        def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
            return [Score(1.0) for _ in outcomes]

    assert check_evaluator(Sure()) == []
    Sure.bounds = bounds  # type: ignore[attr-defined]
    (problem,) = check_evaluator(Sure())
    assert said in problem
