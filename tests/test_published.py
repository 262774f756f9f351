"""Published files and what their rows mean, on tiny files in exactly the published formats."""

from __future__ import annotations

import json
import os
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
from published_files import (
    cnndm_row,
    hh_pair,
    picture,
    shp_row,
    tldr_post,
    tldr_row,
    write_bolt,
    write_easy_vqa,
    write_hh,
    write_json_document,
    write_okvqa,
    write_parquet,
    write_screenqa,
    write_screenqa_boxes,
    write_shp,
    write_textvqa,
    write_tldr,
    write_tldr_posts,
    write_vqav2,
    write_zip,
    written,
)

from pe_rlhf_mm.data.published.catalogue import PLACES, published
from pe_rlhf_mm.data.published.description import Record, SetAside, held_out, take
from pe_rlhf_mm.data.published.finding import find
from pe_rlhf_mm.data.published.origin import origin_of
from pe_rlhf_mm.data.shards import Rows
from pe_rlhf_mm.data.sources.source import BadRow
from pe_rlhf_mm.errors import UserError


def rows_of(name: str, folder: Path) -> Rows:
    return Rows(published(name), origin_of(published(name), str(folder)).parts(folder / ".unpacked"))


def records(name: str, folder: Path) -> list[tuple[str, Record]]:
    """Split and record of every row."""
    rows = rows_of(name, folder)
    return [rows.read(number)[:2] for number in range(len(rows))]


def only(name: str, folder: Path) -> tuple[str, Record]:
    (found,) = records(name, folder)
    return found


def reason(name: str, folder: Path) -> str:
    """Why the only row is set aside."""
    with pytest.raises(SetAside) as caught:
        only(name, folder)
    return caught.value.reason


def bad(name: str, folder: Path, number: int = 0) -> str:
    """What is said about a bad row."""
    with pytest.raises(BadRow) as caught:
        rows_of(name, folder).read(number)
    return str(caught.value)


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


# --- texts ------------------------------------------------------------------------------------------------------


def test_tldr(tmp_path: Path) -> None:
    write_tldr(tmp_path)
    assert only("tldr", tmp_path) == (
        "train",
        {
            "id": "t3_fake00",
            "subreddit": "Advice",
            "title": "Lost key 0",
            "post": "I lost my key number 0.\nWhat now?",
            "summaries": [" Lost key 0, want help.", " Where is key 0?"],
            "policies": ["sup4", "ref"],
            "choice": 1,
            "confidence": 8,
            "worker": "w1",
        },
    )


@pytest.mark.parametrize("extra", [{}, None, {"confidence": None}])
def test_tldr_without_confidence(extra: Any, tmp_path: Path) -> None:
    write_tldr(tmp_path, [tldr_row(extra=extra)])
    assert only("tldr", tmp_path)[1]["confidence"] == 0


def test_tldr_splits_are_those_of_the_rows(tmp_path: Path) -> None:
    write_tldr(tmp_path, [tldr_row(i, split=split) for i, split in enumerate(("valid2", "train", "valid1"))])
    assert [split for split, _ in records("tldr", tmp_path)] == ["test", "train", "validation"]


def test_tldr_articles_are_set_aside(tmp_path: Path) -> None:
    write_tldr(tmp_path, [cnndm_row()], name="cnndm0.json")
    assert reason("tldr", tmp_path) == "CNN/DM article"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"choice": 2}, "the field 'choice' is 2; expected 0 or 1"),
        ({"split": "valid"}, "the field 'split' is 'valid'; expected one of train, valid1, valid2"),
        ({"summaries": []}, "there are 0 summaries; expected 2"),
        ({"info": {"id": "x"}}, "there is no field 'subreddit'"),
        ({"worker": None}, "the field 'worker' holds a NoneType; expected str"),
        ({"summaries": ["a", "b"]}, "there is a str where an object with 'text' was expected"),
        ({"extra": {"confidence": "high"}}, "the field 'confidence' holds a str; expected int"),
    ],
)
def test_tldr_rows_that_are_not_as_published(changes: Any, said: str, tmp_path: Path) -> None:
    path = write_tldr(tmp_path, [tldr_row(), tldr_row(**changes)])
    assert f"{path}, line 2: {said}" in bad("tldr", tmp_path, 1)


