"""`transformers serve` with SmolLM2-135M: what it says as a policy is what the SDK says itself, and it judges.

pytest -n 0 tests/reference/live_serving.py       (extra `reference`; `make test-reference` runs it)
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pe_rlhf_mm.checkpoints.fetch import fetch
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.evaluation.evaluate import evaluate
from pe_rlhf_mm.judging.endpoint import Endpoint
from pe_rlhf_mm.types import Message, Sample

QUESTIONS = ["What is the capital of France?", "Explain what a web browser does.", "How do I bake bread?"]


class Questions:
    """Three questions; what is told of the replies is their length alone."""

    evaluators: Sequence[str] = ("pe/rouge",)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        for number, question in enumerate(QUESTIONS):
            yield Sample(str(number), [Message("user", question)], "Paris")

    def environment(self) -> None: ...

    def solve(self, sample: Sample) -> Sequence[str]:
        return [sample.target]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch("smollm2-135m", tmp_path_factory.mktemp("models") / "smollm2")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[str]:
    """The address of the model while it is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu", "--dtype", "float32"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},  # or it waits for cores that tests have
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1#{folder}"
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the server did not come up")


def test_greedy_replies_of_the_server_are_ours(reference: str, folder: Path, tmp_path: Path) -> None:
    task = f"{__name__}:Questions"
    theirs = evaluate(task, reference, max_tokens=32, out=tmp_path / "theirs")
    ours = evaluate(task, folder, max_tokens=32)
    assert [o.replies for o in theirs.outcomes] == [o.replies for o in ours.outcomes]
    assert "Paris" in theirs.outcomes[0].replies[0]
    assert len((tmp_path / "theirs/samples.jsonl").read_text().splitlines()) == len(QUESTIONS)


def test_it_judges_or_says_why_not(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of this size seldom keeps to the choices: then there is no verdict, and never a zero."""
    asked = [[Message("user", f"{question} Say only YES or NO.")] for question in ("Is water wet?", *QUESTIONS)]
    for verdict in Endpoint(reference, max_tokens=32).choose(asked, ("YES", "NO")):
        if verdict.probabilities is None:
            assert "names none of YES, NO" in verdict.why
        else:
            assert sum(verdict.probabilities.values()) == pytest.approx(1)


def test_the_command(reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "run", f"{__name__}:Questions", "--policy", reference, "--json", "--out", str(tmp_path / "log")]
    assert run(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"][0]["n"] == len(QUESTIONS)
