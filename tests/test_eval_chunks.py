"""A model answers in chunks, and what it has answered is kept while it goes on; files of pictures are read once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image as Pillow

import pe_rlhf_mm as pe
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation import answering, evaluate, log
from pe_rlhf_mm.evaluation.attempts import Attempt
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.types import Image, Message, Outcome, Sample, Score, Text

SAMPLES = [Sample(f"sample-{i}", [Message("user", f"say {i}")]) for i in range(10)]
ATTEMPTS = [Attempt(sample, 0, i, i) for i, sample in enumerate(SAMPLES)]


class Echo:
    """A policy that says what it was asked, and takes three questions at once; `before` is called with each chunk."""

    def __init__(self, before: object = None):
        self.before, self.chunks = before, 0

    def generate(self, asked: Sequence[Sequence[Message]], **settings: object) -> list[list[str]]:
        if callable(self.before):
            self.before(self.chunks)
        self.chunks += 1
        return [[str(messages[0].content)] for messages in asked]

    def __call__(self, messages: Sequence[Message]) -> str:
        return self.generate([messages])[0][0]


@pytest.fixture(autouse=True)
def _chunks_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "CHUNK", 3)


def test_outcomes_are_kept_in_order_while_the_model_goes_on() -> None:
    """The second chunk is answered only when one of the first is kept, and that only when the second is asked for."""
    asked, one_kept, kept = threading.Event(), threading.Event(), list[tuple[int, Outcome]]()

    def before(chunk: int) -> None:
        if chunk == 1:
            asked.set()
            assert one_kept.wait(20)

    def keep(number: int, outcome: Outcome) -> None:
        assert asked.wait(20)
        kept.append((number, outcome))
        one_kept.set()

    answering.run_policy(Echo(before), ATTEMPTS, max_tokens=1, temperature=0, keep=keep)
    assert kept == [(i, Outcome(sample, [f"say {i}"])) for i, sample in enumerate(SAMPLES)]


def test_what_was_answered_before_a_failure_is_kept() -> None:
    def before(chunk: int) -> None:
        if chunk == 2:
            raise ConnectionError("the device is lost")

    kept: list[int] = []
    with pytest.raises(ConnectionError):
        answering.run_policy(
            Echo(before), ATTEMPTS, max_tokens=1, temperature=0, keep=lambda number, _: kept.append(number)
        )
    assert kept == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [1, 9])
def test_what_cannot_be_kept_ends_the_run(number: int) -> None:
    policy = Echo()

    def keep(at: int, outcome: Outcome) -> None:
        if at == number:
            raise UserError("the disk is full")

    with pytest.raises(UserError, match="full"):
        answering.run_policy(policy, ATTEMPTS, max_tokens=1, temperature=0, keep=keep)
    assert policy.chunks == (2 if number == 1 else 4)


class Screens:
    """Six questions about one file, which another picture replaces after the third, of the same size in bytes."""

    evaluators: Sequence[str] = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i in range(6):
            yield Sample(f"screen-{i}", [Message("user", [Image(os.environ["SCREEN"]), Text("what?")])], "red")

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> None: ...


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, other = tmp_path / "screen.bmp", tmp_path / "other.bmp"
    Pillow.new("RGB", (4, 4), "red").save(screen)
    Pillow.new("RGB", (4, 4), "blue").save(other)
    monkeypatch.setenv("SCREEN", str(screen))
    read, asked = [], []
    real = log._bytes_of
    monkeypatch.setattr(log, "_bytes_of", lambda image: read.append(image) or real(image))

    def policy(messages: Sequence[Message]) -> str:
        asked.append(messages)
        if len(asked) == 4:
            other.replace(screen)
        return "red"

    evaluate.evaluate(f"{__name__}:Screens", policy, out=tmp_path / "log")
    assert len(read) == 2
    lines = [json.loads(line) for line in (tmp_path / "log" / "samples.jsonl").read_text().splitlines()]
    paths = [line["messages"][0]["content"][0]["image"] for line in lines]
    assert paths[0] == paths[1] == paths[2] != paths[3] == paths[4] == paths[5]
    colors = [Pillow.open(tmp_path / "log" / path).getpixel((0, 0)) for path in (paths[0], paths[3])]
    assert colors == [(255, 0, 0), (0, 0, 255)]


def test_a_missing_picture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCREEN", str(tmp_path / "none.png"))
    with pytest.raises(UserError, match=r"none\.png.* does not exist"):
        pe.evaluate(f"{__name__}:Screens", lambda messages: "red", out=tmp_path / "log")


def test_json_is_of_fields_and_what_is_not_finite_is_null() -> None:
    scores = {"a": Score(1.0, "right", {"recall": 0.5}), "b": (Score(None),)}
    told = '{"a": {"value": 1.0, "why": "right", "parts": {"recall": 0.5}}, '
    told += '"b": [{"value": null, "why": "", "parts": {}}]}'
    assert to_json(scores, indent=None) == told
    assert to_json({"a": Score(float("inf"), parts={"x": float("nan")})}, indent=None) == (
        '{"a": {"value": null, "why": "", "parts": {"x": null}}}'
    )
    with pytest.raises(TypeError):
        to_json({"a": b"bytes"})


class Sayings:
    """Something to say, for processes that are killed."""

    evaluators = ("pe/exact-match",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for i in range(30):
            yield Sample(f"sample-{i}", [Message("user", f"say {i}")], target=f"say {i}" if i % 3 else "nothing")

    def environment(self) -> None:
        return None

    def solve(self, sample: Sample) -> None:
        return None


SCRIPT = """
import sys, time
import pe_rlhf_mm as pe
from pe_rlhf_mm.evaluation import answering
from test_eval_chunks import Echo
answering.CHUNK = 3
pe.evaluate("test_eval_chunks:Sayings", Echo(lambda chunk: time.sleep(0.03)), out=sys.argv[1])
"""


def test_killed_while_chunks_are_kept_beside_the_next_one_it_goes_on_and_tells_the_same(tmp_path: Path) -> None:
    """SIGKILL at random moments: no line is lost, torn or written twice."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    command, rng = [sys.executable, "-c", SCRIPT, str(tmp_path / "log")], random.Random(0)
    samples, known = tmp_path / "log" / "samples.jsonl", 0
    for _ in range(6):
        before = known
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not (samples.exists() and samples.read_bytes().count(b"\n") > before):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        known = samples.read_bytes().count(b"\n")
    subprocess.run(command, env=environment, check=True)
    assert [json.loads(line)["id"] for line in samples.read_text().splitlines()] == [f"sample-{i}" for i in range(30)]
    whole = pe.evaluate(f"{__name__}:Sayings", Echo(), out=tmp_path / "whole")
    assert whole.headline.value == 20 / 30
    for name in ("scores.jsonl", "results.json"):
        assert (tmp_path / "log" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
