"""Small tables about the learned reward: what it says of the replies, and on which labels it is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pe_rlhf_mm.reports.records import Record, at, interval, number
from pe_rlhf_mm.reports.wording import DASH, count, gained, percent, reward

MOST_ROWS = 20
"""Of a breakdown: the values with the most labels."""
_REPLIES = {"sft": "SFT", "rl": "RL", "gain": "Gain by RL"}


class Line(NamedTuple):
    """A number with its name, how many it is the mean of, and its interval."""

    label: str
    value: str
    n: str
    interval: str


class Table(NamedTuple):
    """Lines under one title."""

    title: str
    measure: str
    lines: list[Line]


def reward_tables(summary: Record) -> list[Table]:
    """The tables that a run has numbers for."""
    written = {"sft": reward, "rl": reward, "gain": gained}
    rewards = [
        _line(label, at(summary, "learned_reward", name), "mean", written[name])
        for name, label in _REPLIES.items()
        if at(summary, "learned_reward", name) is not None
    ]
    found = at(summary, "reward_model", "by")
    parts = found if isinstance(found, Mapping) else {}
    tables = [Table("Learned reward of test replies", "deviations", rewards)]
    tables += [Table(f"Reward model by {name}", "accuracy", _parts(values)) for name, values in parts.items()]
    return [table for table in tables if table.lines]


def _parts(values: Any) -> list[Line]:
    """In the order of the run, without the smallest where there are too many."""
    known = dict(values) if isinstance(values, Mapping) else {}
    largest = sorted(known, key=lambda value: number(known[value], "n") or 0, reverse=True)[:MOST_ROWS]
    return [_line(str(value), known[value], "accuracy", percent) for value in known if value in largest]


def _line(label: str, record: object, key: str, written: Callable[[float | None], str]) -> Line:
    ends = interval(record, "interval")
    spread = DASH if ends is None else f"{written(ends[0])} to {written(ends[1])}"
    return Line(label, written(number(record, key)), count(number(record, "n")), spread)
