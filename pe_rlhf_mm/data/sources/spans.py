"""Formats whose rows are spans of the bytes of one file: found in one pass, then read at random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from pe_rlhf_mm.data.sources.files import Bytes
from pe_rlhf_mm.data.sources.source import BadRow, Row


class Spans(NamedTuple):
    """Where the rows are. `damage` tells why the last of them is none, where the file ends too early."""

    data: Bytes
    starts: Int64[np.ndarray, "rows"]
    ends: Int64[np.ndarray, "rows"]
    numbers: Int64[np.ndarray, "rows"]
    """What people call the rows: the number of the line, from 1."""
    damage: str


class SpanSource(ABC):
    """A Source over the spans of one file."""

    unit = "line"

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @abstractmethod
    def _find(self) -> Spans:
        """Finds the rows in one pass. Raises UserError for a file that cannot be read at all."""

    @abstractmethod
    def _parse(self, content: bytes) -> Row:
        """Reads one row. Raises ValueError with the reason, and what was expected, for one that cannot be used."""

    @cached_property
    def _spans(self) -> Spans:
        return self._find()

    def __len__(self) -> int:
        return len(self._spans.starts)

    def __getitem__(self, index: int) -> Row:
        data, starts, ends, _, damage = self._spans
        index = range(len(starts))[index]
        if damage and index == len(starts) - 1:
            raise BadRow(f"{self.where(index)}: {damage}")
        try:
            return self._parse(data[starts[index] : ends[index]])
        except ValueError as error:
            raise BadRow(f"{self.where(index)}: {error}") from error

    def where(self, index: int) -> str:
        """Names a row: `train.jsonl.gz, line 17`."""
        return f"{self.path}, {self.unit} {self._spans.numbers[index]}"

    def close(self) -> None:
        """Lets go of the file and of its unpacked copy. The next use opens it again."""
        self.__dict__.pop("_spans", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_spans"}
