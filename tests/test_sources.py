"""The published formats read back: rows in any order, from any process, as they were written."""

from __future__ import annotations

import codecs
import gzip
import json
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_files import (
    example,
    masked_crc32c,
    write_bolt,
    write_easy_vqa,
    write_json_document,
    write_json_lines,
    write_parquet,
    write_tfrecord,
    write_vqav2,
    written,
)

from pe_rlhf_mm.data.sources import crc32c, json_lines
from pe_rlhf_mm.data.sources.array_records import ArrayRecords
from pe_rlhf_mm.data.sources.json_lines import JsonLines
from pe_rlhf_mm.data.sources.json_list import JsonList
from pe_rlhf_mm.data.sources.parquet import Parquet
from pe_rlhf_mm.data.sources.source import Source
from pe_rlhf_mm.data.sources.tfrecord import TFRecord, parse_example
from pe_rlhf_mm.data.sources.xml_folder import XmlFolder

ROWS: list[dict[str, Any]] = [
    {"id": 0, "text": ""},
    {"id": 1, "text": 'a "quoted" back\\slash {[, }] and a\nline'},
    {"id": 2, "text": "naïve 日本 \u2028 🙂"},  # U+2028 ends a line for str.splitlines, but not in JSON Lines
    {"id": 3, "text": "x" * 5000},
    {"id": 4, "text": "last"},
]


def write_array_records(path: Path, contents: list[bytes]) -> Path:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for content in contents:
        writer.write(content)
    writer.close()
    return path


def array_records(folder: Path) -> ArrayRecords:
    contents = [json.dumps(row).encode() for row in ROWS]
    paths = [write_array_records(folder / f"{i}.array_record", contents[i * 2 : i * 2 + 2]) for i in range(3)]
    return ArrayRecords(paths, json.loads)


MAKERS: dict[str, Callable[[Path], Source]] = {
    "JSON Lines": lambda folder: JsonLines(write_json_lines(folder / "rows.json", ROWS)),
    "JSON Lines, gzip": lambda folder: JsonLines(write_json_lines(folder / "rows.jsonl.gz", ROWS)),
    "JSON list": lambda folder: JsonList(write_json_document(folder / "rows.json", ROWS)),
    "JSON list in an object": lambda folder: JsonList(
        write_json_document(folder / "rows.json", {"n": 1, "data": {"x": [], "rows": ROWS, "y": {}}, "z": "🙂"}),
        "data",
        "rows",
    ),
    "Parquet": lambda folder: Parquet(write_parquet(folder / "rows.parquet", ROWS)),
    "ArrayRecord": array_records,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_rows_come_back_in_any_order(make: Callable[[Path], Source], tmp_path: Path) -> None:
    source = make(tmp_path)
    assert len(source) == len(ROWS)
    order = [*range(len(ROWS)), *random.Random(0).choices(range(len(ROWS)), k=50), -1]
    assert [source[i] for i in order] == [ROWS[i] for i in order]
    assert list(source) == ROWS  # a loop ends at the IndexError
    with pytest.raises(IndexError):
        source[len(ROWS)]


def read(source: Source) -> list[Any]:
    return [source[i] for i in range(len(source))]


def test_worker_processes_share_a_source_that_has_been_read(tmp_path: Path) -> None:
    sources = [make(written(tmp_path / name / "made", b"").parent) for name, make in MAKERS.items()]
    sources.append(TFRecord(write_tfrecord(tmp_path / "records", [{"id": [1]}], compressed=True)))
    write_bolt(tmp_path)
    sources.append(XmlFolder(tmp_path / "data"))
    for source in sources:
        source[0]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as workers:
        answers = list(workers.map(read, sources * 2))
    assert answers[: len(MAKERS)] == answers[len(sources) :][: len(MAKERS)] == [ROWS] * len(MAKERS)
    assert answers[len(MAKERS)] == [{"id": 1}]
    assert answers[-1][0]["root"].get("id") == "SMS_ENG_20120903.0001"


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_nothing_is_opened_before_it_is_needed_nor_pickled(make: Callable[[Path], Source], tmp_path: Path) -> None:
    source = make(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in files:
        path.unlink()
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000
    for path, content in files.items():
        path.write_bytes(content)
    assert read(pickle.loads(pickled)) == read(source) == ROWS
    assert len(pickle.dumps(source)) == len(pickled)


# --- JSON Lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b'{"a": 1}\n{"a": 2}\n', [1, 2]),
        (b'{"a": 1}\n{"a": 2}', [1, 2]),
        (b'{"a": 1}\r\n\r\n{"a": 2}\r\n', [1, 3]),
        (b'\n\n{"a": 1}\n\n\n{"a": 2}\n\n', [3, 6]),
        (codecs.BOM_UTF8 + b'{"a": 1}\n{"a": 2}\n', [1, 2]),
        (b'{"a": 1}\n' + codecs.BOM_UTF8 + b'{"a": 2}\n', [1, 2]),  # two files put together
        (gzip.compress(b'{"a": 1}\n', mtime=0) + gzip.compress(b'{"a": 2}\n', mtime=0), [1, 2]),  # and so are these
    ],
)
def test_lines_are_numbered_as_an_editor_does(content: bytes, lines: list[int], tmp_path: Path) -> None:
    source = JsonLines(written(tmp_path / "rows.jsonl", content))
    assert read(source) == [{"a": 1}, {"a": 2}]
    assert [source.where(i) for i in range(2)] == [f"{tmp_path / 'rows.jsonl'}, line {line}" for line in lines]


