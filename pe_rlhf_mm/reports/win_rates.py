"""Wins, ties and losses against other replies, as a log tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pe_rlhf_mm.evaluation.win_rate import doubt_of_judge
from pe_rlhf_mm.registry import title
from pe_rlhf_mm.reports.evaluation_log import LogRecord
from pe_rlhf_mm.reports.evaluation_tables import FARTHEST, letters
from pe_rlhf_mm.reports.records import at, interval, number, text
from pe_rlhf_mm.reports.wording import DASH, count, decimal, percent

PARTS = ("wins", "ties", "losses")


class Part(NamedTuple):
    """Wins, ties or losses, how many there are, and where they lie on a bar that is 100 long."""

    name: str
    n: str
    start: float
    width: float


class WinRateRow(NamedTuple):
    """One evaluator's win rate; `log` is its letter where there are two, and `parts` are empty where none are known."""

    log: str
    evaluator: str
    rate: str
    interval: str
    length_controlled: str
    flipped: str
    lengths: str
    unscored: str
    parts: list[Part]
    doubt: str = ""

    @property
    def counts(self) -> str:
        """As text: wins 61, ties 9, losses 30."""
        return ", ".join(f"{part.name} {part.n}" for part in self.parts) or DASH


def win_rates(logs: Sequence[LogRecord]) -> list[WinRateRow]:
    """Of every evaluator that compares replies, the logs beside each other."""
    rows = [row for letter, log in zip(letters(logs), logs, strict=True) for row in _rows(letter, log)]
    order = list(dict.fromkeys(row.evaluator for row in rows))
    return sorted(rows, key=lambda row: order.index(row.evaluator))


def _rows(letter: str, log: LogRecord) -> list[WinRateRow]:
    found = at(log.results, "win_rates")
    rates = found if isinstance(found, Mapping) else {}
    return [_row(letter, evaluator, rates[evaluator]) for evaluator in rates if isinstance(rates[evaluator], Mapping)]


def _row(letter: str, evaluator: str, found: object) -> WinRateRow:
    counts = [number(found, name) for name in PARTS]
    ends, lengths = interval(found, "interval"), [number(found, name) for name in ("length", "other_length")]
    return WinRateRow(
        log=letter,
        evaluator=title(text({"evaluator": evaluator}, "evaluator")),
        rate=decimal(number(found, "rate")),
        interval=DASH if ends is None else f"{decimal(ends[0])} to {decimal(ends[1])}",
        length_controlled=decimal(number(found, "length_controlled")),
        flipped=percent(number(found, "flipped")),
        lengths=" against ".join(map(count, lengths)),
        unscored=count(number(found, "unscored")),
        parts=_parts(counts),
        doubt=doubt_of_judge(number(found, "flipped") or 0.0, sum(n for n in counts if n is not None)),
    )


def _parts(counts: Sequence[float | None]) -> list[Part]:
    known = [n for n in counts if n is not None and 0 <= n < FARTHEST]
    if len(known) < len(PARTS) or sum(known) == 0:
        return []
    widths = [100 * n / sum(known) for n in known]
    named = zip(PARTS, known, widths, strict=True)
    return [Part(name, count(n), sum(widths[:i]), width) for i, (name, n, width) in enumerate(named)]
