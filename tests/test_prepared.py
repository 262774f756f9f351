"""Prepared data sets read back: records at random, and images that lie there once, however many rows show them."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from models import CONFIG
from PIL import Image as Pillow
from published_files import (
    picture,
    tldr_row,
    write_easy_vqa,
    write_parquet,
    write_screenqa,
    write_tldr,
    write_vqav2,
)
from published_rows import noise

from pe_rlhf_mm.data import images as pictures
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.preparation import building, images, shards
from pe_rlhf_mm.data.preparation.images import looked_at
from pe_rlhf_mm.data.prepared import prepared
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.types import Image

Prepare = Callable[..., Path]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Prepares what lies in the folder `from`; returns where it is."""
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path / "home"))

    def make(name: str, **options: Any) -> Path:
        building.prepare(published(name), str(tmp_path / "from"), tmp_path / "home", **options)
        return tmp_path / "home" / name.replace("-", "_") / "1.0.0"

    return make


def images_in(folder: Path) -> dict[str, bytes]:
    """The images of a prepared data set by their paths in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in (folder / "images").rglob("*") if p.is_file()}


def named(content: bytes, suffix: str) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return f"images/{digest[:2]}/{digest}.{suffix}"


def asked(*numbers: int) -> list[tuple[int, str, list[str]]]:
    """A question about each of the images."""
    return [(number, f"What is it, {i}?", ["a"] * 10) for i, number in enumerate(numbers)]


# --- records ----------------------------------------------------------------------------------------------------


def test_prepared_records_are_a_sequence(tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several shards: every row, from either end, in slices, pickled, and not beyond the end."""
    monkeypatch.setattr(shards, "ROWS", 16)
    write_tldr(tmp_path / "from", [tldr_row(i, split="valid2") for i in range(90)])
    folder = prepare("tldr")
    assert len(list(folder.glob("tldr-test.array_record-*"))) == 6
    records = prepared("tldr", "test")
    ids = [record["id"] for record in records]
    assert ids == [f"t3_fake{i:02d}" for i in range(90)]
    assert [records[-1]["id"], records[-90]["id"]] == [ids[-1], ids[0]]
    assert [record["id"] for record in records[3:75:7]] == ids[3:75:7]
    assert pickle.loads(pickle.dumps(records))[32] == records[32]
    with pytest.raises(IndexError):
        records[90]
    with pytest.raises(UserError, match=r"tldr has no split 'dev' in .*; it has test"):
        prepared("tldr", "dev")


# --- images -----------------------------------------------------------------------------------------------------


def test_an_image_is_a_file_with_its_own_bytes(tmp_path: Path, prepare: Prepare) -> None:
    write_easy_vqa(tmp_path / "from", "test")
    folder = prepare("easy-vqa")
    content = (tmp_path / "from" / "test" / "images" / "0.png").read_bytes()
    assert images_in(folder) == {named(content, "png"): content}
    paths = [record["image"] for record in prepared("easy-vqa", "test")]
    assert paths == [str(folder / named(content, "png"))] * 2

    import tensorflow_datasets as tfds

    theirs = tfds.builder_from_directory(folder).as_data_source("test")
    assert theirs[1]["image"] == named(content, "png").encode()


