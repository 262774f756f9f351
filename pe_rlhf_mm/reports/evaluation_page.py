"""`report.html` and `report.md` of the log of an evaluation, or of two logs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.comparison import Difference, compare
from pe_rlhf_mm.evaluation.episodes import EpisodeCounts
from pe_rlhf_mm.reports import markdown
from pe_rlhf_mm.reports.curves import round_step
from pe_rlhf_mm.reports.evaluation_log import LogRecord, read_evaluation
from pe_rlhf_mm.reports.evaluation_samples import evaluators_of, page_samples
from pe_rlhf_mm.reports.histogram import Bin, bins
from pe_rlhf_mm.reports.records import at, interval, number, text
from pe_rlhf_mm.reports.rendering import render, write_whole
from pe_rlhf_mm.reports.stages import Bar, doubt
from pe_rlhf_mm.reports.wording import DASH, SPACE, count, decimal, gained

FACTS = ("policy", "fingerprint", "split", "seed", "temperature", "max_tokens", "judge", "against", "status")
_ENDINGS = {
    "running": "its status is running, so it is still being written, or its process was killed",
    "interrupted": "it was interrupted",
    "failed": "it failed",
}


class Result(NamedTuple):
    """One evaluator's line of a table; `log` is its letter where there are two."""

    log: str
    task: str
    evaluator: str
    n: str
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

    def bar(self, low: float, value: float, high: float) -> Bar:
        """An interval and its middle on this scale."""
        return Bar(*(100 * (x - self.low) / (self.high - self.low) for x in (low, value, high)))


def write_evaluation_report(log: Path, other: Path | None = None, out: Path | None = None) -> tuple[Path, Path]:
    """Writes the page of a log, and its numbers in Markdown beside it; returns both paths. Logs are only read.

    `other`: a second log, to be shown beside the first one. `out`: in place of report.html in the folder of `log`.
    Raises UserError for folders that are no logs, two that cannot be compared, and a file that cannot be written.
    """
    page = log / "report.html" if out is None else out
    if page.suffix != ".html":
        raise UserError(f"--out {page} is no page; expected a name that ends in .html. Its tables go to .md beside it.")
    differences = [] if other is None else compare(log, other)
    logs = [read_evaluation(folder) for folder in (log, other) if folder is not None]
    tables = page.with_suffix(".md")
    contents = {page: _page(logs, differences), tables: _markdown(logs, differences)}
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            write_whole(path, content)
    except OSError as error:
        raise UserError(f"{page} cannot be written: {error.strerror}. Give another --out.") from error
    return page, tables


def _page(logs: Sequence[LogRecord], differences: Sequence[Difference]) -> str:
    samples = page_samples(logs)
    scale = _scale_of(logs)
    reach = _reach(differences)
    values = {
        "task": _task(logs),
        "headline": _headline(logs, differences),
        "finished": all(log.finished for log in logs),
        "logs": [_facts(log) for log in logs],
        "letters": _letters(logs),
        "results": _results(logs, scale),
        "scale": [f"{end:g}" for end in scale],
        "pairs": [_paired(difference, Scale(-reach, reach)) for difference in differences],
        "reach": f"{reach:g}",
        "episodes": _episodes(logs),
        "histograms": _histograms(logs),
        "notes": _notes(logs) + samples.notes,
        "data": htmlsafe_json_dumps(samples.data, allow_nan=False),
        "screens": Markup(samples.style),
    }
    return render("evaluation.html.jinja", values, styles=("page.css", "evaluation.css"), script="evaluation.js")


def _markdown(logs: Sequence[LogRecord], differences: Sequence[Difference]) -> str:
    results = [[*result[:-1]][0 if len(logs) > 1 else 1 :] for result in _results(logs, _scale_of(logs))]
    head = ["log", "task", "evaluator", "n", "unscored", "value", "95 % interval"][0 if len(logs) > 1 else 1 :]
    parts = [f"# Evaluation: {markdown.plain(_task(logs))}", markdown.plain(_headline(logs, differences))]
    if differences:
        pairs = [_paired(difference, Scale(-1, 1)) for difference in differences]
        rows = [[p.evaluator, p.n, p.a, p.b, p.difference, p.interval, p.counts, p.unpaired] for p in pairs]
        named = ["evaluator", "n", "A", "B", "B − A", "95 % interval", "better / same / worse", "in one log only"]
        parts.append(markdown.table(named, rows))
    if results:
        parts.append(markdown.table(head, results))
    facts = [_facts(log) for log in logs]
    parts.append(markdown.table(["", *_letters(logs)], [[name, *(told[name] for told in facts)] for name in facts[0]]))
    parts += [markdown.plain(line) for line in (*_episodes(logs), *_notes(logs))]
    return "\n\n".join(parts) + "\n"


def _task(logs: Sequence[LogRecord]) -> str:
    return text(logs[0].facts, "task")


def _letters(logs: Sequence[LogRecord]) -> list[str]:
    return ["A", "B"] if len(logs) > 1 else [""]


