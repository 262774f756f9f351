"""Archives unpacked whole and nowhere but into their folder, and the bad ones refused."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from published_files import write_zip, written

from pe_rlhf_mm.data.sources.archives import unpack
from pe_rlhf_mm.errors import UserError


def tar_gz(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written(path, buffer.getvalue())


FILES = {"val2014/a.jpg": b"picture", "val2014/deep/b.txt": "naïve".encode(), "top.json": b"{}", "empty.txt": b""}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_is_unpacked(kind: str, tmp_path: Path) -> None:
    path, folder = tmp_path / f"archive.{kind}", tarfile.TarInfo("val2014/none/")
    folder.type = tarfile.DIRTYPE
    if kind == "zip":
        write_zip(path, FILES | {"val2014/none/": b""})
    else:
        tar_gz(path, [(folder, b""), *((tarfile.TarInfo(name), content) for name, content in FILES.items())])
    into = tmp_path / "new" / "folder"
    assert unpack(path, into) == into
    assert {str(p.relative_to(into)): p.read_bytes() for p in into.rglob("*") if p.is_file()} == FILES
    assert (into / "val2014" / "none").is_dir()
    assert not [p for p in into.parent.iterdir() if p != into]


def test_the_paths_of_windows_are_paths(tmp_path: Path) -> None:
    unpack(write_zip(tmp_path / "a.zip", {"train\\a.txt": b"a", "./train//b.txt": b"b"}), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "train").iterdir()) == ["a.txt", "b.txt"]


def zip_member(name: str, mode: int = 0, flags: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.flag_bits = flags
    return info


def tar_member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.txt", "would land outside its folder"),
        ("a/../../evil.txt", "would land outside its folder"),
        ("a\\..\\..\\evil.txt", "would land outside its folder"),
        ("/var/evil.txt", "has an absolute path"),
        ("\\\\host\\evil.txt", "has an absolute path"),
        ("C:\\evil.txt", "has an absolute path"),
    ],
)
def test_a_member_outside_the_folder_is_refused_before_anything_is_written(name: str, why: str, tmp_path: Path) -> None:
    archives = [
        write_zip(tmp_path / "in" / "a.zip", {"good.txt": b"good", name: b"evil"}),
        tar_gz(tmp_path / "in" / "a.tar.gz", [(tar_member("good.txt"), b"good"), (tar_member(name), b"evil")]),
    ]
    for path in archives:
        with pytest.raises(UserError, match=why) as caught:
            unpack(path, tmp_path / "out" / "deep")
        assert str(caught.value).startswith(f"{path}: the member {name!r} ")
        assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (zip_member("link", stat.S_IFLNK | 0o777), "'link' is a link"),
        (zip_member("pipe", stat.S_IFIFO | 0o777), "'pipe' is a device"),
        (tar_member("link", tarfile.SYMTYPE), "'link' is a link"),
        (tar_member("link", tarfile.LNKTYPE), "'link' is a link"),
        (tar_member("pipe", tarfile.FIFOTYPE), "'pipe' is a device"),
        (tar_member("disk", tarfile.BLKTYPE), "'disk' is a device"),
    ],
)
def test_a_member_that_is_no_file_is_refused(
    member: zipfile.ZipInfo | tarfile.TarInfo, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "archive"
    if isinstance(member, zipfile.ZipInfo):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("good.txt", b"good")
            archive.writestr(member, b"../evil")
    else:
        tar_gz(path, [(tar_member("good.txt"), b"good"), (member, b"")])
    with pytest.raises(UserError, match=why):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["archive"]


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    content = bytearray(write_zip(tmp_path / "a.zip", {"secret.txt": b"secret"}).read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of both headers
        content[content.index(mark) + at] |= 1
    with pytest.raises(UserError, match=r"'secret\.txt' is encrypted"):
        unpack(written(tmp_path / "a.zip", bytes(content)), tmp_path / "out")


def test_a_damaged_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    members = {"a.txt": os.urandom(300), "b/c.txt": os.urandom(200)}
    paths = [
        write_zip(tmp_path / "a.zip", members),
        tar_gz(tmp_path / "a.tar.gz", [(tar_member(name), content) for name, content in members.items()]),
    ]
    for path in paths:
        content = path.read_bytes()
        for end in range(0, len(content), 7):
            path.write_bytes(content[:end])
            with pytest.raises(UserError, match=r"is empty|damaged|cannot be read"):
                unpack(path, tmp_path / "out")
        for at in (100, 300, len(content) - 5 if path.suffix == ".gz" else 120):  # data, data, checksum of all
            path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
            with pytest.raises(UserError, match=r"damaged|cannot be read"):
                unpack(path, tmp_path / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "a.zip"]


def test_an_archive_larger_than_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = namedtuple("disk", "total used free")
    path = write_zip(tmp_path / "a.zip", {"a.txt": bytes(1000), "b.txt": bytes(1000)})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(9999, 8000, 1999))
    with pytest.raises(UserError, match="unpacks to"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(9999, 7999, 2000))
    unpack(path, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    written(tmp_path / "out" / "mine.txt", b"mine")
    with pytest.raises(UserError, match="is not empty"):
        unpack(write_zip(tmp_path / "a.zip", {"mine.txt": b"theirs"}), tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_bytes() == b"mine"
