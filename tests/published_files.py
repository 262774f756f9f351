"""Tiny synthetic files in exactly the published formats, one writer a data set.

Every writer makes the folders it needs under `folder`, laid out as the download unpacks, and returns what it wrote.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

Row = dict[str, Any]
Questions = Sequence[tuple[int, str, Sequence[str]]]
"""(image id, question, answers)"""


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_json_lines(path: Path, rows: Iterable[object]) -> Path:
    """JSON Lines, compressed where the name ends in .gz."""
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    return written(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_json_document(path: Path, document: object) -> Path:
    return written(path, json.dumps(document, ensure_ascii=False).encode())


def picture(number: int, *, format: str = "JPEG", size: tuple[int, int] = (32, 24)) -> bytes:
    """An encoded picture of one colour, every number below 100 its own."""
    buffer = io.BytesIO()
    Pillow.new("RGB", size, (number * 37 % 256, number * 91 % 256, number * 151 % 256)).save(buffer, format)
    return buffer.getvalue()


def write_pictures(folder: Path, name: str, numbers: Iterable[int | str], pictures: Mapping[Any, bytes] | None) -> None:
    """One file each, `name` being its pattern; `pictures` says otherwise what is in the folder."""
    numbers = list(dict.fromkeys(numbers))
    format = "PNG" if name.endswith(".png") else "JPEG"
    made = {n: picture(i, format=format) for i, n in enumerate(numbers)} if pictures is None else pictures
    for number, content in made.items():
        written(folder / name.format(number), content)


# --- texts ------------------------------------------------------------------------------------------------------


def tldr_row(number: int = 0, **changes: Any) -> Row:
    """A comparison of two summaries of one post."""
    return {
        "info": {
            "id": f"t3_fake{number:02d}",
            "post": f"I lost my key number {number}.\nWhat now?",
            "title": f"Lost key {number}",
            "subreddit": "Advice",
        },
        "summaries": [
            {"text": f" Lost key {number}, want help.", "policy": "sup4", "note": "n/a"},
            {"text": f" Where is key {number}?", "policy": "ref", "note": None},
        ],
        "choice": 1,
        "worker": "w1",
        "batch": "batch3",
        "split": "train",
        "extra": {"confidence": 8},
    } | changes


def cnndm_row(number: int = 0, **changes: Any) -> Row:
    """A comparison about a news article, as the same files hold them too."""
    info = {"id": f"cnn{number}", "site": "cnn", "title": "T", "article": f"A long text {number}."}
    return tldr_row(number) | {"info": info, "batch": "cnndm0", "split": "valid2", "extra": {}} | changes


def write_tldr(folder: Path, rows: Iterable[Row] | None = None, *, name: str = "batch3.json") -> Path:
    """`comparisons/batch3.json`: JSON Lines in spite of its name."""
    return write_json_lines(folder / "comparisons" / name, [tldr_row()] if rows is None else rows)


def tldr_post(number: int = 0, **changes: Any) -> Row:
    return {
        "id": f"t3_fake{number:02d}",
        "subreddit": "Advice",
        "title": f"Lost key {number}",
        "post": f"I lost my key number {number}.\nWhat now?",
        "summary": f"Lost key {number}, want help.",
    } | changes


def write_tldr_posts(folder: Path, split: str = "train", rows: Iterable[Row] | None = None) -> Path:
    """`tldr_3_filtered/{train,valid,test}.jsonl`."""
    return write_json_lines(folder / "tldr_3_filtered" / f"{split}.jsonl", [tldr_post()] if rows is None else rows)


def shp_row(number: int = 0, **changes: Any) -> Row:
    return {
        "post_id": f"fake{number:02d}",
        "domain": "askbaking_train",
        "upvote_ratio": 0.98,
        "history": f"Why is cake {number} flat?",
        "c_root_id_A": f"a{number}",
        "c_root_id_B": f"b{number}",
        "created_at_utc_A": 1636107200,
        "created_at_utc_B": 1636100000,
        "score_A": 60,
        "score_B": 20,
        "human_ref_A": f"Old baking powder {number}.",
        "human_ref_B": f"Bad luck {number}.",
        "labels": 1,
        "seconds_difference": 7200.0,
        "score_ratio": 3.0,
    } | changes


def write_shp(
    folder: Path, split: str = "train", rows: Iterable[Row] | None = None, *, domain: str = "askbaking"
) -> Path:
    """`askbaking/{train,validation,test}.json`: JSON Lines in spite of their name."""
    rows = [shp_row(domain=f"{domain}_{split}")] if rows is None else rows
    return write_json_lines(folder / domain / f"{split}.json", rows)


def hh_pair(number: int = 0) -> tuple[str, str]:
    """Two transcripts that differ in the last answer."""
    head = f"\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How do I boil {number} eggs?\n\nAssistant:"
    return f"{head} Ten minutes in boiling water.", f"{head} No idea."


def write_hh(
    folder: Path, subset: str = "harmless-base", split: str = "train", pairs: Iterable[tuple[str, str]] | None = None
) -> Path:
    """`harmless-base/train.jsonl.gz`; a pair is (chosen, rejected)."""
    pairs = [hh_pair()] if pairs is None else pairs
    rows = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    return write_json_lines(folder / subset / f"{split}.jsonl.gz", rows)


Messages = Sequence[tuple[str, str, str]]
"""(participant, time, body)"""
CHAT: Messages = (
    ("120035", "2012-09-03 17:02:11 UTC", "lunch at 12 &amp; coffee?"),  # as published, a few are escaped twice
    ("120041", "2012-09-03 17:03:40 UTC", "yes! call ####"),
)


def write_bolt(folder: Path, id: str = "SMS_ENG_20120903.0001", messages: Messages = CHAT) -> Path:
    """`data/{id}.conv.xml`; the order of attributes differs from message to message, numbers have gaps."""
    lines = []
    for number, (participant, time, body) in enumerate(messages):
        attributes = [f'time="{time}"', f'participant="{participant}"']
        order = " ".join(reversed(attributes) if number % 2 else attributes)
        lines.append(
            f'    <message id="m{2 * number:04d}" {order}>\n      <body>{escape(body)}</body>\n    </message>\n'
        )
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<conversation id="{id}" medium="{id[:3]}" donated="true">\n'
        "  <messages>\n" + "".join(lines) + "\n  </messages>\n</conversation>\n"
    )
    return written(folder / "data" / f"{id}.conv.xml", text.encode())


# --- questions about pictures -----------------------------------------------------------------------------------

QUESTIONS: Questions = (
    (9, "What color is it?", ["red"] * 7 + ["dark red", "Red.", "maroon"]),
    (9, "Is it red?", ["yes"] * 9 + ["no"]),
    (25, "How many are there?", ["1"] * 10),
)


def _answer_type(answer: str) -> str:
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"


def _vqa_files(
    folder: Path, split: str, questions: Questions, names: tuple[str, str], pictures: Mapping[int, bytes] | None
) -> tuple[Path, Path]:
    asked, answered, count = [], [], Counter[int]()
    for image, question, answers in questions:
        number = image * 1000 + count[image]
        count[image] += 1
        asked.append({"image_id": image, "question": question, "question_id": number})
        most = Counter(answers).most_common(1)[0][0]
        answered.append(
            {
                "question_id": number,
                "image_id": image,
                "question_type": " ".join(question.lower().split()[:2]),
                "answer_type": _answer_type(most),
                "multiple_choice_answer": most,
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": i}
                    for i, answer in enumerate(answers, start=1)
                ],
            }
        )
    write_pictures(folder / split, f"COCO_{split}_{{:012d}}.jpg", [image for image, _, _ in questions], pictures)
    head = {"info": {"version": "2.0"}, "license": {}, "data_type": "mscoco", "data_subtype": split}
    return (
        write_json_document(folder / names[0], head | {"task_type": "Open-Ended", "questions": asked}),
        write_json_document(folder / names[1], head | {"annotations": answered}),
    )


def write_vqav2(
    folder: Path,
    split: str = "train2014",
    questions: Questions = QUESTIONS,
    *,
    pictures: Mapping[int, bytes] | None = None,
) -> tuple[Path, Path]:
    """Questions, annotations and `{split}/COCO_{split}_000000000009.jpg`.

    A question's id is its image's id * 1000 + n. `pictures` by image id, where not one is to be made for each.
    """
    names = f"v2_OpenEnded_mscoco_{split}_questions.json", f"v2_mscoco_{split}_annotations.json"
    return _vqa_files(folder, split, questions, names, pictures)


def write_okvqa(
    folder: Path,
    split: str = "train2014",
    questions: Questions = QUESTIONS,
    *,
    pictures: Mapping[int, bytes] | None = None,
) -> tuple[Path, Path]:
    """As VQAv2, but the answers have a raw form beside them and no most frequent one is named."""
    asked, answered = _vqa_files(
        folder,
        split,
        questions,
        (f"OpenEnded_mscoco_{split}_questions.json", f"mscoco_{split}_annotations.json"),
        pictures,
    )
    document = json.loads(answered.read_text())
    for annotation in document["annotations"]:
        del annotation["multiple_choice_answer"]
        annotation |= {"answer_type": "other", "confidence": 5}
        for answer in annotation["answers"]:
            answer["raw_answer"] = answer["answer"]
    write_json_document(answered, document)
    return asked, answered


def write_textvqa(
    folder: Path,
    split: str = "train",
    questions: Sequence[tuple[str, str, Sequence[str]]] = (("003a8ae2ef43b901", "what brand?", ["nokia"] * 10),),
    *,
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """`TextVQA_0.5.1_{train,val,test}.json` and `train_images/{id}.jpg` (val too) or `test_images/{id}.jpg`."""
    data = [
        {
            "question": question,
            "question_id": 34602 + number,
            "image_id": image,
            "image_classes": ["Phone"],
            "flickr_original_url": f"https://example.invalid/{image}.jpg",
            "image_width": 32,
            "image_height": 24,
            "question_tokens": question.rstrip("?").split(),
            "set_name": split,
        }
        | ({"answers": list(answers)} if split != "test" else {})
        for number, (image, question, answers) in enumerate(questions)
    ]
    images = folder / ("test_images" if split == "test" else "train_images")
    write_pictures(images, "{}.jpg", [image for image, _, _ in questions], pictures)
    head = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    return write_json_document(folder / f"TextVQA_0.5.1_{split}.json", head | {"data": data})


def write_screenqa(
    folder: Path,
    split: str = "train",
    questions: Questions = ((5, "How many exercises are there?", ["12", "12 exercises"]),),
    *,
    pictures: Mapping[int, bytes] | None = None,
) -> Path:
    """`short_answers/{train,validation,test}.json` and RICO's `combined/{id}.jpg`."""
    write_pictures(folder / "combined", "{}.jpg", [image for image, _, _ in questions], pictures)
    return write_json_document(
        folder / "short_answers" / f"{split}.json",
        [
            {"image_id": image, "question": question, "ground_truth": list(answers)}
            for image, question, answers in questions
        ],
    )


