"""Data sets prepared by TFDS: what is kept, what is set aside, and what a killed process leaves behind."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from published_files import picture, tldr_row, write_easy_vqa, write_tldr, write_vqav2

from pe_rlhf_mm.data import building, duplicates, shards
from pe_rlhf_mm.data.examples import decode, encode
from pe_rlhf_mm.data.prepared import Unprepared, prepared
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.data.published.description import Kind, Part, Published, Record, SetAside, WrongRow
from pe_rlhf_mm.data.sources.source import BadRow, Row
from pe_rlhf_mm.errors import UserError

ROOT = Path(__file__).parent.parent
FEATURES: dict[str, Kind] = {"id": "int", "question": "text", "answers": "texts", "weight": "float"}


class Listed:
    """Rows in memory."""

    def __init__(self, rows: Sequence[Any]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        if self.rows[index] is None:
            raise BadRow(f"{self.where(index)}: broken. Mend it.")
        row: Row = self.rows[index]
        return row

    def where(self, index: int) -> str:
        return f"list, row {index + 1}"


def meaning(row: Row, split: str, subset: str) -> tuple[str, Record]:
    if "aside" in row:
        raise SetAside(row["aside"])
    if "wrong" in row:
        raise WrongRow(row["wrong"])
    return row["split"], {name: row[name] for name in FEATURES}


def row(id: int, split: str = "train", **changes: Any) -> Row:
    return {"id": id, "split": split, "question": f"q{id}", "answers": ["a", "é"], "weight": 0.5} | changes


def described(rows: Sequence[Any], **changes: Any) -> Published:
    """A data set of rows in memory."""
    part = Part(Listed(rows), lambda row: meaning(row, "", ""))
    values: dict[str, Any] = {
        "name": "tldr-posts",  # the catalogue must know it, to read it back
        "title": "T",
        "licence": "L",
        "where_to_get_it": "W.",
        "files": ("*",),
        "features": FEATURES,
        "prompt": ("question",),
        "ignored": ("id",),
        "parts": lambda found: [part],
        "row": meaning,
    }
    return Published(**values | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "rows").write_text("they are in memory")
    return tmp_path / "from"


def prepare(rows: Sequence[Any], folder: Path, **options: Any) -> dict[str, Any]:
    return building.prepare(described(rows), str(folder), folder.parent / "home", **options)


def read(folder: Path, split: str) -> list[Record]:
    """What TFDS itself reads."""
    import tensorflow_datasets as tfds

    place = folder.parent / "home" / "tldr_posts" / "1.0.0"
    return list(tfds.builder_from_directory(place).as_data_source(split))


# --- what is kept -----------------------------------------------------------------------------------------------


def test_tfds_reads_what_was_written(folder: Path) -> None:
    rows = [row(1), row(2, "test", answers=[]), row(-3, weight=-1.25, question="")]
    report = prepare(rows, folder)
    assert report["read"] == 3
    assert report["kept"] == {"train": 2, "test": 1}
    assert read(folder, "train") == [
        {"id": 1, "question": b"q1", "answers": [b"a", "é".encode()], "weight": 0.5},
        {"id": -3, "question": b"", "answers": [b"a", "é".encode()], "weight": -1.25},
    ]
    assert [len(record["answers"]) for record in read(folder, "test")] == [0]


def test_records_come_back_as_they_were() -> None:
    features: dict[str, Kind] = {**FEATURES, "image": "image"}
    record = {"id": 2**62, "question": "ü\0", "answers": [], "weight": 0.25, "image": b"\x00\xff"}
    assert decode(encode(record, features), features) == record
    assert decode(encode(record, FEATURES), features) == record | {"image": None}


def test_the_same_bytes_as_tfds(folder: Path) -> None:
    import tensorflow_datasets as tfds

    prepare([row(1)], folder)
    builder = tfds.builder_from_directory(folder.parent / "home" / "tldr_posts" / "1.0.0")
    features, record = builder.info.features, {name: row(1)[name] for name in FEATURES}
    theirs = features.serialize_example(features.encode_example(record))
    assert decode(theirs, FEATURES) == record
    assert features.deserialize_example_np(encode(record, FEATURES)) == features.deserialize_example_np(theirs)


@pytest.mark.parametrize("changes", [{"id": 2**63}, {"question": "\ud83d"}])
def test_what_cannot_be_kept_is_a_bad_row(folder: Path, changes: Row) -> None:
    name = next(iter(changes))
    with pytest.raises(BadRow, match=f"list, row 2: the field '{name}' holds what cannot be kept"):
        prepare([row(1), row(2) | changes], folder)


# --- what is set aside ------------------------------------------------------------------------------------------


def test_rows_set_aside_are_counted_with_their_places(folder: Path) -> None:
    rows = [row(0), *(row(i, aside="odd" if i % 2 else "even") for i in range(1, 14))]
    report = prepare(rows, folder)
    assert report["read"] == 14
    assert report["kept"] == {"train": 1}
    assert report["set_aside"] == {
        "odd": {"rows": 7, "where": [f"list, row {i + 1}" for i in (1, 3, 5, 7, 9)]},
        "even": {"rows": 6, "where": [f"list, row {i + 1}" for i in (2, 4, 6, 8, 10)]},
    }


def test_copies_and_prompts_of_other_splits_go(folder: Path) -> None:
    rows = [
        row(0, question="kept"),
        row(1, question="kept"),  # a copy: ids do not count
        row(2, question="kept", weight=2),  # the same prompt in the same split, another row
        row(3, question="seen in test"),
        row(4, question="seen in validation"),
        row(5, question="seen in both"),
        row(6, "validation", question="seen in test"),
        row(7, "validation", question="seen in validation"),
        row(8, "validation", question="seen in both"),
        row(9, "validation", question="kept in test"),
        row(10, "test", question="seen in test"),
        row(11, "test", question="seen in both"),
        row(12, "test", question="twice"),
        row(13, "test", question="twice"),
    ]
    report = prepare(rows, folder)
    assert report["kept"] == {"train": 2, "validation": 2, "test": 3}
    assert report["set_aside"] == {
        "duplicate": {"rows": 2, "where": ["list, row 14", "list, row 2"]},
        "prompt is in test": {"rows": 4, "where": [f"list, row {i}" for i in (7, 9, 4, 6)]},
        "prompt is in validation": {"rows": 1, "where": ["list, row 5"]},
    }
    assert [record["id"] for record in read(folder, "train")] == [0, 2]
    assert [record["id"] for record in read(folder, "validation")] == [7, 9]
    assert [record["id"] for record in read(folder, "test")] == [10, 11, 12]


def test_a_prompt_only_in_rows_that_went_protects_nothing(folder: Path) -> None:
    """The validation row goes because of the test split; the train row then goes for the same reason, not for two."""
    report = prepare([row(0), row(1, "test", question="q0"), row(2, "validation", question="q0"), row(3)], folder)
    assert report["set_aside"] == {"prompt is in test": {"rows": 2, "where": ["list, row 3", "list, row 1"]}}
    assert report["kept"] == {"train": 1, "test": 1}


def test_digests_tell_apart_what_is_different() -> None:
    records: list[Record] = [
        {"a": ["x", "y"], "b": "z"},
        {"a": ["x"], "b": "yz"},
        {"a": ["x', 'y"], "b": "z"},
        {"a": [], "b": "xyz"},
        {"a": b"x", "b": "z"},
        {"a": "x", "b": "z"},
    ]
    digests = {duplicates.digest(record, ("a", "b")) for record in records}
    assert len(digests) == len(records)
    assert all(len(digest) == 16 for digest in digests)
    assert duplicates.digest({"a": 1, "b": 2, "c": 3}, ("a", "b")) == duplicates.digest({"a": 1, "b": 2}, ("a", "b"))


def test_equal_digests_at_all_distances_are_found() -> None:
    """Against a dictionary, row by row."""
    random = np.random.default_rng(0)
    values = random.integers(0, 40, 300)
    rows = np.zeros(300, duplicates.DIGESTS)
    rows["content"] = [int(v).to_bytes(16, "big") for v in values]
    seen: set[int] = set()
    expected = [v in seen or bool(seen.add(v)) for v in values.tolist()]
    assert duplicates.surplus({"train": rows})["train"][duplicates.DUPLICATE].tolist() == expected


# --- bad rows ---------------------------------------------------------------------------------------------------


def test_a_bad_row_stops_with_its_place_or_is_listed(folder: Path) -> None:
    rows = [row(0), None, row(1, wrong="there is no field 'x'"), row(2)]
    with pytest.raises(BadRow, match=r"^list, row 2: broken\. Mend it\.$"):
        prepare(rows, folder)
    assert not (folder.parent / "home" / "tldr_posts").exists()
    report = prepare(rows, folder, skip_bad=True)
    assert report["skipped"] == ["list, row 2: broken. Mend it.", "list, row 3: there is no field 'x'."]
    assert report["read"] == 4
    assert report["kept"] == {"train": 2}


def test_shards_that_skipped_rows_do_not_count_where_none_may_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed while it skipped bad rows, and then the command without --skip-bad."""
    monkeypatch.setattr(building.PublishedBuilder, "download_and_prepare", interrupted)
    rows = [row(0), None]
    with pytest.raises(KeyboardInterrupt):
        prepare(rows, folder, skip_bad=True)
    monkeypatch.undo()
    with pytest.raises(BadRow, match="list, row 2"):
        prepare(rows, folder)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_nothing_to_keep_is_said(folder: Path) -> None:
    with pytest.raises(UserError, match="not one of 2 rows of tldr_posts can be kept: 2 gone"):
        prepare([row(0, aside="gone"), row(1, aside="gone")], folder)


