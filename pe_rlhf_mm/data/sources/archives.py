"""Archives as data sets are published, unpacked whole and nowhere but into their folder."""

from __future__ import annotations

import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path
from typing import IO, NamedTuple

from pe_rlhf_mm.checkpoints.folders import written_whole
from pe_rlhf_mm.data.sources.files import existing_file
from pe_rlhf_mm.errors import UserError

BLOCK = 1 << 20
"""Bytes copied at a time."""
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError, NotImplementedError)
"""What reading a damaged archive raises; the last for ways of compression that Python does not know."""
ENCRYPTED = 1


class _Member(NamedTuple):
    name: str
    size: int
    kind: str
    open: Callable[[], IO[bytes] | None]

    @property
    def parts(self) -> list[str]:
        """Its path, of which archives made on Windows have backslashes in."""
        return [part for part in re.split(r"[/\\]", self.name) if part not in ("", ".")]


def unpack(path: Path, into: Path) -> Path:
    """Unpacks a .zip or .tar.gz into the folder `into`, which appears whole or not at all; returns it.

    Raises UserError, naming the member, before anything is written, if one would land outside the folder, is a link or
    a device, or is encrypted; and for an archive that is damaged or does not fit on the disk.
    """
    with _opened(existing_file(path)) as archive:
        members = _members(path, archive)
        for member in members:
            _refuse(path, member)
        with written_whole(into) as folder:
            _refuse_too_large(path, members, folder)
            for member in members:
                target = folder.joinpath(*member.parts)
                if member.kind == "folder":
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.writelines(_blocks(path, member))
    return into


def _opened(path: Path) -> zipfile.ZipFile | tarfile.TarFile:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        return zipfile.ZipFile(path) if zipped else tarfile.open(path, "r:gz")
    except DAMAGE as error:
        raise UserError(f"{path} is no .zip or .tar.gz, or is damaged{_reason(error)}. Download it again.") from error


def _members(path: Path, archive: zipfile.ZipFile | tarfile.TarFile) -> list[_Member]:
    try:
        if isinstance(archive, zipfile.ZipFile):
            return [_of_zip(archive, info) for info in archive.infolist()]
        members = [_of_tar(archive, info) for info in archive.getmembers()]
        while archive.fileobj and archive.fileobj.read(BLOCK):  # the checksum of all comes after the last member
            pass
        return members
    except DAMAGE as error:
        raise UserError(f"{path} is damaged{_reason(error)}. Download it again.") from error


def _of_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    mode = info.external_attr >> 16  # 0 where the archive was made on Windows
    kind = "file"
    if info.flag_bits & ENCRYPTED:
        kind = "encrypted"
    elif info.is_dir():
        kind = "folder"
    elif stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        kind = "link" if stat.S_ISLNK(mode) else "device"
    return _Member(info.filename, info.file_size, kind, lambda: archive.open(info))


def _of_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    kind = "device"
    if info.isfile():
        kind = "file"
    elif info.isdir():
        kind = "folder"
    elif info.issym() or info.islnk():
        kind = "link"
    return _Member(info.name, info.size, kind, lambda: archive.extractfile(info))


def _refuse(path: Path, member: _Member) -> None:
    what = f"{path}: the member {member.name[:200]!r}"
    publisher = "Nothing was unpacked; get the archive from its publisher."
    if re.match(r"[/\\]|[A-Za-z]:", member.name):
        raise UserError(f"{what} has an absolute path. {publisher}")
    if ".." in member.parts:
        raise UserError(f"{what} would land outside its folder. {publisher}")
    if member.kind == "encrypted":
        raise UserError(f"{what} is encrypted. Unpack the archive yourself, with its password.")
    if member.kind not in ("file", "folder"):
        raise UserError(f"{what} is a {member.kind}; expected only files and folders. {publisher}")


def _refuse_too_large(path: Path, members: list[_Member], folder: Path) -> None:
    needed, free = sum(member.size for member in members), shutil.disk_usage(folder).free
    if needed > free:
        room = f"{folder.parent.parent} has {free / 1e9:.1f} GB free"
        raise UserError(f"{path} unpacks to {needed / 1e9:.1f} GB, and {room}. Make room, or give another folder.")


def _blocks(path: Path, member: _Member) -> Iterator[bytes]:
    try:
        file = member.open()
        assert file is not None  # a regular file has bytes
        with file:
            while block := file.read(BLOCK):
                yield block
    except DAMAGE as error:
        what = f"{path}: the member {member.name!r} cannot be read"
        raise UserError(f"{what}{_reason(error)}. Download the archive again.") from error


def _reason(error: Exception) -> str:
    return f" ({error})" if str(error) else ""