def write_screenqa_boxes(
    folder: Path, split: str = "train", questions: Questions = ((5, "How many exercises are there?", ["12 in total"]),)
) -> Path:
    """`answers_and_bboxes/{train,validation,test}.json`: whole sentences, and the elements they were read from."""
    element = {"text": "12", "bounds": [1, 2, 30, 40], "vh_index": 7}
    return write_json_document(
        folder / "answers_and_bboxes" / f"{split}.json",
        [
            {
                "image_id": image,
                "question": question,
                "ground_truth": [{"full_answer": answer, "ui_elements": [element]} for answer in answers],
            }
            for image, question, answers in questions
        ],
    )


def write_easy_vqa(
    folder: Path,
    split: str = "train",
    questions: Sequence[tuple[str, str, int]] = (("what color is the shape?", "red", 0), ("is it blue?", "no", 0)),
    *,
    pictures: Mapping[int, bytes] | None = None,
) -> Path:
    """`{train,test}/questions.json`, a list of [question, answer, image], and `{train,test}/images/{image}.png`."""
    write_pictures(folder / split / "images", "{}.png", [image for _, _, image in questions], pictures)
    return write_json_document(folder / split / "questions.json", [list(question) for question in questions])


# --- containers -------------------------------------------------------------------------------------------------


