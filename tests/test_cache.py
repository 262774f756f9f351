"""The cache of encoded blocks: what comes out is what the encoder made, however the files were treated."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import CONFIG
from PIL import Image as Pillow

from pe_rlhf_mm.data import cache
from pe_rlhf_mm.data.cache import (
    Columns,
    Ragged,
    RememberingProcessor,
    Table,
    encode_once,
    processor_fingerprint,
    ragged,
)
from pe_rlhf_mm.data.images import encode_png
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.models.model import load_model
from pe_rlhf_mm.types import Image, Message, Text

TEXTS = [f"text {i} " * (i % 5) for i in range(50)]


class Encoder:
    """Makes a text into its bytes, its length, and pairs of numbers; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> Columns:
        self.asked += texts
        rows = [list(text.encode()) for text in texts]
        pairs = [[[c, -c] for c in row] for row in rows]
        spread = np.concatenate([np.array(p, np.int32).reshape(-1, 2) for p in pairs])
        offsets = ragged(rows).offsets
        return {"bytes": ragged(rows), "length": np.array([len(r) for r in rows]), "pairs": Ragged(spread, offsets)}


def encoded(folder: Path, texts: list[str] = TEXTS, *, key: str = "k", **options: int) -> tuple[Table, list[str]]:
    encoder = Encoder()
    return encode_once(texts, encoder, key=key, folder=folder, block=8, **options), encoder.asked


def assert_right(table: Table, texts: list[str] = TEXTS) -> None:
    assert len(table) == len(texts)
    rows, lengths, pairs = (table.column(name) for name in ("bytes", "length", "pairs"))
    for i, text in enumerate(texts):
        assert rows[i].tolist() == list(text.encode())
        assert rows[i].dtype == np.int32
        assert lengths[i] == len(text.encode())
        assert pairs[i].tolist() == [[c, -c] for c in text.encode()]
    assert rows.lengths.tolist() == [len(text.encode()) for text in texts]


def test_the_second_time_nothing_is_encoded(tmp_path: Path) -> None:
    first, asked = encoded(tmp_path)
    again, nothing = encoded(tmp_path)
    assert asked == TEXTS
    assert nothing == []
    assert_right(first)
    assert_right(again)


def test_only_blocks_that_changed_are_encoded(tmp_path: Path) -> None:
    """Blocks of 8: the twentieth text is in the third, and what is added makes the last one another."""
    encoded(tmp_path)
    changed = [*TEXTS[:20], "another", *TEXTS[21:], "one more"]
    table, asked = encoded(tmp_path, changed)
    assert asked == changed[16:24] + changed[48:]
    assert_right(table, changed)