def test_an_image_is_there_once_whatever_its_questions_call_it(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images 1 and 3 have the same bytes, in two shards: three files, linked, decoded and looked at once each."""
    monkeypatch.setattr(shards, "ROWS", 4)
    linked = []
    link = images.link
    monkeypatch.setattr(images, "link", lambda file, place: linked.append(place) or link(file, place))
    contents = {1: picture(1), 2: picture(2), 3: picture(1), 4: picture(4)}
    write_vqav2(tmp_path / "from", "val2014", asked(1, 1, 2, 1, 3, 2, 4, 3), pictures=contents)
    assert images_in(prepare("vqav2")) == {named(content, "jpg"): content for content in contents.values()}
    paths = [record["image"] for record in prepared("vqav2", "test")]
    assert [Path(path).read_bytes() for path in paths] == [contents[n] for n in (1, 1, 2, 1, 3, 2, 4, 3)]
    assert len(linked) == 3
    opened = []
    open_image = pictures.open_image
    monkeypatch.setattr(pictures, "open_image", lambda image: opened.append(image) or open_image(image))
    gallery = Gallery(CONFIG)
    assert [gallery.add(Image(path)) for path in paths] == [0, 0, 1, 0, 0, 1, 2, 0]
    assert len(gallery) == len(opened) == 3


def test_paths_are_absolute_and_those_of_where_the_data_set_is_now(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_easy_vqa(tmp_path / "from", "test")
    prepare("easy-vqa")
    shutil.move(tmp_path / "home", tmp_path / "elsewhere" / "home")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("PE_RLHF_DATA", "home")
    records = pickle.loads(pickle.dumps(prepared("easy-vqa", "test")))
    monkeypatch.chdir(tmp_path)
    path = Path(records[0]["image"])
    assert path.is_relative_to(tmp_path / "elsewhere" / "home")
    assert path.is_file()


def test_a_set_without_images_has_none(tmp_path: Path, prepare: Prepare) -> None:
    write_screenqa(tmp_path / "from", "test", pictures={})
    assert not (prepare("screenqa") / "images").exists()
    assert [record["image"] for record in prepared("screenqa", "test")] == [None]


def test_bytes_in_a_column_are_kept_as_files_are(tmp_path: Path, prepare: Prepare) -> None:
    contents = [picture(1), picture(2), picture(1)]
    rows = [
        {"image_id": i, "question_id": f"q{i}", "question": "What?", "ground_truth": ["x"], "image": {"bytes": content}}
        for i, content in enumerate(contents)
    ]
    write_parquet(tmp_path / "from" / "test.parquet", rows)
    folder = prepare("screenqa")
    assert images_in(folder) == {named(content, "jpg"): content for content in contents[:2]}
    assert [record["image"] for record in prepared("screenqa", "test")] == [
        str(folder / named(content, "jpg")) for content in contents
    ]


def encoded(format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (16, 16), "red").save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("format", "suffix", "options"),
    [
        ("PNG", "png", {}),
        ("JPEG", "jpg", {}),
        ("GIF", "gif", {}),
        ("WEBP", "webp", {}),
        ("MPO", "jpg", {"save_all": True, "append_images": [Pillow.new("RGB", (16, 16))]}),  # as some cameras write
    ],
)
def test_suffixes_are_those_of_the_content(format: str, suffix: str, options: Mapping[str, Any]) -> None:
    content = encoded(format, **options)
    image = looked_at(content)
    assert image.content == content
    assert image.path == named(content, suffix)


def test_a_prompt_is_its_question_and_what_its_image_shows(tmp_path: Path, prepare: Prepare) -> None:
    """The training image 25 is the test image 9 under another number, the training image 9 is another one."""
    questions = [(9, "What is it?", ["a"] * 10), (25, "What is it?", ["a"] * 10), (25, "Why?", ["a"] * 10)]
    write_vqav2(tmp_path / "from", "train2014", questions, pictures={9: picture(1), 25: picture(2)})
    write_vqav2(tmp_path / "from", "val2014", questions[:1], pictures={9: picture(2)})
    report = json.loads((prepare("vqav2") / "preparation.json").read_text())
    assert sum(report["kept"].values()) == 3
    place = tmp_path / "from" / "v2_OpenEnded_mscoco_train2014_questions.json"
    assert report["set_aside"] == {"prompt is in test": {"rows": 1, "where": [f"{place}, row 2"]}}


def test_images_of_rows_that_go_stay_and_those_of_bad_rows_do_not(tmp_path: Path, prepare: Prepare) -> None:
    """The row about image 2 goes, as it stands in test; image 3 is cut off, and the question about 4 is no text."""
    contents = {1: picture(1), 2: picture(2), 3: picture(3)[:-20], 4: picture(4)}
    path = write_screenqa(tmp_path / "from", "train", [(n, f"q{n}?", ["a"]) for n in contents], pictures=contents)
    path.write_text(path.read_text().replace("q4?", "\\ud83d"))
    write_screenqa(tmp_path / "from", "test", [(2, "q2?", ["a"])], pictures={})
    folder = prepare("screenqa", skip_bad=True)
    assert [record["image_id"] for record in prepared("screenqa", "train")] == [1]
    assert len(json.loads((folder / "preparation.json").read_text())["skipped"]) == 2
    assert images_in(folder) == {named(picture(n), "jpg"): picture(n) for n in (1, 2)}


# --- room on the disk -------------------------------------------------------------------------------------------


def test_the_disk_needs_room_for_every_image_once(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 images of 12 kB take 0.5 MB beside the files of records (0.4 MB), one image that 40 rows show takes 12 kB."""
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda path: SimpleNamespace(free=600_000))
    numbers = range(40)
    write_vqav2(tmp_path / "from", "val2014", asked(*numbers), pictures={n: noise(n) for n in numbers})
    with pytest.raises(UserError, match=r"needs about 0\.9 MB more \(estimated from 40 of 40 rows with 40 images\)"):
        prepare("vqav2")
    write_vqav2(tmp_path / "from", "val2014", asked(*[0] * 40))
    assert len(images_in(prepare("vqav2"))) == 1
