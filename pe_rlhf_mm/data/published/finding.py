"""The files of a folder: found wherever they lie below it, unpacked where they came packed."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from pe_rlhf_mm.data.published.description import REPORT
from pe_rlhf_mm.errors import UserError

Say = Callable[[str], None]
"""Told what takes a while before it begins."""


@dataclass(frozen=True)
class Found:
    """All files of a folder and below, in the order of their names."""

    folder: Path
    paths: tuple[Path, ...]

    def named(self, *patterns: str) -> list[Path]:
        """The files whose name fits one of the patterns."""
        return [path for path in self.paths if _fits(path, patterns)]

    @cached_property
    def by_name(self) -> dict[str, Path]:
        """A file for every name: the way to an image, of which there are too many to look for one by one."""
        return {path.name: path for path in reversed(self.paths)}

    def fingerprint(self) -> str:
        """What changes as soon as a file does: a hash of all names, sizes and times of change."""
        lines = []
        for path in self.paths:
            status = path.stat()
            lines.append(f"{path.relative_to(self.folder)} {status.st_size} {status.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def find(folder: Path) -> Found:
    """The files of a folder; hidden ones are none of a data set's. Raises UserError where there is no folder."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; expected the folder that holds the published files.")
    return Found(folder, tuple(sorted(_walk(folder))))


def unpacked(found: Found, archives: Sequence[str], into: Path, say: Say) -> Found:
    """The files found, and those in archives among them, unpacked once into a folder each.

    An archive that somebody has unpacked already is left alone: its first file lies below the folder. Raises UserError
    for a damaged archive, and for one that would write outside its folder.
    """
    from pe_rlhf_mm.data.sources.archives import unpack

    paths = list(found.paths)
    for path in found.named(*archives):
        if _first_file(path) in found.by_name:
            continue
        folder = into / path.name
        if not folder.is_dir():
            say(f"unpacking {path} ({path.stat().st_size / 1e6:,.1f} MB)")
            unpack(path, folder)
        paths += _walk(folder)
    return Found(found.folder, tuple(sorted(paths)))


def _first_file(path: Path) -> str:
    """The name of an archive's first file; nothing where it cannot be told."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                names = (info.filename for info in packed.infolist() if not info.is_dir())
                return PurePath(next(names, "")).name
        with tarfile.open(path) as packed:
            return PurePath(next((member.name for member in packed if member.isfile()), "")).name
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error):
        return ""  # whoever unpacks it says what is wrong


def _fits(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)


def _walk(folder: Path) -> list[Path]:
    """Every visible file but those of prepared data sets; linked folders are followed, each once."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or REPORT in names:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return found