def _headline(logs: Sequence[LogRecord], differences: Sequence[Difference]) -> str:
    """What came out, in plain words."""
    unfinished = [f"This log is unfinished: {_ending(log)}." for log in logs if not log.finished]
    if differences:
        first = differences[0]
        ends = interval({"ends": list(first.interval)}, "ends")
        spread = "" if ends is None else f" (95{SPACE}% interval {gained(ends[0])} to {gained(ends[1])})"
        told = f"{first.evaluator} is {decimal(first.a)} for A and {decimal(first.b)} for B on {count(first.n)} samples"
        sentence = f"{told}: {gained(first.difference)}{spread}.{'' if ends is None else doubt(*ends)}"
        return " ".join([*unfinished, sentence])
    rows = _results(logs, _scale_of(logs))
    if not rows:
        return " ".join([*unfinished, f"Samples answered so far: {count(len(logs[0].answers))}. None is scored yet."])
    row = rows[0]
    spread = "" if row.interval == DASH else f" (95{SPACE}% interval {row.interval})"
    return " ".join([*unfinished, f"{row.evaluator} is {row.value} on {row.n} samples{spread}."])


def _ending(log: LogRecord) -> str:
    return _ENDINGS.get(text(log.facts, "status"), "it has no results")


def _facts(log: LogRecord) -> dict[str, str]:
    given = {**log.results, **log.facts}
    told = {name.replace("_", " "): text(given, name) for name in FACTS if at(given, name) is not None}
    clusters = {at(answer.line, "cluster") or key[0] for key, answer in log.answers.items()}
    return {
        "log": log.folder.resolve().name,
        **told,
        "samples": count(len(log.answers)),
        "clusters": count(len(clusters)),
    }


def _results(logs: Sequence[LogRecord], scale: Scale) -> list[Result]:
    lettered = zip(_letters(logs), logs, strict=True)
    return [_result(letter, log, metric, scale) for letter, log in lettered for metric in _metrics(log)]


def _metrics(log: LogRecord) -> list[Any]:
    found = at(log.results, "metrics")
    return found if isinstance(found, list) else []


def _result(letter: str, log: LogRecord, metric: object, scale: Scale) -> Result:
    value, ends = number(metric, "value"), interval(metric, "interval")
    return Result(
        log=letter,
        task=text(log.facts, "task"),
        evaluator=text(metric, "evaluator"),
        n=count(number(metric, "n")),
        unscored=count(number(metric, "unscored")),
        value=decimal(value),
        interval=DASH if ends is None else f"{decimal(ends[0])} to {decimal(ends[1])}",
        bar=None if ends is None or value is None else scale.bar(ends[0], value, ends[1]),
    )


def _scale_of(logs: Sequence[LogRecord]) -> Scale:
    """From 0 to 1, where most evaluators stay; wider for those that do not."""
    ends = [end for log in logs for metric in _metrics(log) for end in interval(metric, "interval") or ()]
    return Scale(min([0.0, *ends]), max([1.0, *ends]))


def _reach(differences: Sequence[Difference]) -> float:
    ends = [abs(end) for d in differences for end in interval({"ends": list(d.interval)}, "ends") or ()]
    return round_step(max([0.01, *ends]))


def _paired(d: Difference, scale: Scale) -> Paired:
    ends = interval({"ends": list(d.interval)}, "ends")
    return Paired(
        evaluator=d.evaluator,
        n=count(d.n),
        a=decimal(number(d.__dict__, "a")),
        b=decimal(number(d.__dict__, "b")),
        difference=gained(number(d.__dict__, "difference")),
        interval=DASH if ends is None else f"{gained(ends[0])} to {gained(ends[1])}",
        bar=None if ends is None else scale.bar(ends[0], d.difference, ends[1]),
        counts=f"{count(d.better)} / {count(d.same)} / {count(d.worse)}",
        unpaired=count(d.unpaired),
    )


def _episodes(logs: Sequence[LogRecord]) -> list[str]:
    """How the episodes of played tasks went, a line a log."""
    lines = []
    for letter, log in zip(_letters(logs), logs, strict=True):
        if at(log.results, "episodes") is not None:
            counts = {name: int(number(log.results, "episodes", name) or 0) for name in EpisodeCounts._fields}
            lines.append(
                f"{letter}: {EpisodeCounts(**counts).text()}." if letter else f"{EpisodeCounts(**counts).text()}."
            )
    return lines


def _histograms(logs: Sequence[LogRecord]) -> list[tuple[str, list[Bin], int]]:
    """(evaluator, bars, the highest count) of every evaluator that gave a value."""
    found = []
    for name in evaluators_of(logs):
        series = [log.values(name) for log in logs]
        if any(series):
            bars = bins(series)
            found.append((name, bars, max(n for bar in bars for n in bar.counts)))
    return found


def _notes(logs: Sequence[LogRecord]) -> list[str]:
    """What the numbers do not tell."""
    notes = []
    for letter, log in zip(_letters(logs), logs, strict=True):
        of = f" of {letter}" if letter else ""
        notes += [f"Unreadable lines of {name}{of}, left out: {count(n)}." for name, n in log.unreadable.items() if n]
        missing = sum(key not in log.scores for key in log.answers)
        if missing and log.scores:
            notes.append(f"Samples{of} that are not in the table, since they have no scores yet: {count(missing)}.")
        if missing == len(log.answers) > 0:
            notes.append(
                f"No sample{of} has a score yet: pe-rlhf eval run goes on, and pe-rlhf eval score scores what is there."
            )
    return notes
