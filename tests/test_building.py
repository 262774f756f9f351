"""Data sets prepared by TFDS: what is kept, what is set aside, and what a killed process leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pe_rlhf_mm.data.preparation import building, duplicates, shards
from pe_rlhf_mm.data.preparation.examples import decode, encode
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
    record = {"id": 2**62, "question": "ü\0", "answers": [], "weight": 0.25, "image": "images/ab/abc.png"}
    assert decode(encode(record, features), features, "/home") == record | {"image": "/home/images/ab/abc.png"}
    assert decode(encode(record, FEATURES), features, "/home") == record | {"image": None}


def test_the_same_bytes_as_tfds(folder: Path) -> None:
    import tensorflow_datasets as tfds

    prepare([row(1)], folder)
    builder = tfds.builder_from_directory(folder.parent / "home" / "tldr_posts" / "1.0.0")
    features, record = builder.info.features, {name: row(1)[name] for name in FEATURES}
    theirs = features.serialize_example(features.encode_example(record))
    assert decode(theirs, FEATURES, "") == record
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
    monkeypatch.setattr(building, "link", interrupted)
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


def test_a_folder_of_somebody_else_stays(folder: Path) -> None:
    place = folder.parent / "home" / "tldr_posts" / "1.0.0"
    place.mkdir(parents=True)
    with pytest.raises(UserError, match="was not made by pe-rlhf data prepare"):
        prepare([row(0)], folder, overwrite=True)
    assert list(place.iterdir()) == []
