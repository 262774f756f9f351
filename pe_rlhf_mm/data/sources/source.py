"""What every published format is read through: rows by number, each of them good or refused by itself."""

from __future__ import annotations

from typing import Any, Protocol

from pe_rlhf_mm.errors import UserError

Row = dict[str, Any]


class BadRow(UserError):
    """A row that cannot be used: `<path>, line 17: <reason>. <what was expected, what to do>`.

    It never quotes the row, which may be private or upsetting.
    """


class Source(Protocol):
    """Rows of one published format, by number from 0.

    Nothing is opened before it is needed, and a pickled source opens its files again where it is unpickled, so worker
    processes may share one. Asking for a length or a row raises UserError where the file as a whole cannot be read.
    Where a file ends too early, its good rows are followed by one bad row that says so.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row:
        """The row. Raises BadRow for one that cannot be used, IndexError past the end."""
        ...

    def where(self, index: int) -> str:
        """Names the row in messages: `train.jsonl.gz, line 17`."""
        ...