def test_lines_are_found_across_the_blocks_that_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", ROWS)
    for block in (1, 7, 64):
        monkeypatch.setattr(json_lines, "BLOCK", block)
        assert read(JsonLines(path)) == ROWS


def test_the_unpacked_copy_has_no_name_and_goes_with_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    source = JsonLines(write_json_lines(tmp_path / "rows.jsonl.gz", ROWS))
    assert read(source) == ROWS
    assert not list(scratch.iterdir())

    def mapped() -> bool:
        return str(scratch) in Path("/proc/self/maps").read_text()

    assert mapped()
    source.close()
    assert not mapped()
    assert read(source) == ROWS


# --- JSON lists -------------------------------------------------------------------------------------------------


def test_the_documents_of_visual_questions(tmp_path: Path) -> None:
    asked, answered = write_vqav2(tmp_path)
    questions, annotations = JsonList(asked, "questions"), JsonList(answered, "annotations")
    assert read(questions) == json.loads(asked.read_text())["questions"]
    assert read(annotations) == json.loads(answered.read_text())["annotations"]
    assert annotations.where(1) == f"{answered}, row 2"
    easy = JsonList(write_easy_vqa(tmp_path), fields=("question", "answer", "image_id"))
    assert easy[1] == {"question": "is it blue?", "answer": "no", "image_id": 0}


@pytest.mark.parametrize("content", [b"[]", b" [ ]\n", codecs.BOM_UTF8 + b"[]", gzip.compress(b"[]", mtime=0)])
def test_a_list_without_rows(content: bytes, tmp_path: Path) -> None:
    assert len(JsonList(written(tmp_path / "rows.json", content))) == 0


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii", [False, True])
def test_a_list_is_found_however_it_is_written(indent: int | None, ascii: bool, tmp_path: Path) -> None:
    text = json.dumps({"é": ["🙂", -1.5e300, 77777], "rows": ROWS}, indent=indent, ensure_ascii=ascii)
    text = text.replace("77777", "7" * 5000)  # more digits than Python converts
    assert read(JsonList(written(tmp_path / "rows.json", text.encode()), "rows")) == ROWS


# --- XML --------------------------------------------------------------------------------------------------------


def test_a_folder_of_conversations(tmp_path: Path) -> None:
    for name in ("SMS_ENG_20120903.0002", "CHT_ENG_20120903.0001"):
        write_bolt(tmp_path, name)
    written(tmp_path / "data" / "notes.txt", b"no XML")
    written(tmp_path / "data" / "._CHT_ENG_20120903.0001.conv.xml", b"\x00\x05\x16\x07")  # what macOS leaves behind
    source = XmlFolder(tmp_path / "data")
    assert [row["path"].name[:3] for row in read(source)] == ["CHT", "SMS"]
    assert source.where(0) == str(source[0]["path"])
    messages = list(source[0]["root"].iter("message"))
    assert [m.get("participant") for m in messages] == ["120035", "120041"]
    assert messages[0].findtext("body") == "lunch at 12 &amp; coffee?"  # escaped twice in the file


def test_xml_in_another_encoding_and_with_a_document_type(tmp_path: Path) -> None:
    head = '<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE conversation SYSTEM "conversation0.2.1.dtd">'
    written(tmp_path / "a.xml", (head + "<conversation>caf\u00e9 &lt;3 &#8364;</conversation>").encode("latin-1"))
    assert XmlFolder(tmp_path)[0]["root"].text == "café <3 €"


# --- Parquet and ArrayRecord ------------------------------------------------------------------------------------


