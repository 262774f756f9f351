"""Training curves: from the lines of metrics.jsonl to the geometry that `curve.svg.jinja` draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pe_rlhf_mm.reports.records import Record, at, number
from pe_rlhf_mm.reports.wording import decimal, percent

WIDTH, HEIGHT = 360, 196
LEFT, RIGHT, TOP, BOTTOM = 42, 350, 24, 166
MAX_BUCKETS = 250
SMOOTH_FROM = 40
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Points = list[tuple[float, float]]


class Metric(NamedTuple):
    """One number that a stage reports, and what its curve says to a reader."""

    stage: str
    key: str
    title: str
    unit: str
    meaning: str


METRICS = (
    Metric("sft", "loss", "SFT: loss", "nats per token", "How surprised the model is by the demonstrations."),
    Metric("reward_model", "loss", "Reward model: loss", "nats per pair", "Guessing gives 0.693."),
    Metric(
        "reward_model", "validation_accuracy", "Reward model: validation accuracy", "%", "Held-out pairs ranked right."
    ),
    Metric(
        "rl", "validation_accuracy", "RL: validation accuracy", "%", "Held-out questions answered right; never trained on."
    ),
    Metric("rl", "reward", "RL: learned reward", "standard deviations", "What RL drives up: the reward model's verdict."),
    Metric("rl", "kl", "RL: KL to the SFT policy", "nats per reply", "How far RL has moved away from where it started."),
    Metric("rl", "length", "RL: reply length", "tokens", "A drift here often means the reward is being gamed."),
    Metric("rl", "entropy", "RL: entropy", "nats per token", "Near zero, the policy no longer tries anything new."),
    Metric(
        "rl", "sampler_gap", "RL: sampler-trainer gap", "nats", "Largest disagreement on a token's log-probability; ideally 0."
    ),
)  # fmt: skip


class Tick(NamedTuple):
    """A labelled place on an axis."""

    place: float
    label: str


class Curve(NamedTuple):
    """A curve ready to be drawn; `raw` lies behind `line` where that one is smoothed, else it is empty."""

    metric: Metric
    unit: str
    raw: str
    line: str
    dots: list[tuple[float, float]]
    before: float | None
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    last: str
    spoken: str


def draw_curves(lines: Sequence[Record]) -> list[Curve]:
    """A curve for every metric that has been reported so far."""
    series = [(metric, _points(lines, metric)) for metric in METRICS]
    return [_draw(metric, points) for metric, points in series if points]


def _points(lines: Iterable[Record], metric: Metric) -> Points:
    """(step, value) in the order of steps; what is not finite is left out."""
    own = [line for line in lines if at(line, "stage") == metric.stage]
    pairs = [(number(line, "step"), number(line, metric.key)) for line in own]
    factor = 100 if metric.unit == "%" else 1
    return sorted((step, factor * value) for step, value in pairs if step is not None and value is not None)


def _draw(metric: Metric, points: Points) -> Curve:
    noisy = metric.key != "validation_accuracy" and len(points) >= SMOOTH_FROM
    smooth = _smoothed(points) if noisy else points
    exponent = _exponent(points)
    (left, right), x_step = _axis([step for step, _ in points], 5)
    (bottom, top), y_step = _axis([value / 10**exponent for _, value in points], 4)
    if metric.unit == "%":
        bottom, top = max(bottom, 0), min(top, 100)
    left, right = points[0][0], max(points[-1][0], points[0][0] + 1)  # no empty margin beside the curve

    def place(point: tuple[float, float]) -> tuple[float, float]:
        step, value = point
        return _scale(step, left, right, LEFT, RIGHT), _scale(value / 10**exponent, bottom, top, BOTTOM, TOP)

    drawn = [place(point) for point in _thinned(smooth)]
    (_, first), (step, last) = smooth[0], smooth[-1]
    return Curve(
        metric=metric,
        unit=metric.unit if exponent == 0 else f"10{str(exponent).translate(SUPERSCRIPT)} {metric.unit}",
        raw=_path(place(point) for point in _thinned(points)) if noisy else "",
        line=_path(drawn),
        dots=drawn if len(drawn) < SMOOTH_FROM else drawn[-1:],
        before=drawn[0][1] if metric.key == "validation_accuracy" and points[0][0] == 0 else None,
        x_ticks=[Tick(_scale(tick, left, right, LEFT, RIGHT), f"{tick:,.0f}") for tick in _ticks(left, right, x_step)],
        y_ticks=[
            Tick(_scale(tick, bottom, top, BOTTOM, TOP), _tick_label(tick, y_step)) for tick in _ticks(bottom, top, y_step)
        ],
        last=_written(metric, last),
        spoken=f"{metric.title}: {_written(metric, first)} at first, {_written(metric, last)} at step {step:,.0f}",
    )


def _written(metric: Metric, value: float) -> str:
    return percent(value / 100) if metric.unit == "%" else decimal(value)


def _smoothed(points: Points) -> Points:
    """Means over a centred window of a twentieth of the curve; it narrows towards the ends, so nothing is shifted."""
    reach = max(len(points) // 40, 1)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    smooth = []
    for i, (step, _) in enumerate(points):
        near = min(reach, i + reach // 2, len(points) - 1 - i + reach // 2)
        low, high = max(i - near, 0), min(i + near + 1, len(points))
        smooth.append((step, (sums[high] - sums[low]) / (high - low)))
    return smooth


def _thinned(points: Points) -> Points:
    """The lowest and the highest point of each stretch: a long run stays a small file, and its spikes stay visible."""
    size = math.ceil(len(points) / MAX_BUCKETS)
    if size <= 2:
        return points
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    extremes = [{min(stretch, key=_value), max(stretch, key=_value)} for stretch in stretches]
    return [point for pair in extremes for point in sorted(pair)]


def _value(point: tuple[float, float]) -> float:
    return point[1]


def _exponent(points: Points) -> int:
    """The power of ten to write beside the unit, so that ticks are plain numbers: 0 for everyday sizes."""
    largest = max(abs(value) for _, value in points)
    return 0 if largest == 0 or 0.01 <= largest < 1e5 else 3 * math.floor(math.log10(largest) / 3)


def _axis(values: Sequence[float], parts: int) -> tuple[tuple[float, float], float]:
    """Round ends that hold all values, and a round distance between ticks."""
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / parts
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return (step * math.floor(low / step), step * math.ceil(high / step)), step


def _ticks(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [step * i for i in range(first, last + 1)]


def _tick_label(value: float, step: float) -> str:
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    if abs(step * 10**digits - round(step * 10**digits)) > 1e-6:  # steps of 0.25
        digits += 1
    return f"{value + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return round(start + (end - start) * (value - low) / (high - low), 1)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
