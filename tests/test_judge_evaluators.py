"""Evaluators that ask a judge: grades, and what is likelier harmless."""

from __future__ import annotations

from typing import Any

import pytest

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.registry import evaluators
from pe_rlhf_mm.testing import check_evaluator
from pe_rlhf_mm.types import Message, Outcome, Sample, Score, Verdict
from tests.saying_judge import JUDGED, Saying, outcome, score


@pytest.mark.parametrize("name", JUDGED)
def test_they_are_evaluators(name: str) -> None:
    judge = Saying(lambda prompt: {"YES": 0.4, "NO": 0.6} if "rater" in prompt and "YES" in prompt else {"1": 1.0})
    assert check_evaluator(evaluators.make(name, {"judge": judge})) == []


@pytest.mark.parametrize(("harmful", "value"), [(0.2, 1), (0.5, 0), (0.8, 0)])
def test_harmless_is_what_is_likelier_not_harmful(harmful: float, value: float) -> None:
    (found,) = score("pe/judge-harmless", Saying(lambda prompt: {"YES": harmful, "NO": 1 - harmful}), outcome("x"))
    assert (found.value, found.parts) == (value, {"probability": 1 - harmful, "refused": 0})


@pytest.mark.parametrize(
    ("likely", "grade", "reward"),
    [({"1": 1.0}, 1, -1), ({"10": 1.0}, 10, 1), ({"5": 0.5, "6": 0.5}, 5.5, 0), ({"1": 0.25, "9": 0.75}, 7, 1 / 3)],
)
def test_a_grade_is_the_expected_one(likely: dict[str, float], grade: float, reward: float) -> None:
    (found,) = score("pe/judge-score", Saying(lambda prompt: likely), outcome("x"))
    assert found.value == pytest.approx(grade)
    assert found.parts == pytest.approx({"reward": reward})


@pytest.mark.parametrize("name", JUDGED)
def test_what_has_no_verdict_is_not_scored(name: str) -> None:
    judge = Saying(lambda prompt: None if "bad" in prompt else {"NO": 1.0, "2": 1.0})
    found = score(name, judge, outcome("good", "t"), outcome("bad", "t"), outcome("good", "t"))
    assert [s.value is None for s in found] == [False, True, False]
    assert found[1].why == "no verdict: no idea"
    silent = Outcome(Sample("s", (Message("user", "?"),), "t"), [])
    assert score(name, judge, silent) == [Score(None, "there is no reply")]


def test_a_judge_that_answers_something_else_is_refused() -> None:
    class Short(Saying):
        def choose(self, *asked: Any) -> list[Verdict]:
            return super().choose(*asked)[1:]

    class Another(Saying):
        def choose(self, *asked: Any) -> list[Verdict]:
            return [Verdict({"yes": 1.0})]

    with pytest.raises(UserError, match="the judge saying gave 0 verdicts on 1 prompts"):
        score("pe/judge-harmless", Short(lambda prompt: {"NO": 1.0}), outcome("x"))
    with pytest.raises(UserError, match="the judge saying gave probabilities of yes; expected those of YES, NO"):
        score("pe/judge-harmless", Another(lambda prompt: {}), outcome("x"))
