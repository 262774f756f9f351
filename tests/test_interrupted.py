"""Preparations that are killed at any moment: what they leave, and what the same command makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from published_files import picture, tldr_row, write_tldr, write_vqav2

from pe_rlhf_mm.data.prepared import Unprepared, prepared

ROOT = Path(__file__).parent.parent

AT_ROW = """
read = shards.Rows.read
def killed(rows, number):
    if number == 70 and len(list(Path(home).glob(".unfinished/*/*/shards/??????"))) == 4:
        os.kill(os.getpid(), signal.{signal})
    return read(rows, number)
shards.Rows.read = killed
"""
AT_LINK = """
link = images.link
def killed(file, place, links=[]):
    links.append(link(file, place))
    if len(links) == 3:
        os.kill(os.getpid(), signal.{signal})
images.link = building.link = killed
"""
AT_IMAGE = """
write = Path.write_bytes
def killed(path, content, written=[]):
    if path.suffix == ".jpg" and "000004.partial" in str(path):
        write(path, content[:100])
        os.kill(os.getpid(), signal.{signal})
    return write(path, content)
Path.write_bytes = killed
"""
RENAMED = """
rename = Path.rename
def killed(path, target):
    rename(path, target)
    os.kill(os.getpid(), signal.{signal})
Path.rename = killed
"""
COMMAND = """
import os, signal, sys
from pathlib import Path
from pe_rlhf_mm.cli.main import main
from pe_rlhf_mm.data.preparation import building, images, shards
home = sys.argv[1]
shards.ROWS = building.ROWS = 16
{fault}
sys.argv = ["pe-rlhf", "data", "prepare", sys.argv[2], "--from", sys.argv[3], "--out", home, *sys.argv[4:]]
main()
"""


def run(home: Path, folder: Path, *more: str, name: str = "tldr", fault: str = "") -> int:
    """The command as its own process, with a fault put in; its exit code."""
    command = [sys.executable, "-c", COMMAND.format(fault=fault), str(home), name, str(folder), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode


def contents(home: Path, name: str = "tldr") -> dict[str, bytes]:
    """Every file of the prepared data set."""
    folder = home / name / "1.0.0"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same(path: Path) -> tuple[int, int]:
    """What stays the same only while a file is neither copied nor made again, under the same number perhaps."""
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 rows in seven shards: all splits, copies, articles, a leak, a bad row."""
    splits = ("train", "valid1", "valid2")
    rows: list[Any] = [tldr_row(i, split=splits[i % 3]) for i in range(90)]
    rows[20] = rows[5]
    rows[33] = tldr_row(50)
    rows += [tldr_row(i) | {"info": {"id": "c", "article": "A", "title": "T"}} for i in range(9)] + [{"info": 1}]
    folder = tmp_path_factory.mktemp("comparisons")
    write_tldr(folder, rows)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(comparisons: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    home = tmp_path_factory.mktemp("whole")
    assert run(home, comparisons, "--skip-bad") == 0
    return contents(home)


@pytest.mark.parametrize(("fault", "made"), [(AT_ROW, 4), (AT_LINK, 7)], ids=["between rows", "at the end"])
@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -9), ("SIGINT", 130), ("SIGTERM", 143)])
def test_a_killed_process_goes_on_where_it_was(
    fault: str,
    made: int,
    name: str,
    code: int,
    comparisons: Path,
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path))
    assert run(tmp_path, comparisons, "--skip-bad", fault=fault.format(signal=name)) == code
    with pytest.raises(Unprepared, match="tldr is not prepared"):
        prepared("tldr", "train")
    finished = sorted(tmp_path.glob(".unfinished/tldr/*/shards/??????"))
    assert [path.name for path in finished] == [f"{i:06d}" for i in range(made)]
    first = same(finished[0] / "test.array_record")
    assert run(tmp_path, comparisons, "--skip-bad") == 0
    assert contents(tmp_path) == uninterrupted
    assert same(next((tmp_path / "tldr" / "1.0.0").glob("tldr-test*-00000-*"))) == first, "it was made again"
    assert not list(tmp_path.glob("tldr/incomplete*"))
    assert not list(tmp_path.glob(".unfinished/tldr/*"))


