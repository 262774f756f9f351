"""SHA-256 of files: whether what lies on disk is what was written there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sums(folder: Path) -> dict[str, str]:
    """Of every file below a folder, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def first_wrong(folder: Path, expected: Mapping[str, str]) -> Path | None:
    """The first file that is not there, or not what it was; None if all are."""
    for name, sum in expected.items():
        path = folder / name
        if not path.is_file() or sha256(path) != sum:
            return path
    return None
