"""Published files as users have them: what is broken is named by file, line and reason, and spoils no other row."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from published_files import (
    example,
    masked_crc32c,
    tfrecord_frame,
    write_bolt,
    write_json_document,
    write_json_lines,
    write_parquet,
    write_tfrecord,
    written,
)
from test_sources import write_array_records

from pe_rlhf_mm.data.sources.archives import unpack
from pe_rlhf_mm.data.sources.array_records import ArrayRecords
from pe_rlhf_mm.data.sources.json_lines import JsonLines
from pe_rlhf_mm.data.sources.json_list import JsonList
from pe_rlhf_mm.data.sources.parquet import Parquet
from pe_rlhf_mm.data.sources.source import BadRow, Source
from pe_rlhf_mm.data.sources.tfrecord import TFRecord
from pe_rlhf_mm.data.sources.xml_folder import XmlFolder
from pe_rlhf_mm.errors import UserError

SECRET = "what must not be printed"
ROWS = [{"id": i, "text": f"{SECRET} {i}"} for i in range(6)]


def outcome(source: Source) -> list[Any]:
    """Every row, or what is wrong with it."""
    rows: list[Any] = []
    for i in range(len(source)):
        try:
            rows.append(source[i])
        except BadRow as error:
            rows.append(str(error))
    return rows


# --- files that cannot be read at all ---------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], object]] = {
    "JSON Lines": lambda path: len(JsonLines(path)),
    "JSON list": lambda path: len(JsonList(path)),
    "TFRecord": lambda path: len(TFRecord(path)),
    "Parquet": lambda path: len(Parquet(path)),
    "ArrayRecord": lambda path: len(ArrayRecords([path], json.loads)),
    "archive": lambda path: unpack(path, path.parent / "out"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_file_that_is_missing_empty_or_a_folder(read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    written(tmp_path / "empty", b"")
    for name, why in (("none", "does not exist"), ("folder", "is a folder; expected a file"), ("empty", "is empty")):
        with pytest.raises(UserError, match=why) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "rows.jsonl", ROWS).chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        len(JsonLines(tmp_path / "rows.jsonl"))


def test_a_gzip_file_of_nothing_is_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty once unpacked"):
        len(JsonLines(written(tmp_path / "rows.jsonl.gz", gzip.compress(b""))))


def test_a_full_disk_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(UserError, match=r"cannot be unpacked into .*No space left on device.*TMPDIR"):
        len(JsonLines(write_json_lines(tmp_path / "rows.jsonl.gz", ROWS)))


@pytest.mark.parametrize("read", [READERS["Parquet"], READERS["ArrayRecord"]])
def test_formats_with_their_index_at_the_end_are_lost_when_cut(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for content in (
        write_parquet(path, ROWS).read_bytes(),
        write_array_records(path, [b"row"] * 9).read_bytes(),
        b"some other file " * 9000,
    ):
        for end in (100, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:end])
            with pytest.raises(UserError, match="or is damaged") as caught:
                read(path)
            assert "\n" not in str(caught.value)


# --- JSON -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"id": 3, "text": ', r"broken JSON at column 19 \(Expecting value\)"),
        (b"not JSON", "broken JSON at column 1"),
        (b'{"id": 3} {"id": 4}', r"column 11 \(Extra data\)"),
        (b"   ", "broken JSON"),
        (b"[1, 2]", "it is a list; expected a JSON object"),
        (b'"text"', "it is a string; expected a JSON object"),
        (b"7", "it is a number; expected a JSON object"),
        (b"null", "it is null; expected a JSON object"),
        ('{"text": "é"}'.encode("latin-1"), r"byte 11 \(0xe9\) is not UTF-8"),
        ('{"id": 3}'.encode("utf-16"), r"byte 1 \(0xff\) is not UTF-8"),
        (b'{"text": "\\ud83d"}', "half a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": ' + b"1" * 5000 + b"}", "limit"),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz"])
def test_a_bad_line_is_named_and_spoils_no_other(line: bytes, why: str, name: str, tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[2:3] = [b"", line]
    content = b"\n".join(lines)
    source = JsonLines(written(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content))
    assert len(source) == 6
    with pytest.raises(BadRow, match=why) as caught:
        source[2]
    assert str(caught.value).startswith(f"{tmp_path / name}, line 4: ")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert [source[i] for i in (0, 1, 3, 4, 5)] == [ROWS[i] for i in (0, 1, 3, 4, 5)]


def test_a_message_never_quotes_the_row(tmp_path: Path) -> None:
    for broken in (f'{{"text": "{SECRET}', f'{{"text": {SECRET}}}', f'"{SECRET}"', f'{{"{SECRET}": "\\ud83d"}}'):
        lines, document = tmp_path / "rows.jsonl", tmp_path / "rows.json"
        (error,) = outcome(JsonLines(written(lines, broken.encode())))
        assert SECRET not in error
        (error,) = outcome(JsonList(written(document, f"[{broken}".encode())))[:1]
        assert SECRET not in error


@pytest.mark.parametrize("write", [write_json_lines, write_tfrecord])
def test_a_gzip_file_cut_anywhere_gives_its_rows_and_then_says_so(write: Callable[..., Path], tmp_path: Path) -> None:
    if write is write_json_lines:
        path = write_json_lines(tmp_path / "rows.jsonl.gz", ROWS)
        source: JsonLines | TFRecord = JsonLines(path)
    else:
        path = write_tfrecord(tmp_path / "rows", [json.loads(json.dumps(row)) for row in ROWS], compressed=True)
        source = TFRecord(path)
    whole, content, seen = outcome(source), path.read_bytes(), set()
    assert len(whole) == len(ROWS)
    for end in range(12, len(content)):
        path.write_bytes(content[:end])
        source.close()
        *rows, error = outcome(source)
        assert rows == whole[: len(rows)]
        assert error.startswith(f"{path}, {source.unit} {len(rows) + 1}: the gzip file ends too early")
        seen.add(len(rows))
    assert seen == {0, 1, 2, 3, 4, 5, 6}  # without its checksum, even a file with all its rows is not trusted


def test_a_gzip_file_that_is_damaged_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    content = bytearray(write_json_lines(tmp_path / "rows.jsonl.gz", ROWS).read_bytes())
    content[-8] ^= 1  # its checksum
    source = JsonLines(written(tmp_path / "rows.jsonl.gz", bytes(content)))
    *rows, error = outcome(source)
    assert rows == ROWS
    assert "line 7: the gzip file is damaged here or before (CRC check failed" in error
    with pytest.raises(BadRow, match="line 7: the gzip file is damaged"):
        source[-1]


@pytest.mark.parametrize("spaces", [None, 1])
def test_a_document_that_breaks_off_gives_the_rows_before(spaces: int | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    text = json.dumps({"info": {}, "rows": ROWS, "more": [1]}, indent=spaces)
    begun = text.index("[") + 1
    for end in range(begun, len(text) - 1):
        *rows, error = outcome(JsonList(written(path, text[:end].encode()), "rows"))
        assert rows == ROWS[: len(rows)]
        assert error.startswith(f"{path}, row {len(rows) + 1}: broken JSON at line ")
    assert rows == ROWS
    for end in range(1, begun - 1):
        with pytest.raises(UserError, match="broken JSON at line"):
            len(JsonList(written(path, text[:end].encode()), "rows"))


def test_bytes_that_are_no_text_spoil_one_row_of_a_document(tmp_path: Path) -> None:
    content = json.dumps({"rows": ROWS}).encode().replace(b"printed 2", b"printed \xe9")
    rows = outcome(JsonList(written(tmp_path / "rows.json", content), "rows"))
    assert "row 3: byte" in rows[2]
    assert "(0xe9) is not UTF-8" in rows[2]
    assert rows[:2] + rows[3:] == ROWS[:2] + ROWS[3:]


@pytest.mark.parametrize(
    ("document", "keys", "why"),
    [
        ({"questions": [], "info": 1}, ["annotations"], "has no 'annotations', but questions, info"),
        ({}, ["annotations"], "has no 'annotations', but nothing at all"),
        (ROWS, ["annotations"], "holds a list where an object was expected"),
        ({"rows": {"a": 1}}, ["rows"], "holds an object where a list was expected"),
        ({"rows": 7}, ["rows"], "holds a number where a list was expected"),
        ("text", [], "holds a string where a list was expected"),
    ],
)
def test_the_wrong_document(document: object, keys: Sequence[str], why: str, tmp_path: Path) -> None:
    path = write_json_document(tmp_path / "rows.json", document)
    with pytest.raises(UserError, match=why) as caught:
        len(JsonList(path, *keys))
    assert str(caught.value).startswith(str(path))
    assert "Is it the right file?" in str(caught.value)


@pytest.mark.parametrize("end", [b" []", b",", b"]", b'{"id": 1}'])
def test_what_follows_a_list_is_not_overlooked(end: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", json.dumps(ROWS).encode() + end)
    *rows, error = outcome(JsonList(path))
    assert rows == ROWS
    assert "row 7: broken JSON at line 1" in error


@pytest.mark.parametrize("row", [["q", "a"], ["q", "a", 1, 2], {"question": "q"}, "q"])
def test_a_list_of_other_values_than_were_named(row: object, tmp_path: Path) -> None:
    path = write_json_document(tmp_path / "rows.json", [["q", "a", 1], row, ["q", "b", 2]])
    rows = outcome(JsonList(path, fields=("question", "answer", "image")))
    assert "row 2: it is a" in rows[1]
    assert "expected a list of question, answer, image." in rows[1]
    assert rows[2] == {"question": "q", "answer": "b", "image": 2}


# --- TFRecord ---------------------------------------------------------------------------------------------------

EXAMPLES = [{"id": [i], "text": "x" * i} for i in range(4)]
FRAMES = [tfrecord_frame(example(features)) for features in EXAMPLES]


def test_a_damaged_payload_spoils_one_record(tmp_path: Path) -> None:
    path = tmp_path / "records"
    for byte in range(12, len(FRAMES[1])):  # the payload and its checksum
        damaged = bytearray(FRAMES[1])
        damaged[byte] ^= 0x10
        rows = outcome(TFRecord(written(path, FRAMES[0] + bytes(damaged) + FRAMES[2] + FRAMES[3])))
        assert rows[1].startswith(f"{path}, record 2: its checksum is wrong")
        assert [rows[i]["id"].tolist() for i in (0, 2, 3)] == [[0], [2], [3]]


def test_a_damaged_length_loses_the_rest_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "records"
    for byte in range(12):
        damaged = bytearray(FRAMES[1])
        damaged[byte] ^= 0x10
        first, error = outcome(TFRecord(written(path, FRAMES[0] + bytes(damaged) + FRAMES[2])))
        assert first["id"] == [0]
        assert error.startswith(f"{path}, record 2: the checksum of its length is wrong, so it and all after")


def test_a_file_that_ends_in_a_record(tmp_path: Path) -> None:
    path, content = tmp_path / "records", FRAMES[0] + FRAMES[1]
    for end in range(len(FRAMES[0]) + 1, len(content)):
        first, error = outcome(TFRecord(written(path, content[:end])))
        assert first["id"] == [0]
        assert error.startswith(f"{path}, record 2: the file ends in the middle of it")


def test_a_length_beyond_all_memory_is_not_believed(tmp_path: Path) -> None:
    length = struct.pack("<Q", 2**63)
    path = written(tmp_path / "records", length + struct.pack("<I", masked_crc32c(length)) + b"x")
    assert "the file ends in the middle of it" in outcome(TFRecord(path))[0]


def test_what_is_no_tfrecord_or_holds_no_example(tmp_path: Path) -> None:
    (error,) = outcome(TFRecord(written(tmp_path / "picture", b"\x89PNG\r\n\x1a\n" * 9)))
    assert "record 1" in error
    assert "Is this a TFRecord file?" in error
    rows = outcome(TFRecord(write_tfrecord(tmp_path / "records", [b"no protocol buffer", EXAMPLES[1]])))
    assert "record 1: it is no tf.train.Example" in rows[0]
    assert rows[1]["id"] == [1]


# --- XML --------------------------------------------------------------------------------------------------------

LAUGHS = '<!DOCTYPE a [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)
)  # a thousand million laughs out of half a kilobyte


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "line 1: it is empty"),
        (b"<conversation>\n<messages>\n", r"line 3: broken XML at column 1 \(no element found\)"),
        (b"<a>\n  <b></a>", r"line 2: broken XML at column \d+ \(mismatched tag\)"),
        (b"<a>\n\n caf\xe9 </a>", "line 3: broken XML"),
        (b"no XML", "line 1: broken XML"),
        (b"<a>&nbsp;</a>", r"line 1: broken XML at column \d+ \(undefined entity\)"),
        (f"{LAUGHS}]>\n<a>&a9;</a>".encode(), "line 1: it has the entity 'a0'"),
        (b'<!DOCTYPE a [\n<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "line 2: it has the entity 'x'"),
        (b'<!DOCTYPE a [\n<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><a/>', "line 2: it has the entity 'x'"),
        (b'<!DOCTYPE a SYSTEM "a.dtd">\n<a>&lost;</a>', "line 2: it has the entity 'lost'"),
    ],
)
def test_bad_xml_is_named_and_spoils_no_other(content: bytes, why: str, tmp_path: Path) -> None:
    write_bolt(tmp_path, "SMS_ENG_20120903.0001")
    path = written(tmp_path / "data" / "SMS_ENG_20120903.0002.conv.xml", content)
    write_bolt(tmp_path, "SMS_ENG_20120903.0003")
    source = XmlFolder(tmp_path / "data")
    with pytest.raises(BadRow, match=why) as caught:
        source[1]
    assert str(caught.value).startswith(f"{path}, line ")
    assert [source[i]["root"].get("id")[-1] for i in (0, 2)] == ["1", "3"]


def test_a_folder_in_the_place_of_an_xml_file(tmp_path: Path) -> None:
    write_bolt(tmp_path)
    (tmp_path / "data" / "z.xml").mkdir()
    with pytest.raises(BadRow, match=r"z\.xml: it cannot be read: Is a directory"):
        XmlFolder(tmp_path / "data")[1]


def test_a_folder_without_xml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \*\.xml files"):
        len(XmlFolder(tmp_path))
    for path in (tmp_path / "none", written(tmp_path / "a.xml", b"<a/>")):
        with pytest.raises(UserError, match="is no folder"):
            len(XmlFolder(path))


# --- Parquet and ArrayRecord ------------------------------------------------------------------------------------


def write_bare_parquet(path: Path, texts: Sequence[str], *, checksums: bool) -> Path:
    """Two rows a group, the texts as they are."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"text": texts}), path, row_group_size=2, compression="none", use_dictionary=False,
        write_statistics=False, write_page_checksum=checksums,
    )  # fmt: skip
    return path


