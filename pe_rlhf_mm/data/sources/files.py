"""The bytes of one file, mapped into memory; a gzip file is unpacked first."""

from __future__ import annotations

import gzip
import mmap
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from pe_rlhf_mm.errors import UserError

GZIP = b"\x1f\x8b\x08"
"""How a gzip file begins. Names say little: AndroidControl's shards are compressed and have no suffix."""
BLOCK = 1 << 20
"""Bytes unpacked at a time."""

Bytes = mmap.mmap | bytes


class Contents(NamedTuple):
    """What a file holds, and why it ends there, where it ends too early."""

    data: Bytes
    damage: str


def existing_file(path: Path) -> Path:
    """The path itself. Raises UserError unless it is a file that holds something."""
    if not path.is_file():
        raise UserError(f"{path} is a folder; expected a file." if path.is_dir() else f"{path} does not exist.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty. Name another file, or download it again.")
    return path


def contents(path: Path) -> Contents:
    """Maps a file into memory, or what it holds where it is compressed by gzip.

    Rows are reached at random, which gzip does not allow, so it is unpacked once, into a temporary file that has no
    name: it goes with the last reference, or with the process however that ends, and unlike memory it is given back
    when others need room. Raises UserError for a file that is missing, empty or cannot be read.
    """
    try:
        with existing_file(path).open("rb") as file:
            if file.read(len(GZIP)) != GZIP:
                return Contents(_mapped(file), "")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        with tempfile.TemporaryFile() as unpacked:
            damage = _unpack(path, unpacked)
            unpacked.flush()
            if unpacked.tell() == 0 and not damage:
                raise UserError(f"{path} is empty once unpacked. Download it again.")
            return Contents(_mapped(unpacked), damage)
    except OSError as error:
        raise UserError(
            f"{path} cannot be unpacked into {tempfile.gettempdir()}: {error.strerror}. "
            "Make room there, or name another folder by TMPDIR."
        ) from error


def _mapped(file: IO[bytes]) -> Bytes:
    file.seek(0, 2)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""


def _unpack(path: Path, into: IO[bytes]) -> str:
    """Unpacks as much as there is; returns why it is not all."""
    try:
        for block in _blocks(path):
            into.write(block)
    except EOFError:
        return "the gzip file ends too early, and what follows is missing. Download it again."
    except (gzip.BadGzipFile, zlib.error) as error:
        return f"the gzip file is damaged here or before ({error}). Download it again."
    return ""


def _blocks(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as file:
        while block := file.read1(BLOCK):  # not read(), which drops what it has when it meets the damage
            yield block
