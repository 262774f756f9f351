"""Parquet, as data sets on the Hugging Face hub are stored."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pe_rlhf_mm.data.sources.files import existing_file
from pe_rlhf_mm.data.sources.source import BadRow, Row
from pe_rlhf_mm.errors import UserError


class Parquet:
    """The rows of a Parquet file as Python values.

    A group of rows is read as a whole, and the last one is kept: rows in order are fast, rows at random are not.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._group: tuple[int, Any] = (-1, None)

    @cached_property
    def _metadata(self) -> Any:
        from pyarrow import ArrowException, parquet

        try:
            return parquet.read_metadata(existing_file(self.path))
        except (ArrowException, OSError, ValueError) as error:
            what = f"{self.path} is no Parquet file, or is damaged ({_one_line(error)})"
            raise UserError(f"{what}. Download it again.") from error

    @cached_property
    def _starts(self) -> np.ndarray:
        sizes = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        return np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Row:
        from pyarrow import ArrowException

        index = range(len(self))[index]
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        try:
            return self._rows(group).slice(index - self._starts[group], 1).to_pylist()[0]
        except (ArrowException, OSError, ValueError) as error:  # the last for text that is not UTF-8
            wrong = f"it cannot be read ({_one_line(error)})"
            raise BadRow(f"{self.where(index)}: {wrong}. Download the file again.") from error

    def _rows(self, group: int) -> Any:
        """The table of one group. It opens the file anew, as one reader may not serve several threads."""
        number, table = self._group
        if number != group:
            from pyarrow import parquet

            with parquet.ParquetFile(self.path, metadata=self._metadata, page_checksum_verification=True) as file:
                table = file.read_row_group(group)
            if table.num_rows != self._starts[group + 1] - self._starts[group]:
                raise ValueError(f"its group has {table.num_rows} rows, not those that were written")
            self._group = group, table
        return table

    def where(self, index: int) -> str:
        """Names a row: `train.parquet, row 17`."""
        return f"{self.path}, row {index + 1}"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_group": (-1, None)}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
