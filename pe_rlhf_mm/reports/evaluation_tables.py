"""What the tables of an evaluation's log say, or of two logs: the rows, each with its interval as it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pe_rlhf_mm.evaluation.comparison import Difference
from pe_rlhf_mm.registry import title
from pe_rlhf_mm.reports.axes import round_step
from pe_rlhf_mm.reports.evaluation_log import LogRecord
from pe_rlhf_mm.reports.evaluation_samples import evaluators_of
from pe_rlhf_mm.reports.histogram import Bin, bins
from pe_rlhf_mm.reports.records import at, interval, number, text
from pe_rlhf_mm.reports.stages import Bar
from pe_rlhf_mm.reports.wording import DASH, count, decimal, gained

FARTHEST = 1e9


class Result(NamedTuple):
    """One evaluator's line of a table; `log` is its letter where there are two."""

    log: str
    task: str
    evaluator: str
    n: str
    clusters: str
    unscored: str
    value: str
    interval: str
    bar: Bar | None


class Paired(NamedTuple):
    """One evaluator's line of the table of two logs."""

    evaluator: str
    n: str
    a: str
    b: str
    difference: str
    interval: str
    bar: Bar | None
    counts: str
    unpaired: str


class Scale(NamedTuple):
    """What the small bars of a table run from and to."""

    low: float
    high: float

    def place(self, bar: Bar) -> Bar:
        """A bar on this scale, which is 100 long."""
        return Bar(*(100 * (end - self.low) / (self.high - self.low) for end in bar))


def letters(logs: Sequence[LogRecord]) -> list[str]:
    """What tells two logs apart; nothing for one."""
    return ["A", "B"] if len(logs) > 1 else [""]


def results(logs: Sequence[LogRecord]) -> list[Result]:
    """A line for every evaluator of every log."""
    lettered = zip(letters(logs), logs, strict=True)
    return [_result(letter, log, metric) for letter, log in lettered for metric in _metrics(log)]


def _metrics(log: LogRecord) -> list[Any]:
    found = at(log.results, "metrics")
    return found if isinstance(found, list) else []


def _result(letter: str, log: LogRecord, metric: object) -> Result:
    value, ends = number(metric, "value"), interval(metric, "interval")
    return Result(
        log=letter,
        task=title(text(log.facts, "task")),
        evaluator=title(text(metric, "evaluator")),
        n=count(number(metric, "n")),
        clusters=count(number(metric, "clusters")),
        unscored=count(number(metric, "unscored")),
        value=decimal(value),
        interval=DASH if ends is None else f"{decimal(ends[0])} to {decimal(ends[1])}",
        bar=None if ends is None or value is None else _bar(ends[0], value, ends[1]),
    )


def pairs(differences: Sequence[Difference]) -> list[Paired]:
    """A line for every evaluator that both logs have."""
    return [_paired(difference) for difference in differences]


def _paired(d: Difference) -> Paired:
    ends = interval({"ends": list(d.interval)}, "ends")
    return Paired(
        evaluator=title(d.evaluator),
        n=count(d.n),
        a=decimal(number(d.__dict__, "a")),
        b=decimal(number(d.__dict__, "b")),
        difference=gained(number(d.__dict__, "difference")),
        interval=DASH if ends is None else f"{gained(ends[0])} to {gained(ends[1])}",
        bar=None if ends is None else _bar(ends[0], d.difference, ends[1]),
        counts=f"{count(d.better)} / {count(d.same)} / {count(d.worse)}",
        unpaired=count(d.unpaired),
    )


def _bar(*ends: float) -> Bar | None:
    """None where an end is so far out that nothing else could be seen."""
    return Bar(*ends) if max(map(abs, ends)) < FARTHEST else None


def scale_of(rows: Sequence[Result]) -> Scale:
    """From 0 to 1, where most evaluators stay; wider for those that do not."""
    ends = [end for row in rows if row.bar is not None for end in row.bar]
    return Scale(min([0.0, *ends]), max([1.0, *ends]))


def scale_of_pairs(rows: Sequence[Paired]) -> Scale:
    """As far to the worse as to the better."""
    reach = round_step(max([0.01, *(abs(end) for row in rows if row.bar is not None for end in row.bar)]))
    return Scale(-reach, reach)


class Histogram(NamedTuple):
    """How often an evaluator gave each value, in every log."""

    evaluator: str
    bins: list[Bin]

    @property
    def highest(self) -> int:
        """The highest count."""
        return max(n for bin in self.bins for n in bin.counts)


def histograms(logs: Sequence[LogRecord]) -> list[Histogram]:
    """Of every evaluator that gave a value."""
    found = [(name, [[*log.values(name).values()] for log in logs]) for name in evaluators_of(logs)]
    return [Histogram(title(name), bins(series)) for name, series in found if any(series)]
