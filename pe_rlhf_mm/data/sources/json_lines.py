"""JSON Lines: one JSON object a line, in UTF-8, compressed by gzip or not (jsonlines.org)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from pe_rlhf_mm.data.sources.files import Bytes, contents
from pe_rlhf_mm.data.sources.json_row import as_row, parse_json
from pe_rlhf_mm.data.sources.source import Row
from pe_rlhf_mm.data.sources.spans import Spans, SpanSource

BLOCK = 1 << 24
"""Bytes searched for line ends at a time."""


class JsonLines(SpanSource):
    """The lines of a .jsonl file, or of one that is called .json and is JSON Lines all the same.

    Empty lines are no rows, but they count where a line is named.
    """

    def _find(self) -> Spans:
        data, damage = contents(self.path)
        breaks = _line_breaks(data)
        starts = np.concatenate([[0], breaks + 1])
        ends = np.concatenate([breaks, [len(data)]])
        rows = ~_empty(data, starts, ends)
        rows[-1] |= bool(damage)  # whatever there is of the line that was cut off
        return Spans(data, starts[rows], ends[rows], np.flatnonzero(rows) + 1, damage)

    def _parse(self, content: bytes) -> Row:
        return as_row(parse_json(content))


def _line_breaks(data: Bytes) -> Int64[np.ndarray, "breaks"]:
    found = [np.zeros(0, np.int64)]
    for at in range(0, len(data), BLOCK):
        block = np.frombuffer(data, np.uint8, min(BLOCK, len(data) - at), at)
        found.append(np.flatnonzero(block == ord("\n")) + at)
    return np.concatenate(found)


def _empty(data: Bytes, starts: Int64[np.ndarray, "rows"], ends: Int64[np.ndarray, "rows"]) -> np.ndarray:
    """Which lines hold nothing, or only the carriage return that Windows leaves there."""
    lengths = ends - starts
    empty = lengths == 0
    for row in np.flatnonzero(lengths == 1):
        empty[row] = data[starts[row]] == ord("\r")
    return empty