def write_parquet(path: Path, rows: Sequence[Row], *, rows_a_group: int = 2) -> Path:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=rows_a_group)
    return path


def masked_crc32c(data: bytes) -> int:
    """CRC-32C bit by bit (RFC 3720: polynomial 0x1EDC6F41, mirrored), then rotated and shifted as TFRecord asks."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def tfrecord_frame(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return b"".join(
        [length, struct.pack("<I", masked_crc32c(length)), payload, struct.pack("<I", masked_crc32c(payload))]
    )


def example(features: Mapping[str, object]) -> bytes:
    """A tf.train.Example by the published protocol buffer: texts and bytes, floats or ints, alone or in a list."""
    from tensorflow_datasets.proto import tf_example_pb2 as proto

    made = proto.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = made.features.feature[name]
        if all(isinstance(v, str | bytes) for v in values):
            feature.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in values)
        elif all(isinstance(v, int) for v in values):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return made.SerializeToString(deterministic=True)


def write_tfrecord(path: Path, rows: Iterable[Mapping[str, object] | bytes], *, compressed: bool = False) -> Path:
    """TFRecord of tf.train.Example; GZIP, where asked for, shows in no suffix."""
    payloads = [row if isinstance(row, bytes) else example(row) for row in rows]
    content = b"".join(tfrecord_frame(payload) for payload in payloads)
    return written(path, gzip.compress(content, mtime=0) if compressed else content)


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path