def test_another_encoder_has_blocks_of_its_own(tmp_path: Path) -> None:
    encoded(tmp_path)
    assert encoded(tmp_path, key="other")[1] == TEXTS


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["", "a"]])
def test_no_examples_and_empty_ones(texts: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        table, _ = encoded(tmp_path, texts)
        assert_right(table, texts) if texts else None
        assert len(table) == len(texts)


def test_rows_are_asked_for_by_their_number_only(tmp_path: Path) -> None:
    column = encoded(tmp_path)[0].column("bytes")
    for number in (-1, 50):
        with pytest.raises(IndexError, match="of 50"):
            column[number]
    with pytest.raises(KeyError):
        encoded(tmp_path)[0].column("words")


def test_a_column_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'length' has 1 rows for 2 examples"):
        encode_once("ab", lambda block: {"length": np.zeros(1)}, key="k", folder=tmp_path)


# --- files come to harm -----------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_last(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


@pytest.mark.parametrize("harm", [cut, empty, flip_last, garbage, Path.unlink])
def test_a_damaged_block_is_made_again(harm: Callable[[Path], None], tmp_path: Path) -> None:
    encoded(tmp_path)
    for path in sorted(tmp_path.iterdir())[:2]:
        harm(path)
    table, asked = encoded(tmp_path)
    assert 8 < len(asked) <= 16
    assert_right(table)
    assert encoded(tmp_path)[1] == []


@pytest.mark.parametrize("call", ["mkstemp", "replace"])
def test_a_full_disk_costs_one_warning_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third block finds no room."""
    calls = []
    module, real = (cache.tempfile, cache.tempfile.mkstemp) if call == "mkstemp" else (cache.os, cache.os.replace)

    def full(*args: object, **options: object) -> object:
        calls.append(call)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr(module, call, full)
    with pytest.warns(UserWarning, match=r"No space left on device.*PE_RLHF_CACHE") as warned:
        table, asked = encoded(tmp_path)
    monkeypatch.undo()
    assert len(warned) == 1
    assert asked == TEXTS
    assert_right(table)
    assert_right(pickle.loads(pickle.dumps(table)))
    assert len(list(tmp_path.iterdir())) == 2
    assert encoded(tmp_path)[1] == TEXTS[16:]


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written") as warned:
        table, _ = encoded(tmp_path / "file" / "folder")
    assert len(warned) == 1
    assert_right(table)


def test_a_table_outlives_its_files_and_travels_without_its_content(tmp_path: Path) -> None:
    long = ["long " * 5000] * 8
    table, _ = encoded(tmp_path, long)
    sent = pickle.dumps(table)
    assert len(sent) < 1000
    assert_right(pickle.loads(sent), long)
    for path in tmp_path.iterdir():
        path.unlink()
    assert_right(table, long)


def test_open_tables_hold_no_files_open(tmp_path: Path) -> None:
    """A million examples are a thousand blocks, and a process may have about as many files open."""
    before = len(os.listdir("/proc/self/fd"))
    table, _ = encoded(tmp_path)
    assert_right(table)
    assert len(os.listdir("/proc/self/fd")) == before


def test_above_the_limit_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    for number, key in enumerate(("old", "middle", "new")):
        encoded(tmp_path, TEXTS[:8], key=key)
        for path in tmp_path.iterdir():
            if path.stat().st_mtime > 1e6:
                os.utime(path, (1000 + number, 1000 + number))
    (size,) = {path.stat().st_size for path in tmp_path.iterdir()}
    assert encoded(tmp_path, TEXTS[:8], key="old")[1] == []  # used again
    encoded(tmp_path, TEXTS[:8], key="newest", limit=3 * size)
    assert {k: not encoded(tmp_path, TEXTS[:8], key=k)[1] for k in ("old", "new", "newest", "middle")} == {
        "old": True,
        "new": True,
        "newest": True,
        "middle": False,
    }


def test_the_limit_spares_what_is_in_use(tmp_path: Path) -> None:
    table, _ = encoded(tmp_path, limit=1)
    assert_right(pickle.loads(pickle.dumps(table)))


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / "a.partial", tmp_path / "b.partial"
    for path, age in ((old, 90_000), (new, 0)):
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
    encoded(tmp_path)
    assert not old.exists()
    assert new.exists()


# --- real processes ---------------------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from pe_rlhf_mm.data.cache import encode_once, ragged

def encode(texts):
    with open(sys.argv[2], "a") as log:
        log.write("".join(text + "\\n" for text in texts))
    time.sleep(0.05)
    return {"bytes": ragged([list(text.encode()) for text in texts])}

table = encode_once([f"text {i}" for i in range(160)], encode, key="k", folder=Path(sys.argv[1]), block=8)
rows = table.column("bytes")
assert all(bytes(rows[i].tolist()).decode() == f"text {i}" for i in range(160))
print("whole")
"""


def test_a_killed_run_goes_on_and_two_at_once_do_no_harm(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    command = [sys.executable, "-c", PROGRAM, str(folder), str(log)]
    run = subprocess.Popen(command)
    end = time.monotonic() + 60
    while len(list(folder.glob("*.safetensors"))) < 5:
        assert time.monotonic() < end
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = len(list(folder.glob("*.safetensors")))
    assert 5 <= kept < 20
    log.unlink()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[0] for run in both] == ["whole\n"] * 2
    asked = log.read_text().split("\n")[:-1]
    assert set(asked) == {f"text {i}" for i in range(8 * kept, 160)}
    log.unlink()
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "whole\n"
    assert not log.exists()


# --- what a block is known by -----------------------------------------------------------------------------------


def picture(seed: int) -> Pillow.Image:
    return Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def test_examples_that_differ_are_told_apart(tmp_path: Path) -> None:
    """Each of these once, though joined or printed they may look alike."""
    path = tmp_path / "1"
    path.write_bytes(b"1")
    examples = [
        "1", 1, 1.0, True, b"1", None, "None", ["1"], [["1"]], ["1", ""], ["", "1"], [], "", {"1": 1}, {"1": "1"},
        [("1", 1)], np.array([1]), np.array([1.0]), np.array([[1]]), np.float32(1), Text("1"), Image(b"1"),
        Image(str(path)), Image("/no/1"), Image(picture(1)), Image(picture(2)), Image(picture(1).convert("L")),
        Message("user", "1"), Message("assistant", "1"), Message("user", [Text("1")]), Message("user", [Image(b"1")]),
    ]  # fmt: skip
    digests = [cache.digest("key", [example]) for example in examples]
    same = {i for i, d in enumerate(digests) if digests.count(d) > 1}
    assert [examples[i] for i in same] == [Image(b"1"), Image(str(path))]  # which are the same picture
    assert cache.digest("key", ["1"]) != cache.digest("key1", []) != cache.digest("key", [])


def test_the_same_examples_are_the_same_in_every_process() -> None:
    """Written down once: sets and hashes of Python would differ from run to run."""
    talk = [Message("user", [Image(b"\x01"), Text("what is it?")]), {"b": 1, "a": None}]
    assert cache.digest("k", talk) == cache.digest("k", [talk[0], {"a": None, "b": 1}])
    assert cache.digest("k", talk)[:16] == "3daa10c9584bbb4e"


def test_a_picture_in_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    path, copy = tmp_path / "one.png", tmp_path / "other.png"
    for file in (path, copy):
        file.write_bytes(encode_png(picture(0)))
    first = cache.digest("k", [Image(path)])
    assert first == cache.digest("k", [Image(str(copy))]) == cache.digest("k", [Image(path.read_bytes())])
    path.write_bytes(encode_png(picture(1)))
    assert cache.digest("k", [Image(path)]) != first


def test_an_example_that_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError, match="an example holds a set"):
        encode_once([{"a", "b"}], lambda block: {}, key="k")


