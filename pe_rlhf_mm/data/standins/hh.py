"""Anthropic HH from one of its files: the published test pairs of harmless-base as a small training set and a test set.

For who has that file and not the other seven. A pair goes by a hash of its conversation: one in five is for test. The
rows stay as published, odd ones included. The texts are upsetting by design.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pe_rlhf_mm.data.sources.json_lines import JsonLines
from pe_rlhf_mm.data.standins.draws import share
from pe_rlhf_mm.data.standins.files import rows_of, write_json_lines
from pe_rlhf_mm.errors import UserError

NAMES = ("harmless-base/test.jsonl.gz", "harmless-base-test.jsonl.gz", "test.jsonl.gz")
TEST = 0.2


def fill(source: Path, folder: Path) -> dict[str, int]:
    """Writes `harmless-base/{train,test}.jsonl.gz`. Raises UserError if the published file is not in `source`."""
    path = next((source / name for name in NAMES if (source / name).is_file()), None)
    if path is None:
        raise UserError(f"{source} has none of {', '.join(NAMES)}: give the folder of the published test file.")
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for pair in rows_of(JsonLines(path)):
        conversation = pair["chosen"].rpartition("\n\nAssistant:")[0]
        # Not the key by which data/published/hh.py holds out validation rows: those would all be among the test rows.
        rows["test" if share("stand-in/hh", conversation) < TEST else "train"].append(pair)
    return {
        f"pairs ({split})": write_json_lines(folder / "harmless-base" / f"{split}.jsonl.gz", kept)
        for split, kept in rows.items()
    }
