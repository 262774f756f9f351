"""ArrayRecord, which TFDS and Grain store prepared data in: records at random, over any number of files."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pe_rlhf_mm.data.sources.files import existing_file
from pe_rlhf_mm.data.sources.source import BadRow, Row
from pe_rlhf_mm.errors import UserError


class ArrayRecords:
    """The records of some files, one file after the other.

    `decode` makes a row of a record's bytes; it raises ValueError for what it cannot read, and is picklable.
    """

    def __init__(self, paths: Sequence[str | Path], decode: Callable[[bytes], Row]):
        self.paths = [Path(path) for path in paths]
        self.decode = decode

    @cached_property
    def _readers(self) -> list[Any]:
        return [_open(path) for path in self.paths]

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((reader.num_records() for reader in self._readers), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def _place(self, index: int) -> tuple[int, int]:
        """The file a record is in, and its number there."""
        index = range(len(self))[index]
        file = bisect.bisect_right(self._starts, index) - 1
        return file, index - self._starts[file]

    def __getitem__(self, index: int) -> Row:
        file, number = self._place(index)
        try:
            # Not read([number]), which wakes a pool of threads and takes many times as long.
            return self.decode(self._readers[file].read(number, number + 1)[0])
        except (ValueError, RuntimeError) as error:  # the latter is array_record's, where a checksum fails
            raise BadRow(f"{self.where(index)}: it cannot be read ({error}). Make the file again.") from error

    def where(self, index: int) -> str:
        """Names a record: `train.array_record-00000-of-00002, record 17`."""
        file, number = self._place(index)
        return f"{self.paths[file]}, record {number + 1}"

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "decode": self.decode}


def _open(path: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(existing_file(path)))
    if reader.ok():  # it raises nothing by itself, and a file that is cut off would seem to hold no records
        return reader
    try:
        reader.close()
    except RuntimeError as error:
        raise UserError(f"{path} is no ArrayRecord file, or is damaged: {error}. Make it again.") from error
    raise UserError(f"{path} is no ArrayRecord file, or is damaged. Make it again.")