def test_tldr_posts(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_tldr_posts(tmp_path, split)
    assert [split for split, _ in records("tldr-posts", tmp_path)] == ["test", "train", "validation"]
    assert all(record == tldr_post() for _, record in records("tldr-posts", tmp_path))


def test_shp(tmp_path: Path) -> None:
    write_shp(tmp_path)
    write_shp(tmp_path, "validation", [shp_row(1, domain="legaladvice_validation", labels=0, score_ratio=2)])
    assert records("shp", tmp_path) == [
        (
            "train",
            {
                "post_id": "fake00",
                "domain": "askbaking",
                "history": "Why is cake 0 flat?",
                "reply_a": "Old baking powder 0.",
                "reply_b": "Bad luck 0.",
                "label": 1,
                "score_ratio": 3.0,
                "upvote_ratio": 0.98,
            },
        ),
        (
            "validation",
            {
                "post_id": "fake01",
                "domain": "legaladvice",
                "history": "Why is cake 1 flat?",
                "reply_a": "Old baking powder 1.",
                "reply_b": "Bad luck 1.",
                "label": 0,
                "score_ratio": 2.0,
                "upvote_ratio": 0.98,
            },
        ),
    ]


def test_shp_domains_name_their_split(tmp_path: Path) -> None:
    path = write_shp(tmp_path, "train", [shp_row(domain="askbaking")])
    assert f"{path}, line 1: the field 'domain' is 'askbaking'" in bad("shp", tmp_path)


H, A = "\n\nHuman:", "\n\nAssistant:"


def test_hh(tmp_path: Path) -> None:
    write_hh(tmp_path, "helpful-online", "test")
    assert only("hh", tmp_path) == (
        "test",
        {
            "subset": "helpful-online",
            "roles": ["user", "assistant", "user"],
            "turns": ["Hi", "Hello!", "How do I boil 0 eggs?"],
            "chosen": "Ten minutes in boiling water.",
            "rejected": "No idea.",
        },
    )


@pytest.mark.parametrize(
    ("prompt", "roles", "turns"),
    [
        (f"{H} a\n\nb", ["user"], ["a\n\nb"]),
        (f"{H} Human: a Assistant: b\nHuman: c", ["user"], ["Human: a Assistant: b\nHuman: c"]),
        (f"{H} a{A} b{A} c{H} d", ["user", "assistant", "user"], ["a", "b\n\nc", "d"]),
        (f"{H} a{H} b", ["user"], ["a\n\nb"]),
        (f"{H}{A} b{H} c", ["user", "assistant", "user"], ["", "b", "c"]),
    ],
)
def test_hh_turns(prompt: str, roles: list[str], turns: list[str], tmp_path: Path) -> None:
    write_hh(tmp_path, pairs=[(f"{prompt}{A} yes", f"{prompt}{A} no")])
    _, record = only("hh", tmp_path)
    assert (record["roles"], record["turns"]) == (roles, turns)


@pytest.mark.parametrize(
    ("chosen", "rejected", "why"),
    [
        (f"{H} a{A} b", f"{H} A{A} b", "different prompts"),
        (f"{H} a{A} b{A} c", f"{H} a{A} b", "different prompts"),
        (f"{H} a{A}", f"{H} A{A} b", "different prompts"),
        (f"{H} a{A} ", f"{H} a{A} b", "empty answer"),
        (f"{H} a{A} b", f"{H} a{A}\n", "empty answer"),
        (f"{H} a{A}", f"{H} a{A}", "empty answer"),
        (f"{H} a{A} b", f"{H} a{A} b ", "equal answers"),
        ("a", "b", "no conversation"),
        (f"{A} a", f"{A} b", "no conversation"),
        (f"a{H} b{A} c", f"a{H} b{A} d", "no conversation"),
        (f"{H} a{A} b{A} c", f"{H} a{A} b{A} d", "no conversation"),
        (f"{H} a{A} b{H} c", f"{H} a{A} d", "no conversation"),
    ],
)
def test_hh_rows_set_aside(chosen: str, rejected: str, why: str, tmp_path: Path) -> None:
    write_hh(tmp_path, pairs=[(chosen, rejected)])
    assert reason("hh", tmp_path) == why


def test_hh_one_conversation_is_in_one_split(tmp_path: Path) -> None:
    """The files lie flat, as some copies have them; every conversation stands in three of them, twice in each."""
    pairs = [hh_pair(i % 100) for i in range(200)]
    for subset in ("harmless-base", "helpful-base"):
        write_hh(tmp_path, subset, pairs=pairs).rename(tmp_path / f"{subset}-train.jsonl.gz")
    found = records("hh", tmp_path)
    assert len(found) == 400
    splits: dict[str, set[str]] = {}
    for split, record in found:
        splits.setdefault(record["turns"][-1], set()).add(split)
    assert all(len(held) == 1 for held in splits.values())
    assert 2 <= sum(held == {"validation"} for held in splits.values()) <= 20
    assert {record["subset"] for _, record in found} == {"harmless-base", "helpful-base"}


@pytest.mark.skipif("PE_RLHF_REAL_DATA" not in os.environ, reason="PE_RLHF_REAL_DATA names no folder of real data")
def test_the_real_hh_file(tmp_path: Path) -> None:
    from pe_rlhf_mm.data.building import prepare

    folder = Path(os.environ["PE_RLHF_REAL_DATA"]) / "hh-rlhf"
    report = prepare(published("hh"), str(folder), tmp_path)
    assert report["read"] == 2312
    assert report["kept"] == {"test": 2303}
    assert {why: group["rows"] for why, group in report["set_aside"].items()} == {
        "different prompts": 5,
        "empty answer": 4,
    }


def test_bolt(tmp_path: Path) -> None:
    write_bolt(tmp_path)
    _, record = only("bolt", tmp_path)
    assert record == {
        "id": "SMS_ENG_20120903.0001",
        "medium": "SMS",
        "speakers": ["A", "B"],
        "texts": ["lunch at 12 & coffee?", "yes! call ####"],
        "times": ["2012-09-03 17:02:11 UTC", "2012-09-03 17:03:40 UTC"],
    }


def test_bolt_speakers_are_lettered_as_they_appear(tmp_path: Path) -> None:
    write_bolt(tmp_path, messages=[(str(number), "t", "x") for number in (7, 3, 7, *range(100, 125))])
    speakers = only("bolt", tmp_path)[1]["speakers"]
    assert speakers[:4] == ["A", "B", "A", "C"]
    assert speakers[-2:] == ["Z", "P27"]


def test_bolt_without_messages(tmp_path: Path) -> None:
    write_bolt(tmp_path, messages=[])
    assert reason("bolt", tmp_path) == "no messages"


def test_bolt_files_of_another_kind(tmp_path: Path) -> None:
    path = written(tmp_path / "data" / "x.conv.xml", b"<thread><message/></thread>")
    assert f"{path}" in bad("bolt", tmp_path)
    assert "its root is <thread>; expected <conversation>" in bad("bolt", tmp_path)


def test_bolt_has_three_splits_by_the_id(tmp_path: Path) -> None:
    for i in range(150):
        write_bolt(tmp_path, id=f"CHT_ENG_20120903.{i:04d}")
    splits = {record["id"]: split for split, record in records("bolt", tmp_path)}
    assert set(splits.values()) == {"train", "validation", "test"}
    write_bolt(tmp_path / "alone", id="CHT_ENG_20120903.0007")
    assert only("bolt", tmp_path / "alone")[0] == splits["CHT_ENG_20120903.0007"]


# --- questions about pictures -----------------------------------------------------------------------------------


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


def noise(seed: int) -> bytes:
    """A JPEG of 20 kilobytes or so."""
    import io

    from PIL import Image as Pillow

    pixels = random.Random(seed).randbytes(120 * 120 * 3)
    buffer = io.BytesIO()
    Pillow.frombytes("RGB", (120, 120), pixels).save(buffer, "JPEG")
    return buffer.getvalue()


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


@pytest.mark.parametrize("name", ["vqav2", "okvqa", "textvqa"])
def test_no_picture_at_all(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path, pictures={})
    with pytest.raises(UserError, match="has questions and no images"):
        rows_of(name, tmp_path)


def test_a_large_jpeg_is_looked_at_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels are never all in memory: it is decoded at an eighth of its size."""
    import io

    from PIL import Image as Pillow
    from PIL import ImageFile

    from pe_rlhf_mm.data.published.pictures import looked_at

    buffer = io.BytesIO()
    Pillow.new("RGB", (1600, 800), "red").save(buffer, "JPEG")
    sizes = []
    load = ImageFile.ImageFile.load

    def seen(picture: Any) -> Any:
        sizes.append(picture.size)
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", seen)
    assert looked_at(buffer.getvalue()) == buffer.getvalue()
    assert sizes == [(200, 100)]


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