@pytest.fixture(scope="module")
def illustrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 questions in seven shards: 13 images that several shards bring, two of the same bytes; later ones by one."""
    folder = tmp_path_factory.mktemp("illustrated")
    for split, count in (("train2014", 90), ("val2014", 10)):
        questions = [(i % 13 if i < 60 else i, f"What is it, {split} {i}?", ["a"] * 10) for i in range(count)]
        write_vqav2(folder, split, questions, pictures={n: picture(max(n, 1)) for n in range(90)})
    return folder


@pytest.mark.parametrize(
    ("fault", "made"),
    [(AT_ROW, 4), (AT_IMAGE, 4), (AT_LINK, 7)],
    ids=["between rows", "within an image", "as images are put together"],
)
def test_a_killed_process_leaves_no_image_twice_and_none_in_pieces(
    fault: str, made: int, illustrated: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    assert run(tmp_path / "whole", illustrated, name="vqav2") == 0
    assert run(home, illustrated, name="vqav2", fault=fault.format(signal="SIGKILL")) == -9
    assert not (home / "vqav2" / "1.0.0").exists()
    shards = sorted(home.glob(".unfinished/vqav2/*/shards/??????"))
    assert len(shards) == made
    brought = {path.name: same(path) for path in (shards[0] / "images").iterdir()}
    assert len(brought) == 12
    assert run(home, illustrated, name="vqav2") == 0
    assert contents(home, "vqav2") == contents(tmp_path / "whole", "vqav2")
    found = {path.name: path for path in (home / "vqav2" / "1.0.0" / "images").rglob("*.jpg")}
    assert len(found) == 12 + 30
    assert {name: same(found[name]) for name in brought} == brought, "they were made again"
    assert {path.stat().st_nlink for path in found.values()} == {1}
    assert not list(home.glob(".unfinished/vqav2/*"))


def test_the_counts_of_the_whole(uninterrupted: dict[str, bytes]) -> None:
    report = json.loads(uninterrupted["preparation.json"])
    assert report["read"] == 100
    # Row 20, of valid2, is a copy of row 5, and row 33, of train, has the post of row 50, which is of valid2.
    assert report["kept"] == {"train": 29, "validation": 30, "test": 29}
    assert {reason: group["rows"] for reason, group in report["set_aside"].items()} == {
        "CNN/DM article": 9,
        "duplicate": 1,
        "prompt is in test": 1,
    }
    assert len(report["skipped"]) == 1
    assert report["skipped"][0].endswith("batch3.json, line 100: the field 'info' holds a int; expected dict.")


def test_killed_while_it_replaces_a_data_set_it_brings_it_back(
    comparisons: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    """The old data set has been moved away, and the new one is not there yet."""
    home, other = tmp_path / "home", tmp_path / "other"
    write_tldr(other, [tldr_row()])
    assert run(home, comparisons, "--skip-bad") == 0
    assert run(home, other, "--overwrite", fault=RENAMED.format(signal="SIGKILL")) == -9
    assert not (home / "tldr" / "1.0.0").exists()
    assert run(home, other) == 2  # it was made from other files
    assert contents(home) == uninterrupted
    assert run(home, other, "--overwrite") == 0
    assert json.loads(contents(home)["preparation.json"])["read"] == 1
    assert not list(home.glob(".unfinished/tldr/*"))


def test_a_disk_that_fills_up(comparisons: Path, uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    """Writing beyond 100 kB fails in this process, and an ArrayRecord file is larger than that."""
    fault = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    assert run(tmp_path, comparisons, "--skip-bad", fault=fault) == 2
    assert not (tmp_path / "tldr").exists()
    assert run(tmp_path, comparisons, "--skip-bad") == 0
    assert contents(tmp_path) == uninterrupted


def test_shards_of_other_files_are_not_taken(comparisons: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    write_tldr(changed, [tldr_row(i) for i in range(100)])
    assert run(tmp_path / "home", changed, fault=AT_ROW.format(signal="SIGKILL")) == -9
    write_tldr(changed, [tldr_row(i, worker="other") for i in range(100)])
    assert run(tmp_path / "home", changed) == 0
    import tensorflow_datasets as tfds

    rows = tfds.builder_from_directory(tmp_path / "home" / "tldr" / "1.0.0").as_data_source("train")
    assert {rows[i]["worker"] for i in range(len(rows))} == {b"other"}
    assert not list((tmp_path / "home").glob(".unfinished/tldr/*"))
    assert len(rows) == 100


def test_tensorflow_is_not_imported(comparisons: Path, tmp_path: Path) -> None:
    """An installed TensorFlow would end the process."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit(77)")
    fault = f"sys.path.insert(0, {str(tmp_path)!r})"
    assert run(tmp_path / "home", comparisons, "--skip-bad", fault=fault) == 0
