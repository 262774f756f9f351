"""Training curves: from the lines of metrics.jsonl to the geometry that `curve.svg.jinja` draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pe_rlhf_mm.reports.records import Record, at, number
from pe_rlhf_mm.reports.wording import decimal, percent, power_of_ten

MAX_BUCKETS = 250
SMOOTH_FROM = 40
CHECKED = "validation_accuracy"
"""Measured now and then on many samples, so it is drawn as it is; everything else is noise around a trend."""


class Frame(NamedTuple):
    """The size of a drawing, and the edges of the field that its curve fills."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


FRAME = Frame(width=360, height=200, left=44, right=350, top=24, bottom=166)

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
    Metric("reward_model", "loss", "Reward model: loss", "nats", "Guessing gives 0.693."),
    Metric(
        "reward_model",
        CHECKED,
        "Reward model: validation accuracy",
        "%",
        "Held-out labels met.",
    ),
    Metric("rl", CHECKED, "RL: validation accuracy", "%", "Held-out samples got right; never trained on."),
    Metric("rl", "reward", "RL: learned reward", "standard deviations", "What the reward model says of the replies."),
    Metric("rl", "earned", "RL: reward of the task", "an episode", "What the environment gave."),
    Metric("rl", "success", "RL: episodes with a reward", "%", "Drawn as in training, which is not greedy."),
    Metric("rl", "turns", "RL: turns", "replies an episode", "Fewer is quicker; at the limit, episodes are cut."),
    Metric("rl", "invalid", "RL: replies that are no action", "%", "Not understood, or not to be carried out."),
    Metric("rl", "lost", "RL: lost episodes", "%", "By faults that are not the policy's; left out of training."),
    Metric("rl", "kl", "RL: KL to the SFT policy", "nats", "Of a reply or an episode: how far RL has moved."),
    Metric("rl", "length", "RL: reply length", "tokens", "A drift often means that the reward is being gamed."),
    Metric("rl", "entropy", "RL: entropy", "nats per token", "Near zero, the policy no longer tries anything new."),
    Metric("rl", "sampler_gap", "RL: sampler-trainer gap", "nats", "Largest gap between their log-probabilities."),
)


class Tick(NamedTuple):
    """A labelled place on an axis."""

    place: float
    label: str


class Axis(NamedTuple):
    """The range of an axis, the distance between its ticks, and where on the drawing it starts and ends."""

    low: float
    high: float
    step: float
    start: int
    end: int

    def place(self, value: float) -> float:
        """Where on the drawing a value lies."""
        return round(self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[Tick]:
        """Round values within the range."""
        first, last = math.ceil(self.low / self.step - 1e-6), math.floor(self.high / self.step + 1e-6)
        return [Tick(self.place(self.step * i), _tick_label(self.step * i, self.step)) for i in range(first, last + 1)]


class Curve(NamedTuple):
    """A curve ready to be drawn; `raw` lies behind `line` where that one is smoothed, else it is empty."""

    metric: Metric
    unit: str
    raw: str
    line: str
    dots: Points
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
    noisy = metric.key != CHECKED and len(points) >= SMOOTH_FROM
    smooth = _smoothed(points) if noisy else points
    exponent = _exponent(points)
    scale = 10.0**exponent
    x, y = _step_axis(points), _value_axis([value / scale for _, value in points], percent=metric.unit == "%")

    def place(points: Points) -> Points:
        return [(x.place(step), y.place(value / scale)) for step, value in points]

    (_, first), (step, last) = smooth[0], smooth[-1]
    return Curve(
        metric=metric,
        unit=metric.unit if exponent == 0 else f"{power_of_ten(exponent)} {metric.unit}",
        raw=_path(place(_thinned(points))) if noisy else "",
        line=_path(place(_thinned(smooth))),
        dots=place(points if len(points) < SMOOTH_FROM else smooth[-1:]),
        before=y.place(points[0][1] / scale) if metric.key == CHECKED and points[0][0] == 0 else None,
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        last=_written(metric, last),
        spoken=f"{metric.title}: {_written(metric, first)} at first, {_written(metric, last)} at step {step:,.0f}",
    )


def _written(metric: Metric, value: float) -> str:
    return percent(value / 100) if metric.unit == "%" else decimal(value)


def _smoothed(points: Points) -> Points:
    """Means over a centred window, a twentieth of the curve wide; at the ends, over the part of it that exists."""
    reach = max(len(points) // 40, 1)
    sums = list(itertools.accumulate((value for _, value in points), initial=0.0))
    smooth = []
    for i, (step, _) in enumerate(points):
        low, high = max(i - reach, 0), min(i + reach + 1, len(points))
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


def _step_axis(points: Points) -> Axis:
    first, last = points[0][0], points[-1][0]
    high = max(last, first + 1)
    return Axis(first, high, max(round(round_step((high - first) / 5)), 1), FRAME.left, FRAME.right)


def _value_axis(values: Sequence[float], *, percent: bool) -> Axis:
    """Holds all values with a little room; no percentage outside 0 to 100."""
    low, high = min(values), max(values)
    if high - low <= 1e-6 * max(abs(low), abs(high)):  # flat, but for rounding
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    room = (high - low) / 25
    bottom, top = low - room, high + room
    if percent:
        bottom, top = max(bottom, 0.0), min(top, 100.0)
    return Axis(bottom, top, round_step((high - low) / 5), FRAME.bottom, FRAME.top)


def round_step(rough: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _tick_label(value: float, step: float) -> str:
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    if abs(step * 10**digits - round(step * 10**digits)) > 1e-6:  # steps of 0.25
        digits += 1
    return f"{value + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
