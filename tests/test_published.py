"""What all published data sets have in common, and the folders and Hugging Face data sets they come in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from published_files import (
    tldr_post,
    write_bolt,
    write_easy_vqa,
    write_hh,
    write_okvqa,
    write_parquet,
    write_screenqa,
    write_shp,
    write_textvqa,
    write_tldr,
    write_tldr_posts,
    write_vqav2,
    written,
)
from published_rows import reason, records, rows_of
from published_ui_files import write_aitw, write_android_control, write_screenspot, write_uibert

from pe_rlhf_mm.data.published.catalogue import PLACES, published
from pe_rlhf_mm.data.published.description import held_out, take
from pe_rlhf_mm.data.published.finding import find
from pe_rlhf_mm.data.published.origin import origin_of
from pe_rlhf_mm.errors import UserError

# --- all of them ------------------------------------------------------------------------------------------------

WRITERS = {
    "tldr": write_tldr,
    "tldr-posts": write_tldr_posts,
    "shp": write_shp,
    "hh": write_hh,
    "bolt": write_bolt,
    "vqav2": write_vqav2,
    "okvqa": write_okvqa,
    "textvqa": write_textvqa,
    "screenqa": write_screenqa,
    "easy-vqa": write_easy_vqa,
    "android-control": write_android_control,
    "aitw": write_aitw,
    "screenspot": write_screenspot,
    "uibert": write_uibert,
}


def test_every_data_set_has_a_writer_here() -> None:
    assert set(WRITERS) == set(PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_records_have_the_fields_described(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    described = published(name)
    kinds = {"text": str, "texts": list, "int": int, "float": float, "image": bytes}
    found = records(name, tmp_path)
    assert found
    for split, record in found:
        assert split in ("train", "validation", "test")
        assert {field: type(value) for field, value in record.items()} == {
            field: kinds[kind] for field, kind in described.features.items()
        }
    assert described.name == name
    assert set(described.prompt) <= set(described.features)
    assert set(described.ignored) <= set(described.features)


@pytest.mark.parametrize("name", PLACES)
def test_where_there_is_nothing_it_is_said_what_is_looked_for(name: str, tmp_path: Path) -> None:
    written(tmp_path / "notes.txt", b"nothing")
    with pytest.raises(UserError) as caught:
        rows_of(name, tmp_path)
    message = str(caught.value)
    assert f"no file of {name} is in {tmp_path}" in message
    assert ", ".join(published(name).files) in message
    assert published(name).where_to_get_it in message


@pytest.mark.parametrize("name", PLACES)
def test_only_its_own_files_are_taken(name: str, tmp_path: Path) -> None:
    """All data sets in one folder: each finds what it finds alone, but SHP's train.json could be anybody's."""
    WRITERS[name](tmp_path / "alone")
    alone = records(name, tmp_path / "alone")
    for other, write in WRITERS.items():
        if (name, other) != ("shp", "screenqa"):
            write(tmp_path / "all" / f"{other}-files")
    assert records(name, tmp_path / "all") == alone


def test_an_unknown_name_is_told_from_a_known_one() -> None:
    with pytest.raises(UserError, match=r"there is no data set 'vqa2'\. Did you mean vqav2\?"):
        published("vqa2")


def test_one_in_ten_is_held_out() -> None:
    """By sha256sum, the hash of "d" begins with 18 = 24 and that of "9" with 19 = 25."""
    assert held_out("d")
    assert not held_out("9")
    assert abs(sum(held_out(str(i)) for i in range(20_000)) / 20_000 - 25 / 256) < 0.01


@pytest.mark.parametrize(
    ("value", "kind", "taken"),
    [(1, int, 1), (1, float, 1.0), (True, int, None), (None, str, None), ("x", str, "x"), ("1", int, None)],
)
def test_fields_are_of_their_kind(value: Any, kind: type, taken: Any) -> None:
    if taken is None:
        with pytest.raises(ValueError, match=f"the field 'x' holds a {type(value).__name__}; expected {kind.__name__}"):
            take({"x": value}, "x", kind)
    else:
        assert take({"x": value}, "x", kind) == taken
        assert type(take({"x": value}, "x", kind)) is kind


# --- folders, and Hugging Face ----------------------------------------------------------------------------------


def test_a_fingerprint_changes_with_a_file_and_with_nothing_else(tmp_path: Path) -> None:
    path = write_tldr(tmp_path)
    first = find(tmp_path).fingerprint()
    written(tmp_path / ".cache" / "x", b"hidden")
    written(tmp_path / "tldr" / "1.0.0" / "preparation.json", b"{}")
    assert find(tmp_path).fingerprint() == first
    os.utime(path, (1, 1))
    assert find(tmp_path).fingerprint() != first


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; expected the folder"):
        find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a file; expected the folder"):
        find(written(tmp_path / "file", b""))


def test_folders_that_hold_themselves_end(tmp_path: Path) -> None:
    write_tldr(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(records("tldr", tmp_path)) == 1


def test_parquet_of_the_same_columns(tmp_path: Path) -> None:
    write_tldr_posts(tmp_path / "published", "train", [tldr_post(i) for i in range(5)])
    write_tldr_posts(tmp_path / "published", "valid", [tldr_post(7)])
    write_parquet(tmp_path / "hf" / "data" / "train-00000-of-00001.parquet", [tldr_post(i) for i in range(5)])
    write_parquet(tmp_path / "hf" / "validation" / "0000.parquet", [tldr_post(7)])
    assert records("tldr-posts", tmp_path / "hf") == records("tldr-posts", tmp_path / "published")


def test_parquet_with_images(tmp_path: Path) -> None:
    write_vqav2(tmp_path / "published", "val2014")
    before = records("vqav2", tmp_path / "published")
    rows = [
        {name: value for name, value in record.items() if name not in ("answer", "answers")}
        | {
            "image": {"bytes": record["image"], "path": "x.jpg"},
            "multiple_choice_answer": record["answer"],
            "answers": [{"answer": answer, "answer_id": 1} for answer in record["answers"]],
        }
        for _, record in before
    ]
    write_parquet(tmp_path / "hf" / "validation-00000-of-00001.parquet", rows)
    assert records("vqav2", tmp_path / "hf") == before
    write_parquet(tmp_path / "test" / "test-00000-of-00001.parquet", rows[:1])
    assert reason("vqav2", tmp_path / "test") == "answers are not public"


def test_parquet_without_a_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet", [tldr_post()])
    with pytest.raises(UserError, match=r"all\.parquet does not say its split; expected one of train, validation"):
        rows_of("tldr-posts", tmp_path)


def test_the_hub_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'pe-rlhf-mm\[hf\]'"):
        origin_of(published("tldr"), "hf:openai/summarize_from_feedback")


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    posts = {split: datasets.Dataset.from_list([tldr_post(i) for i in range(3)]) for split in ("train", "test")}
    datasets.DatasetDict(posts).save_to_disk(str(tmp_path / "saved"))
    for split in posts:
        write_tldr_posts(tmp_path / "published", split, [tldr_post(i) for i in range(3)])
    assert sorted(map(str, records("tldr-posts", tmp_path / "saved"))) == sorted(
        map(str, records("tldr-posts", tmp_path / "published"))
    )