# --- again, and over --------------------------------------------------------------------------------------------


def test_the_same_command_twice_does_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare([row(0)], folder)
    monkeypatch.setattr(shards, "_make", None)
    assert prepare([row(0)], folder) == first


def test_other_files_replace_a_data_set_only_where_that_is_said(folder: Path) -> None:
    prepare([row(0)], folder)
    (folder / "rows").write_text("changed")
    with pytest.raises(UserError, match=r"made from other files .*--overwrite replaces it"):
        prepare([row(1)], folder)
    assert [record["id"] for record in read(folder, "train")] == [0]
    with pytest.raises(BadRow):
        prepare([None], folder, overwrite=True)
    assert [record["id"] for record in read(folder, "train")] == [0]
    prepare([row(1)], folder, overwrite=True)
    assert [record["id"] for record in read(folder, "train")] == [1]


def test_what_is_replaced_comes_back_when_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare([row(0)], folder)
    (folder / "rows").write_text("changed")
    monkeypatch.setattr(building, "_link", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare([row(1)], folder, overwrite=True)
    assert [record["id"] for record in read(folder, "train")] == [0]


def test_two_processes_do_not_prepare_the_same(folder: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait(done: int, total: int) -> None:
        entered.set()
        leave.wait()

    thread = threading.Thread(target=prepare, args=([row(0)], folder), kwargs={"tick": wait})
    thread.start()
    entered.wait()
    try:
        with pytest.raises(UserError, match=r"is being prepared in .* by another process"):
            prepare([row(0)], folder)
    finally:
        leave.set()
        thread.join()
    assert [record["id"] for record in read(folder, "train")] == [0]


def test_a_disk_without_room_is_said_before_anything_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 rows of 200 kB each need 200 MB, and there are 190."""
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda path: SimpleNamespace(free=190_000_000))
    rows = [row(i, question="x" * 200_000) for i in range(1000)]
    with pytest.raises(UserError, match=r"needs about 0\.2 GB more .*, and 190\.0 MB are free"):
        prepare(rows, folder)
    assert prepare(rows[:1], folder)["kept"] == {"train": 1}


# --- killed -----------------------------------------------------------------------------------------------------

AT_ROW = """
read = shards.Rows.read
def killed(rows, number):
    if number == 70 and len(list(Path(home).glob(".unfinished/*/*/shards/??????"))) == 4:
        os.kill(os.getpid(), signal.{signal})
    return read(rows, number)
shards.Rows.read = killed
"""
AT_LINK = """
link = building._link
def killed(file, place, links=[]):
    links.append(link(file, place))
    if len(links) == 3:
        os.kill(os.getpid(), signal.{signal})
building._link = killed
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
from pe_rlhf_mm.data import building, shards
home = sys.argv[1]
shards.ROWS = building.ROWS = 16
{fault}
sys.argv = ["pe-rlhf", "data", "prepare", "tldr", "--from", sys.argv[2], "--out", home, *sys.argv[3:]]
main()
"""


def run(home: Path, folder: Path, *more: str, fault: str = "") -> int:
    """The command as its own process, with a fault put in; its exit code."""
    command = [sys.executable, "-c", COMMAND.format(fault=fault), str(home), str(folder), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode


def contents(home: Path) -> dict[str, bytes]:
    """Every file of the prepared data set."""
    return {path.name: path.read_bytes() for path in sorted((home / "tldr" / "1.0.0").iterdir())}


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
    first = (finished[0] / "test.array_record").stat().st_ino
    assert run(tmp_path, comparisons, "--skip-bad") == 0
    assert contents(tmp_path) == uninterrupted
    assert next((tmp_path / "tldr" / "1.0.0").glob("tldr-test*-00000-*")).stat().st_ino == first, "it was made again"
    assert not list(tmp_path.glob("tldr/incomplete*"))
    assert not list(tmp_path.glob(".unfinished/tldr/*"))


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


# --- images, and no TensorFlow ----------------------------------------------------------------------------------


def test_images_keep_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path / "home"))
    write_easy_vqa(tmp_path / "from", "test")
    building.prepare(published("easy-vqa"), str(tmp_path / "from"), tmp_path / "home")
    content = (tmp_path / "from" / "test" / "images" / "0.png").read_bytes()
    assert [record["image"] for record in prepared("easy-vqa", "test")] == [content, content]

    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(tmp_path / "home" / "easy_vqa" / "1.0.0").as_data_source(
        "test", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert source[0]["image"] == content


def test_a_prompt_is_its_question_and_what_its_image_shows(tmp_path: Path) -> None:
    """The training image 25 is the test image 9 under another number, the training image 9 is another one."""
    questions = [(9, "What is it?", ["a"] * 10), (25, "What is it?", ["a"] * 10), (25, "Why?", ["a"] * 10)]
    write_vqav2(tmp_path / "from", "train2014", questions, pictures={9: picture(1), 25: picture(2)})
    write_vqav2(tmp_path / "from", "val2014", questions[:1], pictures={9: picture(2)})
    report = building.prepare(published("vqav2"), str(tmp_path / "from"), tmp_path / "home")
    assert sum(report["kept"].values()) == 3
    asked = tmp_path / "from" / "v2_OpenEnded_mscoco_train2014_questions.json"
    assert report["set_aside"] == {"prompt is in test": {"rows": 1, "where": [f"{asked}, row 2"]}}


def test_prepared_records_are_a_sequence(tmp_path: Path, comparisons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several shards: every row, from either end, in slices, pickled, and not beyond the end."""
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path))
    assert run(tmp_path, comparisons, "--skip-bad") == 0
    assert len(list((tmp_path / "tldr" / "1.0.0").glob("tldr-test.array_record-*"))) > 1
    records = prepared("tldr", "test")
    ids = [record["id"] for record in records]
    assert ids == [f"t3_fake{i:02d}" for i in range(2, 90, 3) if i != 20]
    assert [records[-1]["id"], records[-29]["id"]] == [ids[-1], ids[0]]
    assert [record["id"] for record in records[3:25:7]] == ids[3:25:7]
    assert pickle.loads(pickle.dumps(records))[12] == records[12]
    with pytest.raises(IndexError):
        records[29]
    with pytest.raises(UserError, match=r"tldr has no split 'dev' in .*; it has train, validation, test"):
        prepared("tldr", "dev")


def test_a_folder_of_somebody_else_stays(folder: Path) -> None:
    place = folder.parent / "home" / "tldr_posts" / "1.0.0"
    place.mkdir(parents=True)
    with pytest.raises(UserError, match="was not made by pe-rlhf data prepare"):
        prepare([row(0)], folder, overwrite=True)
    assert list(place.iterdir()) == []


def test_tensorflow_is_not_imported(comparisons: Path, tmp_path: Path) -> None:
    """An installed TensorFlow would end the process."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit(77)")
    fault = f"sys.path.insert(0, {str(tmp_path)!r})"
    assert run(tmp_path / "home", comparisons, "--skip-bad", fault=fault) == 0
