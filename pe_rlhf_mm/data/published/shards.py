"""Files that hold the steps of episodes, one after the other: of those that come packed, one is unpacked at a time."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

from pe_rlhf_mm.data.sources.source import Row, Source


class File(Source, Protocol):
    """A Source that can let go of its file."""

    def close(self) -> None: ...


class Shards:
    """A Source over files, of which one is open at a time: AndroidControl's are 50 GB in all.

    Each is unpacked twice, to be counted and to be read, where rows are read in order.
    """

    def __init__(self, files: Sequence[File]):
        self.files = files

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for number in range(len(self.files)):
            starts.append(starts[-1] + len(self._open(number)))
        return starts

    def _open(self, number: int) -> File:
        for other, file in enumerate(self.files):
            if other != number:
                file.close()
        return self.files[number]

    def _place(self, index: int) -> tuple[File, int]:
        index = range(len(self))[index]
        number = bisect.bisect_right(self._starts, index) - 1
        return self._open(number), index - self._starts[number]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Row:
        file, row = self._place(index)
        return file[row]

    def where(self, index: int) -> str:
        """Names a row by its file."""
        file, row = self._place(index)
        return file.where(row)