def test_parquet_brings_nested_values_and_reads_one_group_at_a_time(tmp_path: Path) -> None:
    rows = [{"i": i, "image": {"bytes": bytes([i]), "path": None}, "answers": ["a"] * i} for i in range(5)]
    source = Parquet(write_parquet(tmp_path / "rows.parquet", rows))
    assert [source[i] for i in (4, 0, 3, 2, 1)] == [rows[i] for i in (4, 0, 3, 2, 1)]
    assert source.where(2) == f"{tmp_path / 'rows.parquet'}, row 3"
    assert source._group[0] == 0
    assert source._group[1].num_rows == 2


def test_array_records_are_named_by_their_file(tmp_path: Path) -> None:
    source = array_records(tmp_path)
    assert source.where(3) == f"{tmp_path / '1.array_record'}, record 2"
    assert source.where(4) == f"{tmp_path / '2.array_record'}, record 1"


# --- TFRecord ---------------------------------------------------------------------------------------------------


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert crc32c.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c.crc32c(bytes(range(32))) == 0x46DD794E
    bits = np.random.default_rng(0)
    for length in (*range(10), 1019, 1020, 1021, 1024, 2044, 2045, 20_000):
        content = bits.bytes(length)
        assert crc32c.masked_crc32c(content) == masked_crc32c(content)


@pytest.mark.parametrize("compressed", [False, True])
def test_examples_of_every_kind(compressed: bool, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": "né", "raw": [b"\x00\xff", b""], "ints": [0, -1, 2**63 - 1, -(2**63)], "floats": [0.5, -2.0]},
        {"text": "x" * 4000, "none": []},
        {},
    ]
    source = TFRecord(write_tfrecord(tmp_path / "shard-00000-of-00001", rows, compressed=compressed))
    first, second, third = source[0], source[1], source[2]
    assert len(source) == 3
    assert source.where(1) == f"{tmp_path / 'shard-00000-of-00001'}, record 2"
    assert first["text"] == ["né".encode()]
    assert first["raw"] == [b"\x00\xff", b""]
    assert first["ints"].tolist() == [0, -1, 2**63 - 1, -(2**63)]
    assert first["floats"].tolist() == [0.5, -2.0]
    assert (first["ints"].dtype, first["floats"].dtype) == (np.int64, np.float32)
    assert second == {"text": [b"x" * 4000], "none": []}
    assert third == {}


def test_an_example_by_its_bytes() -> None:
    """Written by hand from the published .proto: Example.features = 1, Features.feature = 1, int64_list = 3."""
    packed = bytes([0x0A, 0x0D, 0x0A, 0x0B, 0x0A, 0x01, ord("a"), 0x12, 0x06, 0x1A, 0x04, 0x0A, 0x02, 0x05, 0x07])
    unpacked = bytes([0x0A, 0x0D, 0x0A, 0x0B, 0x0A, 0x01, ord("a"), 0x12, 0x06, 0x1A, 0x04, 0x08, 0x05, 0x08, 0x07])
    assert packed == example({"a": [5, 7]})
    assert parse_example(packed)["a"].tolist() == parse_example(unpacked)["a"].tolist() == [5, 7]


def test_tensorflow_is_not_loaded(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "records", [{"id": [1]}])
    program = (
        "import sys\n"
        "from pe_rlhf_mm.data.sources.tfrecord import TFRecord\n"
        "assert not {'tensorflow_datasets', 'google.protobuf', 'pyarrow', 'jax'} & set(sys.modules)\n"
        f"assert TFRecord({str(path)!r})[0]['id'] == [1]\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- the real files ---------------------------------------------------------------------------------------------


@pytest.mark.skipif("PE_RLHF_REAL_DATA" not in os.environ, reason="needs the published files: PE_RLHF_REAL_DATA=FOLDER")
def test_published_files_are_read_whole() -> None:
    folder = Path(os.environ["PE_RLHF_REAL_DATA"])
    harmless = read(JsonLines(folder / "hh-rlhf" / "harmless-base-test.jsonl.gz"))
    assert len(harmless) == 2312
    assert all(set(row) == {"chosen", "rejected"} for row in harmless)
    for name, count in (("dev", 509), ("test", 616)):
        rows = read(TFRecord(folder / "uibert" / f"ref_exp-{name}.tfrecord"))
        assert len(rows) == count
        assert all(len(row["image/object/bbox/xmin"]) == row["image/object/num"][0] for row in rows)
    for name, count in (("short_answers-test", 8419), ("complex_qa", 11781)):
        path = folder / "screen_qa" / f"{name}.json"
        rows = read(JsonList(path))
        assert len(rows) == count
        assert rows == json.loads(path.read_bytes())