def test_a_damaged_page_spoils_its_group_only(tmp_path: Path) -> None:
    texts = [f"row {i}" for i in range(6)]
    path = write_bare_parquet(tmp_path / "rows.parquet", texts, checksums=True)
    read = outcome(Parquet(written(path, path.read_bytes().replace(b"row 3", b"roW 3"))))
    assert [read[i] for i in (0, 1, 4, 5)] == [{"text": texts[i]} for i in (0, 1, 4, 5)]
    for i in (2, 3):
        assert read[i].startswith(f"{path}, row {i + 1}: it cannot be read (")
        assert "\n" not in read[i]


def test_text_that_is_no_text_spoils_its_row_of_parquet(tmp_path: Path) -> None:
    path = write_bare_parquet(tmp_path / "rows.parquet", [f"row {i}" for i in range(4)], checksums=False)
    rows = outcome(Parquet(written(path, path.read_bytes().replace(b"row 2", b"row \xe9"))))
    assert "row 3: it cannot be read ('utf-8' codec" in rows[2]
    assert [rows[i] for i in (0, 1, 3)] == [{"text": f"row {i}"} for i in (0, 1, 3)]


def test_a_damaged_array_record_spoils_itself_only(tmp_path: Path) -> None:
    path = write_array_records(tmp_path / "rows", [json.dumps({"id": i}).encode() for i in range(4)] + [b"no JSON"])
    content = path.read_bytes()
    path.write_bytes(content[:70] + bytes([content[70] ^ 0xFF]) + content[71:])
    rows = outcome(ArrayRecords([path], json.loads))
    assert rows[0].startswith(f"{path}, record 1: it cannot be read (Corrupted")
    assert rows[1:4] == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert rows[4].startswith(f"{path}, record 5: it cannot be read (Expecting value")
