"""What the rows of published questions about pictures mean, on tiny files in exactly the published formats."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published_files import (
    picture,
    write_easy_vqa,
    write_json_document,
    write_okvqa,
    write_screenqa,
    write_screenqa_boxes,
    write_textvqa,
    write_vqav2,
    write_zip,
)
from published_rows import bad, noise, only, records, rows_of

from pe_rlhf_mm.errors import UserError


def test_vqav2(tmp_path: Path) -> None:
    write_vqav2(tmp_path, "val2014")
    found = records("vqav2", tmp_path)
    assert [split for split, _ in found] == ["test"] * 3
    assert found[0][1] == {
        "question_id": 9000,
        "image_id": 9,
        "question": "What color is it?",
        "question_type": "what color",
        "answer_type": "other",
        "answer": "red",
        "answers": ["red"] * 7 + ["dark red", "Red.", "maroon"],
        "image": (tmp_path / "val2014" / "COCO_val2014_000000000009.jpg").read_bytes(),
    }
    assert found[2][1]["image"] == (tmp_path / "val2014" / "COCO_val2014_000000000025.jpg").read_bytes()


def test_vqav2_annotations_may_be_in_another_order(tmp_path: Path) -> None:
    _, answered = write_vqav2(tmp_path)
    before = records("vqav2", tmp_path)
    document = json.loads(answered.read_text())
    document["annotations"].reverse()
    write_json_document(answered, document)
    assert records("vqav2", tmp_path) == before


def test_vqav2_images_may_be_linked_from_elsewhere(tmp_path: Path) -> None:
    write_vqav2(tmp_path / "a")
    before = records("vqav2", tmp_path / "a")
    (tmp_path / "a" / "train2014").rename(tmp_path / "elsewhere")
    (tmp_path / "a" / "images").symlink_to(tmp_path / "elsewhere")
    assert records("vqav2", tmp_path / "a") == before


def test_vqav2_training_images_are_held_out_whole(tmp_path: Path) -> None:
    write_vqav2(tmp_path, questions=[(i // 3, f"q{i}?", ["a"] * 10) for i in range(180)])
    splits: dict[int, set[str]] = {}
    for split, record in records("vqav2", tmp_path):
        splits.setdefault(record["image_id"], set()).add(split)
    assert all(len(held) == 1 for held in splits.values())
    assert set().union(*splits.values()) == {"train", "validation"}


def test_vqav2_out_of_its_archives(tmp_path: Path) -> None:
    asked, answered = write_vqav2(tmp_path / "plain")
    image_files = sorted((tmp_path / "plain" / "train2014").iterdir())
    packed = tmp_path / "packed"
    write_zip(packed / "v2_Questions_Train_mscoco.zip", {asked.name: asked.read_bytes()})
    write_zip(packed / "v2_Annotations_Train_mscoco.zip", {answered.name: answered.read_bytes()})
    write_zip(packed / "train2014.zip", {f"train2014/{path.name}": path.read_bytes() for path in image_files})
    assert records("vqav2", packed) == records("vqav2", tmp_path / "plain")
    assert not [path for path in packed.iterdir() if path.name[0] != "." and path.is_dir()]


def test_archives_that_are_unpacked_already_are_left_alone(tmp_path: Path) -> None:
    asked, _ = write_vqav2(tmp_path)
    write_zip(tmp_path / "v2_Questions_Train_mscoco.zip", {asked.name: asked.read_bytes()})
    assert len(records("vqav2", tmp_path)) == 3
    assert not (tmp_path / ".unpacked").exists()


def test_archives_that_leave_their_folder_are_refused(tmp_path: Path) -> None:
    write_vqav2(tmp_path)
    write_zip(tmp_path / "train2014.zip", {"../outside": b"x"})
    with pytest.raises(UserError, match=r"train2014\.zip: the member '\.\./outside' would land outside its folder"):
        rows_of("vqav2", tmp_path)


def test_vqav2_one_file_of_two(tmp_path: Path) -> None:
    _, answered = write_vqav2(tmp_path)
    answered.unlink()
    with pytest.raises(UserError, match=r"and no v2_mscoco_train2014_annotations\.json; both are needed"):
        rows_of("vqav2", tmp_path)


def test_vqav2_without_annotation(tmp_path: Path) -> None:
    _, answered = write_vqav2(tmp_path)
    document = json.loads(answered.read_text())
    del document["annotations"][1]
    write_json_document(answered, document)
    assert "question 9001 has no annotation" in bad("vqav2", tmp_path, 1)


def test_okvqa_answers_are_counted(tmp_path: Path) -> None:
    write_okvqa(tmp_path, questions=[(9, "What for?", ["b", "a", "a", "b", "c", "a", "b", "c", "d", "e"])])
    _, record = only("okvqa", tmp_path)
    assert record["answer"] == "b"  # three each of b and a: b came first
    assert record["answer_type"] == "other"


@pytest.mark.parametrize(
    ("name", "write", "field"),
    [
        ("vqav2", write_vqav2, "answers"),
        ("okvqa", write_okvqa, "answers"),
        ("textvqa", write_textvqa, "answers"),
        ("screenqa", write_screenqa, "ground_truth"),
        ("screenqa", write_screenqa_boxes, "ground_truth"),
    ],
)
def test_a_question_without_answers_is_a_bad_row(
    name: str, write: Callable[..., Any], field: str, tmp_path: Path
) -> None:
    found = write(tmp_path)
    path = found[1] if isinstance(found, tuple) else found
    document = json.loads(path.read_text())
    rows = document if isinstance(document, list) else document.get("annotations") or document["data"]
    rows[0][field] = []
    write_json_document(path, document)
    assert f"row 1: the field '{field}' is empty; expected one text at least." in bad(name, tmp_path)


@pytest.mark.parametrize(("split", "ours"), [("train", "train"), ("val", "test")])
def test_textvqa(split: str, ours: str, tmp_path: Path) -> None:
    write_textvqa(tmp_path, split)
    content = (tmp_path / "train_images" / "003a8ae2ef43b901.jpg").read_bytes()
    assert only("textvqa", tmp_path) == (
        ours,
        {
            "question_id": 34602,
            "image_id": "003a8ae2ef43b901",
            "question": "what brand?",
            "answers": ["nokia"] * 10,
            "image": content,
        },
    )


def test_textvqa_questions_without_public_answers_are_left_alone(tmp_path: Path) -> None:
    write_textvqa(tmp_path, "test")
    with pytest.raises(UserError, match="no file of textvqa"):
        rows_of("textvqa", tmp_path)


def test_screenqa(tmp_path: Path) -> None:
    write_screenqa(tmp_path, "validation")
    assert only("screenqa", tmp_path) == (
        "validation",
        {
            "question_id": "validation-0",
            "image_id": 5,
            "question": "How many exercises are there?",
            "answers": ["12", "12 exercises"],
            "image": (tmp_path / "combined" / "5.jpg").read_bytes(),
        },
    )


def test_screenqa_without_screens(tmp_path: Path) -> None:
    write_screenqa(tmp_path, pictures={})
    rows = rows_of("screenqa", tmp_path)
    assert rows.read(0)[1]["image"] is None
    assert "image" not in rows.features


def test_screenqa_short_answers_before_long_ones(tmp_path: Path) -> None:
    write_screenqa_boxes(tmp_path)
    assert only("screenqa", tmp_path)[1]["answers"] == ["12 in total"]
    write_screenqa(tmp_path, pictures={})
    assert only("screenqa", tmp_path)[1]["answers"] == ["12", "12 exercises"]


@pytest.mark.skipif("PE_RLHF_REAL_DATA" not in os.environ, reason="PE_RLHF_REAL_DATA names no folder of real data")
def test_the_real_screenqa_file() -> None:
    found = records("screenqa", Path(os.environ["PE_RLHF_REAL_DATA"]) / "screen_qa")
    assert len(found) == 8419
    assert {split for split, _ in found} == {"test"}
    assert sum(len(record["answers"]) == 1 for _, record in found) == 1802


def test_easy_vqa(tmp_path: Path) -> None:
    write_easy_vqa(tmp_path, "test")
    assert records("easy-vqa", tmp_path)[1] == (
        "test",
        {
            "question_id": "test-1",
            "image_id": 0,
            "question": "is it blue?",
            "answer": "no",
            "image": (tmp_path / "test" / "images" / "0.png").read_bytes(),
        },
    )


def test_easy_vqa_holds_out_as_its_task_does(tmp_path: Path) -> None:
    from pe_rlhf_mm.tasks.vqa.easy_vqa import held_out as theirs

    write_easy_vqa(tmp_path, questions=[("is it blue?", "no", image) for image in range(80)])
    splits = {record["image_id"]: split for split, record in records("easy-vqa", tmp_path)}
    assert splits == {image: "validation" if theirs(image) else "train" for image in range(80)}


# --- pictures that are none -------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size whose pixels are missing."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    chunks = [header, b"IDAT" + zlib.compress(b"\0" * 10), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<html>not found</html>", "cannot be read: cannot identify image file"),
        (noise(1)[:9000], "cannot be read: image file is truncated"),
        (picture(1)[:200], "cannot be read"),
        (png_header(30_000, 30_000), "would unpack to an enormous picture"),
        (png_header(8_000, 8_000), "is 8000 x 8000 pixels; the limit is 50,000,000"),
    ],
    ids=["empty", "a page", "truncated", "truncated header", "a bomb", "too large"],
)
def test_pictures_that_cannot_be_used(content: bytes, said: str, tmp_path: Path) -> None:
    asked, _ = write_vqav2(tmp_path, pictures={9: picture(0), 25: content})
    path = tmp_path / "train2014" / "COCO_train2014_000000000025.jpg"
    message = bad("vqav2", tmp_path, 2)
    assert message.startswith(f"{asked}, row 3: its image {path} ")
    assert said in message


def test_a_picture_that_is_missing(tmp_path: Path) -> None:
    asked, _ = write_vqav2(tmp_path, pictures={9: picture(0)})
    said = f"{asked}, row 3: its image COCO_train2014_000000000025.jpg is not in {tmp_path}"
    assert bad("vqav2", tmp_path, 2).startswith(said)


@pytest.mark.parametrize(
    ("name", "write"), [("vqav2", write_vqav2), ("okvqa", write_okvqa), ("textvqa", write_textvqa)]
)
def test_no_picture_at_all(name: str, write: Callable[..., Any], tmp_path: Path) -> None:
    write(tmp_path, pictures={})
    with pytest.raises(UserError, match="has questions and no images"):
        rows_of(name, tmp_path)


def test_a_large_jpeg_is_looked_at_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels are never all in memory: it is decoded at an eighth of its size."""
    import io

    from PIL import Image as Pillow
    from PIL import ImageFile

    from pe_rlhf_mm.data.preparation.images import looked_at

    buffer = io.BytesIO()
    Pillow.new("RGB", (1600, 800), "red").save(buffer, "JPEG")
    sizes = []
    load = ImageFile.ImageFile.load

    def seen(picture: Any) -> Any:
        sizes.append(picture.size)
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", seen)
    assert looked_at(buffer.getvalue()).content == buffer.getvalue()
    assert sizes == [(200, 100)]
