"""The curves of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from pe_rlhf_mm.reports.curves import MAX_BUCKETS, draw_curves


def lines_of(values: Sequence[float], key: str = "reward") -> list[dict[str, Any]]:
    return [{"stage": "rl", "step": i + 1, key: value} for i, value in enumerate(values)]


def places(path: str) -> list[tuple[float, float]]:
    pairs = (place.split() for place in path.removeprefix("M").split("L"))
    return [(float(x), float(y)) for x, y in pairs]


def test_a_noisy_curve_is_smoothed_in_front_of_its_raw_self() -> None:
    (curve,) = draw_curves(lines_of([i % 2 for i in range(100)]))
    raw, line = ([y for _, y in places(path)] for path in (curve.raw, curve.line))
    assert max(raw) - min(raw) > 100
    assert max(line) - min(line) < 60
    assert abs(sum(raw) / len(raw) - sum(line) / len(line)) < 3


def test_few_points_are_drawn_as_they_are() -> None:
    (curve,) = draw_curves(lines_of([0.1, 0.9, 0.1]))
    assert not curve.raw
    assert len(curve.dots) == 3


def test_a_long_run_keeps_its_spike_and_its_end() -> None:
    values = [0.0] * 20_000
    values[12_345] = 1.0
    (curve,) = draw_curves(lines_of(values, "kl"))
    assert len(places(curve.raw)) <= 2 * MAX_BUCKETS
    assert min(y for _, y in places(curve.raw)) < 60
    assert curve.dots[0][0] == 350


def test_numbers_that_are_none_leave_no_mark() -> None:
    (curve,) = draw_curves(lines_of([1.0, math.nan, math.inf, 2.0]))
    assert len(places(curve.line)) == 2
    assert draw_curves(lines_of([math.nan])) == []


@pytest.mark.parametrize(
    ("values", "key", "labels"),
    [
        ([0.0, 1.0], "reward", ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([-1.0, 0.25], "reward", ["−1.00", "−0.75", "−0.50", "−0.25", "0.00", "0.25"]),
        ([5.0, 5.0], "length", ["4.6", "4.8", "5.0", "5.2", "5.4"]),
        ([1.0, 1.0], "validation_accuracy", ["90", "95", "100"]),
        ([0.0, 4e-6], "sampler_gap", ["0", "1", "2", "3", "4"]),
    ],
)
def test_ticks_are_round_numbers(values: list[float], key: str, labels: list[str]) -> None:
    (curve,) = draw_curves(lines_of(values, key))
    assert [tick.label for tick in curve.y_ticks] == labels


def test_tiny_numbers_move_their_power_of_ten_to_the_unit() -> None:
    (curve,) = draw_curves(lines_of([1e-6, 4e-6], "sampler_gap"))
    assert curve.series.unit == "10⁻⁶ nats"


def test_steps_are_whole_numbers_and_a_single_one_can_be_drawn() -> None:
    (curve,) = draw_curves(lines_of([0.5]))
    assert [tick.label for tick in curve.x_ticks] == ["1", "2"]
    (curve,) = draw_curves(lines_of([0.5] * 13))
    assert [tick.label for tick in curve.x_ticks] == ["2", "4", "6", "8", "10", "12"]


def test_the_value_before_rl_is_a_line_across() -> None:
    checks = [{"stage": "rl", "step": step, "validation_accuracy": 0.5 + step / 1000} for step in (0, 50, 100)]
    (curve,) = draw_curves(checks)
    assert curve.before == curve.dots[0][1]
    (curve,) = draw_curves(checks[1:])
    assert curve.before is None
