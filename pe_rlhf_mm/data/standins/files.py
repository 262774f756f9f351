"""How stand-ins are read and written: the same content gives the same bytes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

from pe_rlhf_mm.data.sources.source import Row, Source


def rows_of(source: Source) -> list[Row]:
    """All rows of a source. Raises BadRow for the first that cannot be used."""
    return [source[index] for index in range(len(source))]


def write_json(path: Path, document: object) -> None:
    """One JSON document, on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[Row]) -> int:
    """JSON Lines, packed if the name ends in .gz; returns how many."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    content = "".join(lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    # mtime: the time of day would stand in the file.
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return len(lines)
