"""Training curves: from the lines of metrics.jsonl to series, and to the geometry that `curve.svg.jinja` draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pe_rlhf_mm.reports.axes import Axis, Frame, Tick, round_step
from pe_rlhf_mm.reports.records import Record, at, number
from pe_rlhf_mm.reports.wording import decimal, percent, power_of_ten

MAX_BUCKETS = 250
LAST_STEP = 1e12
SMOOTH_FROM = 40
CHECKED = "validation_accuracy"
"""Measured now and then on many samples, so it is drawn as it is; everything else is noise around a trend."""
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
    Metric("sft", "least_used_expert", "SFT: least used expert", "%", "Its share; near zero, it is never asked."),
    Metric(
        "reward_model",
        CHECKED,
        "Reward model: validation accuracy",
        "%",
        "Held-out labels met.",
    ),
    Metric("rl", CHECKED, "RL: validation accuracy", "%", "Held-out samples got right; never trained on."),
    Metric("rl", "reward", "RL: learned reward", "standard deviations", "What the reward model says of the replies."),
    Metric(
        "rl",
        "control",
        "RL: control reward",
        "standard deviations",
        "What the reward model says that is kept out of the reward.",
    ),
    Metric(
        "rl",
        "disagreement",
        "RL: disagreement",
        "standard deviations",
        "How far the reward models differ about a reply.",
    ),
    Metric("rl", "earned", "RL: reward of the task", "an episode", "What the environment gave."),
    Metric(
        "rl",
        "scored",
        "RL: reward by an evaluator",
        "a reply or an episode",
        "What the evaluator says of what was drawn.",
    ),
    Metric("rl", "unscored", "RL: replies without a score", "%", "Nothing is learned from them."),
    Metric("rl", "success", "RL: episodes with a reward", "%", "Drawn as in training, which is not greedy."),
    Metric("rl", "turns", "RL: turns", "replies an episode", "Fewer is quicker; at the limit, episodes are cut."),
    Metric("rl", "invalid", "RL: replies that are no action", "%", "Not understood, or not to be carried out."),
    Metric("rl", "lost", "RL: lost episodes", "%", "By faults that are not the policy's; left out of training."),
    Metric("rl", "kl", "RL: KL to the SFT policy", "nats", "Of a reply or an episode: how far RL has moved."),
    Metric("rl", "length", "RL: reply length", "tokens", "A drift often means that the reward is being gamed."),
    Metric("rl", "entropy", "RL: entropy", "nats per token", "Near zero, the policy no longer tries anything new."),
    Metric("rl", "least_used_expert", "RL: least used expert", "%", "Its share; near zero, it is never asked."),
    Metric("rl", "staleness", "RL: staleness", "nats per token", "How far the policy is from the one that drew."),
    Metric("rl", "sampler_gap", "RL: sampler-trainer gap", "nats", "Largest gap between their log-probabilities."),
    Metric("preferences", CHECKED, "Preferences: validation accuracy", "%", "Held-out samples got right."),
    Metric("preferences", "loss", "Preferences: loss", "a pair", "Knowing nothing gives 0.693 of DPO, 0.5 of KTO."),
    Metric(
        "preferences",
        "accuracy",
        "Preferences: told apart",
        "%",
        "Pairs whose better reply has gained more; or ratings met.",
    ),
    Metric(
        "preferences",
        "margin",
        "Preferences: margin",
        "nats",
        "By how much more the better, or right, reply has gained.",
    ),
    Metric("preferences", "better", "Preferences: better reply", "nats", "Log-ratio to SFT; below 0, less likely."),
    Metric("preferences", "worse", "Preferences: worse reply", "nats", "Log-ratio to SFT; below 0, less likely."),
)


class Series(NamedTuple):
    """What a run has recorded of a metric, in its unit; `trend`: its moving average where it is noisy, else itself."""

    metric: Metric
    unit: str
    points: Points
    trend: Points
    last: str
    spoken: str

    @property
    def smoothed(self) -> bool:
        """Whether the points are noise around a trend."""
        return self.trend is not self.points

    @property
    def dots(self) -> Points:
        """The points that are marked: all of a short curve, the end of a long one."""
        return self.points if len(self.points) < SMOOTH_FROM else self.trend[-1:]

    @property
    def before(self) -> float | None:
        """What was measured before the first step."""
        step, value = self.points[0]
        return value if self.metric.key == CHECKED and step == 0 else None


class Curve(NamedTuple):
    """A series ready to be drawn; `raw` lies behind `line` where that one is smoothed, else it is empty."""

    series: Series
    raw: str
    line: str
    dots: Points
    before: float | None
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def recorded_series(lines: Sequence[Record]) -> list[Series]:
    """A series for every metric that has been reported so far."""
    found = [(metric, _points(lines, metric)) for metric in METRICS]
    return [_series(metric, points) for metric, points in found if points]


def draw_curves(lines: Sequence[Record]) -> list[Curve]:
    """The curves of a run."""
    return [_draw(series) for series in recorded_series(lines)]


def _points(lines: Iterable[Record], metric: Metric) -> Points:
    """(step, value) in the order of steps; what is not finite is left out."""
    own = [line for line in lines if at(line, "stage") == metric.stage]
    pairs = [(number(line, "step"), number(line, metric.key)) for line in own]
    factor = 100 if metric.unit == "%" else 1
    known = [(step, factor * value) for step, value in pairs if step is not None and value is not None]
    return sorted((step, value) for step, value in known if abs(step) < LAST_STEP and math.isfinite(value))


def _series(metric: Metric, points: Points) -> Series:
    exponent = _exponent(points)
    scaled = [(step, value / 10.0**exponent) for step, value in points]
    noisy = metric.key != CHECKED and len(points) >= SMOOTH_FROM
    trend = _smoothed(scaled) if noisy else scaled
    first, last = (_written(metric, value * 10.0**exponent) for _, value in (trend[0], trend[-1]))
    return Series(
        metric=metric,
        unit=metric.unit if exponent == 0 else f"{power_of_ten(exponent)} {metric.unit}",
        points=scaled,
        trend=trend,
        last=last,
        spoken=f"{metric.title}: {first} at first, {last} at step {trend[-1][0]:,.0f}",
    )


def _draw(series: Series) -> Curve:
    x = _step_axis(series.points)
    y = _value_axis([value for _, value in series.points], percent=series.metric.unit == "%")

    def place(points: Points) -> Points:
        return [(x.place(step), y.place(value)) for step, value in points]

    return Curve(
        series=series,
        raw=_path(place(_thinned(series.points))) if series.smoothed else "",
        line=_path(place(_thinned(series.trend))),
        dots=place(series.dots),
        before=None if series.before is None else y.place(series.before),
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
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


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
