"""`report.html` and `report.md` of the log of an evaluation, or of two logs side by side."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.comparison import Difference, compare
from pe_rlhf_mm.evaluation.episodes import EpisodeCounts
from pe_rlhf_mm.registry import title
from pe_rlhf_mm.reports import markdown
from pe_rlhf_mm.reports.evaluation_log import LogRecord, read_evaluation
from pe_rlhf_mm.reports.evaluation_samples import page_samples
from pe_rlhf_mm.reports.evaluation_tables import histograms, letters, pairs, results, scale_of, scale_of_pairs
from pe_rlhf_mm.reports.figures import evaluation_figures
from pe_rlhf_mm.reports.records import at, interval, number, text
from pe_rlhf_mm.reports.rendering import render, write_all
from pe_rlhf_mm.reports.stages import doubt
from pe_rlhf_mm.reports.win_rates import win_rates
from pe_rlhf_mm.reports.wording import DASH, SPACE, count, decimal, gained

FACTS = ("policy", "fingerprint", "split", "seed", "temperature", "max_tokens", "judge", "against", "status")
_ENDINGS = {
    "running": "its status is running, so it is still being written, or its process was killed",
    "interrupted": "it was interrupted",
    "failed": "it failed",
}


def write_evaluation_report(
    log: Path, other: Path | None = None, out: Path | None = None, *, figures: bool = False
) -> list[Path]:
    """Writes the page of a log, and its numbers in Markdown beside it; returns their paths. Logs are only read.

    `other`: a second log, to be shown beside the first one. `out`: in place of report.html in the folder of `log`. With
    `figures`, what is drawn is written beside the page as `figures/*.png` too. Raises UserError for folders that are no
    logs, two that cannot be compared, a file that cannot be written, and figures without matplotlib.
    """
    page = log / "report.html" if out is None else out
    if page.suffix != ".html":
        raise UserError(f"--out {page} is no page; expected a name that ends in .html. Its tables go to .md beside it.")
    differences = [] if other is None else compare(log, other)
    with _nothing_collected():
        logs = [read_evaluation(folder) for folder in (log, other) if folder is not None]
        contents: dict[Path, str | bytes] = {page: _page(logs, differences)}
    contents[page.with_suffix(".md")] = _markdown(logs, differences)
    if figures:
        contents |= {page.parent / name: png for name, png in evaluation_figures(logs, differences).items()}
    return write_all(contents, page, "Give another --out.")


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Hundreds of thousands of small things are made for a page, all of them kept: there is no garbage to look for."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _page(logs: Sequence[LogRecord], differences: Sequence[Difference]) -> str:
    samples, rows, paired = page_samples(logs), results(logs), pairs(differences)
    values = {
        "task": _task(logs),
        "headline": _headline(logs, differences),
        "finished": all(log.finished for log in logs),
        "logs": [_facts(log) for log in logs],
        "letters": letters(logs),
        "results": rows,
        "scale": scale_of(rows),
        "pairs": paired,
        "scale_of_pairs": scale_of_pairs(paired),
        "episodes": _episodes(logs),
        "win_rates": win_rates(logs),
        "histograms": histograms(logs),
        "notes": _notes(logs) + samples.notes,
        "data": htmlsafe_json_dumps(samples.data, allow_nan=False),
        "screens": Markup(samples.style),
    }
    return render("evaluation.html.jinja", values, styles=("page.css", "evaluation.css"), script="evaluation.js")


def _markdown(logs: Sequence[LogRecord], differences: Sequence[Difference]) -> str:
    own = 0 if len(logs) > 1 else 1  # a log by itself has no letter
    parts = [f"# Evaluation: {markdown.plain(_task(logs))}", markdown.plain(_headline(logs, differences))]
    if differences:
        rows = [
            [p.evaluator, p.n, p.a, p.b, p.difference, p.interval, p.counts, p.unpaired] for p in pairs(differences)
        ]
        named = ["evaluator", "n", "A", "B", "B − A", "95 % interval", "better / same / worse", "in one log only"]
        parts.append(markdown.table(named, rows))
    if results(logs):
        head = ["log", "task", "evaluator", "n", "clusters", "unscored", "value", "95 % interval"]
        parts.append(markdown.table(head[own:], [[*result[:-1]][own:] for result in results(logs)]))
    if win_rates(logs):
        head = ["log", "evaluator", "win rate", "95 % interval", "at equal length", "flipped", "characters", "unscored"]
        rates = [[*rate[:-2], rate.counts][own:] for rate in win_rates(logs)]
        parts.append(markdown.table([*head, "verdicts"][own:], rates))
    facts = [_facts(log) for log in logs]
    parts.append(markdown.table(["", *letters(logs)], [[name, *(told[name] for told in facts)] for name in facts[0]]))
    parts += [markdown.plain(line) for line in (*_episodes(logs), *_notes(logs))]
    return "\n\n".join(parts) + "\n"


def _task(logs: Sequence[LogRecord]) -> str:
    return title(text(logs[0].facts, "task"))


def _headline(logs: Sequence[LogRecord], differences: Sequence[Difference]) -> str:
    """What came out, in plain words."""
    unfinished = [f"This log is unfinished: {_ending(log)}." for log in logs if not log.finished]
    if differences:
        first = differences[0]
        ends = interval({"ends": list(first.interval)}, "ends")
        spread = "" if ends is None else f" (95{SPACE}% interval {gained(ends[0])} to {gained(ends[1])})"
        told = f"is {decimal(first.a)} for A and {decimal(first.b)} for B on {count(first.n)} samples"
        sentence = f"{title(first.evaluator)} {told}: {gained(first.difference)}{spread}."
        return " ".join([*unfinished, sentence]) + ("" if ends is None else doubt(*ends))
    rows = results(logs)
    if not rows:
        return " ".join([*unfinished, f"Samples answered so far: {count(len(logs[0].answers))}. None is scored yet."])
    row = rows[0]
    spread = "" if row.interval == DASH else f" (95{SPACE}% interval {row.interval})"
    return " ".join([*unfinished, f"{row.evaluator} is {row.value} on {row.n} samples{spread}."])


def _ending(log: LogRecord) -> str:
    return _ENDINGS.get(text(log.facts, "status"), "it has no results")


def _facts(log: LogRecord) -> dict[str, str]:
    given = {**log.results, **log.facts}
    told = {name.replace("_", " "): title(text(given, name)) for name in FACTS if at(given, name) is not None}
    clusters = {at(answer.line, "cluster") or key[0] for key, answer in log.answers.items()}
    return {
        "log": log.folder.resolve().name,
        **told,
        "samples": count(len({id for id, _ in log.answers})),
        **({"tries": count(len(log.answers))} if any(repeat for _, repeat in log.answers) else {}),
        "clusters": count(len(clusters)),
    }


def _episodes(logs: Sequence[LogRecord]) -> list[str]:
    """How the episodes of played tasks went, a line a log."""
    lines = []
    for letter, log in zip(letters(logs), logs, strict=True):
        if at(log.results, "episodes") is not None:
            counts = {name: int(number(log.results, "episodes", name) or 0) for name in EpisodeCounts._fields}
            lines.append(
                f"{letter}: {EpisodeCounts(**counts).text()}." if letter else f"{EpisodeCounts(**counts).text()}."
            )
    return lines


def _notes(logs: Sequence[LogRecord]) -> list[str]:
    """What the numbers do not tell."""
    notes = [f"{rate.log or rate.evaluator}: {rate.doubt}" for rate in win_rates(logs) if rate.doubt]
    for letter, log in zip(letters(logs), logs, strict=True):
        of = f" of {letter}" if letter else ""
        notes += [f"Unreadable lines of {name}{of}, left out: {count(n)}." for name, n in log.unreadable.items() if n]
        missing = sum(key not in log.scores for key in log.answers)
        if missing and log.scores:
            notes.append(f"Samples{of} that are not in the table, since they have no scores yet: {count(missing)}.")
        notes += _silence(log, of)
        if missing == len(log.answers) > 0:
            notes.append(
                f"No sample{of} has a score yet: pe-rlhf eval run goes on, and pe-rlhf eval score scores what is there."
            )
    return notes


def _silence(log: LogRecord, of: str) -> list[str]:
    """Of samples that a server left without an answer, which have scores of null and no line of their own."""
    silent = [line for key, line in log.scores.items() if key not in log.answers]
    if not silent:
        return []
    given = [at(line, "scores") for line in silent]
    whys = [text(score, "why") for scores in given if isinstance(scores, dict) for score in [*scores.values()][:1]]
    commonest = max(dict.fromkeys(whys), key=whys.count, default="")
    told = (
        "1 sample has no answer, and stands"
        if len(silent) == 1
        else f"{count(len(silent))} samples have no answer, and stand"
    )
    return [f"{told} in no list{of}: {commonest}. The same pe-rlhf eval run asks again."]
