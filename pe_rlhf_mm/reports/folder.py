"""Reading a run folder, finished or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.reports.records import Record, at, text

MOST_WARNINGS = 20


class RunRecord(NamedTuple):
    """What a run has written so far; `unreadable` counts the lines left out, by file name."""

    folder: Path
    config: Record
    summary: Record
    metrics: list[Record]
    samples: list[Record]
    unreadable: dict[str, int]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and has its numbers."""
        return at(self.config, "status") == "finished" and bool(self.summary)

    @property
    def warnings(self) -> list[str]:
        """What training warned of, as it was told."""
        found = at(self.config, "warnings")
        told = [warning for warning in (found if isinstance(found, list) else []) if isinstance(warning, str)]
        return [text({"warning": warning}, "warning") for warning in told[:MOST_WARNINGS]]


def read_run(folder: Path) -> RunRecord:
    """Reads what is there. Raises UserError if the folder is no run folder, or a file is broken."""
    config = _object(folder / "config.json")
    if "task" not in config:
        raise UserError(
            f"{folder} is no run folder: it has no config.json that names a task. Name a folder made by a tuning."
        )
    metrics, torn_metrics = read_lines(folder / "metrics.jsonl")
    samples, torn_samples = read_lines(folder / "samples.jsonl")
    unreadable = {"metrics.jsonl": torn_metrics, "samples.jsonl": torn_samples}
    return RunRecord(folder, config, _object(folder / "summary.json"), metrics, samples, unreadable)


def _object(path: Path) -> Record:
    """The JSON object of a file, empty if there is no such file."""
    if not path.is_file():
        return {}
    found = _parse(path.read_bytes())
    if found is None:
        raise UserError(f"{path} does not hold a JSON object, so no report can be made from it.")
    return found


def read_lines(path: Path) -> tuple[list[Record], int]:
    """The objects of a JSONL file and the number of lines that are none: the last may be torn while a run goes on."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    parsed = [_parse(line) for line in lines if line.strip()]
    records = [record for record in parsed if record is not None]
    return records, len(parsed) - len(records)


def _parse(content: bytes) -> Record | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
