"""Win rates by a judge: both orders, ties, and the rate at equal length."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pe_rlhf_mm.evaluation.win_rate import length_controlled, win_rate
from pe_rlhf_mm.types import Score
from tests.saying_judge import Saying, between, longer_wins, outcome, score


def test_a_win_is_one_in_both_orders() -> None:
    """The longer reply is preferred with 0.9 as the first one, and 0.8 as the second one."""
    judge = Saying(longer_wins)
    won, lost = score("pe/judge-win-rate", judge, outcome("long reply", "short"), outcome("short", "long reply"))
    assert (won.value, lost.value) == (1, 0)
    assert won.parts == pytest.approx(
        {"preference": 0.85, "flipped": 0, "first_place": 0.5, "length": 10, "other_length": 5}
    )
    assert lost.parts == pytest.approx(
        {"preference": 0.15, "flipped": 0, "first_place": 0.5, "length": 5, "other_length": 10}
    )
    assert len(judge.prompts) == 4


def test_a_judge_that_looks_at_the_place_only() -> None:
    """Always the first one: every verdict flips, all are ties, and the rate is 1/2."""
    outcomes = [outcome("x" * i, "y", id=str(i)) for i in range(1, 9)]
    found = score("pe/judge-win-rate", Saying(lambda prompt: {"1": 1.0}), *outcomes)
    rate = win_rate(found, [o.sample.id for o in outcomes])
    assert rate is not None
    assert (rate.rate, rate.wins, rate.ties, rate.losses, rate.flipped) == (0.5, 0, 8, 0, 1)
    assert rate.length_controlled == pytest.approx(0.5)


def test_no_preference_is_a_tie_that_does_not_flip() -> None:
    (found,) = score("pe/judge-win-rate", Saying(lambda prompt: {"1": 0.5, "2": 0.5}), outcome("a", "b"))
    assert (found.value, found.parts["flipped"]) == (0.5, 0)


def test_the_other_reply() -> None:
    judge = Saying(longer_wins)
    outcomes = [outcome("reply", "target", id="a"), outcome("reply", ["a list"], id="b"), outcome("reply", id="c")]
    first, second, third = score("pe/judge-win-rate", judge, *outcomes)
    assert first.parts["other_length"] == 6
    assert second.why == "sample b has no reply to be compared with: its target is no text"
    assert third.value is None
    against = {"a": ["of the other"], "b": ["first turn", "last"]}
    first, second, third = score("pe/judge-win-rate", judge, *outcomes, against=against)
    assert (first.parts["other_length"], second.parts["other_length"]) == (12, 4)
    assert third.why == "sample c has no reply to be compared with: the other log has no reply to it"


def test_one_order_without_a_verdict_is_no_score() -> None:
    judge = Saying(lambda prompt: {"1": 1.0} if between(prompt, "reply_1") == "reply" else None)
    assert score("pe/judge-win-rate", judge, outcome("reply", "target")) == [Score(None, "no verdict: no idea")]


def test_the_sum_by_hand() -> None:
    def one(value: float | None, preference: float, flipped: float, length: float) -> Score:
        parts = {"preference": preference, "flipped": flipped, "length": length, "other_length": 10.0}
        return Score(value, "", parts if value is not None else {})

    scores = [one(1, 0.9, 0, 10), one(1, 0.7, 0, 10), one(0.5, 0.6, 1, 10), one(0, 0.2, 0, 10), one(None, 0, 0, 0)]
    rate = win_rate(scores, list("aabbc"))
    assert rate is not None
    assert (rate.wins, rate.ties, rate.losses, rate.unscored) == (2, 1, 1, 1)
    assert (rate.rate, rate.flipped, rate.length, rate.other_length) == (0.625, 0.25, 10, 10)
    assert rate.length_controlled == pytest.approx(0.6)  # nobody is longer: the mean preference
    assert (rate.interval.low, rate.interval.high) == (0.25, 1.0)  # draws of two from a = 1 1 and b = .5 0
    assert "2 wins, 1 ties, 1 losses, 1 unscored; at equal length 0.600; 25.0 % flipped" in rate.text()


def test_other_scores_have_no_win_rate() -> None:
    assert win_rate([Score(1.0)], ["a"]) is None
    assert win_rate([Score(None)], ["a"]) is None


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.5), (0.7, -2.0), (-1.2, 0.8)])
def test_the_rate_at_equal_length_is_found_again(a: float, b: float) -> None:
    """Preferences that are exactly what the formula says of a and b: the rate at Δ = 0 is 1 / (1 + exp(-a))."""
    longer = np.random.default_rng(0).normal(30, 50, 400)
    preference = 1 / (1 + np.exp(-(a + b * np.tanh(longer / longer.std(ddof=1)))))
    assert length_controlled(preference, longer) == pytest.approx(1 / (1 + math.exp(-a)), abs=1e-3)
    assert abs(preference.mean() - 1 / (1 + math.exp(-a))) > 0.05  # which the mean is not


def test_the_rate_at_equal_length_is_that_of_another_fit() -> None:
    """Verdicts of 0 and 1, against a minimum that scipy looks for."""
    from scipy.optimize import minimize

    from pe_rlhf_mm.evaluation.win_rate import RIDGE

    rng = np.random.default_rng(1)
    for _ in range(20):
        longer = rng.normal(5, 20, 30).round()
        verdicts = (rng.random(30) < 1 / (1 + np.exp(-0.1 * longer))).astype(float)
        x = np.stack([np.ones(30), np.tanh(longer / longer.std(ddof=1))], axis=1)
        best = minimize(
            lambda at, x=x, y=verdicts: np.logaddexp(0, x @ at).sum() - y @ x @ at + RIDGE / 2 * at @ at,
            np.zeros(2), method="BFGS", options={"gtol": 1e-8},
        )  # fmt: skip
        assert length_controlled(verdicts, longer) == pytest.approx(1 / (1 + math.exp(-best.x[0])), abs=1e-4)


@pytest.mark.parametrize(("verdict", "limits"), [(1.0, (0.95, 1.0)), (0.0, (0.0, 0.05))])
def test_where_all_are_won_or_lost_there_is_an_answer(verdict: float, limits: tuple[float, float]) -> None:
    longer = np.linspace(-20, 40, 50)
    assert limits[0] <= length_controlled(np.full(50, verdict), longer) <= limits[1]


def test_where_lengths_tell_nothing_there_is_none() -> None:
    assert math.isnan(length_controlled(np.array([1.0, 0.0]), np.array([7.0, 7.0])))
    assert math.isnan(length_controlled(np.array([1.0]), np.array([7.0])))
    assert length_controlled(np.array([1.0, 0.5]), np.array([0.0, 0.0])) == 0.75