def test_the_fingerprint_is_of_all_that_decides_about_tokens() -> None:
    """Two models of one tokenizer name have other tokens if their templates, tokens or image rules differ."""
    processor, again = load_model("tiny-vlm").processor, load_model("tiny-vlm").processor
    known = processor_fingerprint(processor)
    assert processor_fingerprint(again) == known
    assert processor_fingerprint(Processor(again.tokenizer, replace(again.config, name="elsewhere"))) == known
    assert processor_fingerprint(Processor(again.tokenizer, replace(again.config, context=64))) != known
    assert processor_fingerprint(Processor(again.tokenizer, replace(again.config, vision=CONFIG.vision))) != known
    again.tokenizer.chat_template += " "
    assert processor_fingerprint(again) != known
    other = load_model("tiny-vlm").processor
    other.tokenizer.add_tokens(["rectangles"])
    assert processor_fingerprint(other) != known


def test_the_folder_is_the_one_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_RLHF_CACHE", str(tmp_path))
    encode_once(TEXTS, Encoder(), key="k")
    assert len(list((tmp_path / "encoded").iterdir())) == 1
    monkeypatch.delenv("PE_RLHF_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "pe_rlhf_mm" / "encoded"


def test_texts_are_tokenized_once_and_their_ids_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, seen = load_model("tiny-vlm").processor, list[int]()
    texts = [f"is shape {n} a circle?" for n in range(2500)]
    expected, tokenize = plain.tokenize(texts), Processor.tokenize

    def counted(self: Processor, texts: list[str]) -> object:
        seen.append(len(texts))
        return tokenize(self, texts)

    monkeypatch.setattr(Processor, "tokenize", counted)
    for _ in range(2):
        assert RememberingProcessor(plain, folder=tmp_path).tokenize(texts) == expected
        assert seen == [1024, 1024, 452]
    assert RememberingProcessor(plain, folder=tmp_path).tokenize(texts[:5]) == expected[:5]
    assert seen[3:] == [5]  # a handful is not worth a file
