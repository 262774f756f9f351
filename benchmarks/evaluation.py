"""The evaluation command on easy-VQA: samples a second with tiny-vlm, what the harness costs, and inspect beside it.

    python benchmarks/evaluation.py [--samples 9673] [--rounds 3]

Two comparisons, each of which takes its parts in turn, a round after the other; the first round is not counted.

With a model: `generate` is tiny-vlm reading the questions and answering them, and nothing else; `eval run` is the
command, which scores the replies too; with `--out` it writes a log besides, of which `eval report` makes a page. The
share that is not `generate` is what the harness costs.

With answers that are there at once: `evaluate` with a log of ours, and the same samples in inspect (if `inspect-ai` is
installed): the same pictures from the same files, the same replies, exact match, a log with the pictures. So harnesses
alone are compared, and both must find the same share of replies right.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import importlib.util
import io
import itertools
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pe_rlhf_mm as pe
from pe_rlhf_mm.cli import main as cli
from pe_rlhf_mm.evaluation.answering import CHUNK
from pe_rlhf_mm.tasks.vqa.easy_vqa import EasyVQA
from pe_rlhf_mm.types import Image, Message, Sample, Text

TASK = "pe/easy-vqa"
MAX_TOKENS = 16


def questions(count: int) -> list[Sample]:
    return list(itertools.islice(EasyVQA().samples("test"), count))


def generate(count: int) -> None:
    """The model's work alone, in chunks as large as the harness takes."""
    samples, policy = questions(count), pe.load_policy("tiny-vlm")
    for start in range(0, len(samples), CHUNK):
        policy.generate([sample.messages for sample in samples[start : start + CHUNK]], max_tokens=MAX_TOKENS)


def evaluate(count: int, *, log: bool = False, report: bool = False) -> None:
    """The command, in this process: it has been started already."""
    asked = ["eval", "run", TASK, "--policy", "tiny-vlm", "--limit", str(count), "--max-tokens", str(MAX_TOKENS)]
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert cli.run(asked + (["--out", f"{folder}/log"] if log or report else [])) == 0
        if report:
            assert cli.run(["eval", "report", f"{folder}/log"]) == 0


def said_at_once(samples: Sequence[Sample]) -> dict[str, str]:
    """A reply for every question, each of them about another picture or in other words; every third is wrong."""
    return {key(sample.messages): "no" if i % 3 else str(sample.target) for i, sample in enumerate(samples)}


def key(messages: Sequence[Message]) -> str:
    parts = [part for message in messages for part in message.parts]
    return " ".join(part.text if isinstance(part, Text) else str(part.source) for part in parts)


def share_right(samples: Sequence[Sample], replies: dict[str, str]) -> float:
    return statistics.fmean(replies[key(sample.messages)] == sample.target for sample in samples)


def ours(samples: Sequence[Sample], replies: dict[str, str]) -> None:
    """A harness with nothing to wait for: ours."""
    with tempfile.TemporaryDirectory() as folder:
        found = pe.evaluate(TASK, lambda messages: replies[key(messages)], limit=len(samples), out=Path(folder, "log"))
    assert math.isclose(found.headline.value, share_right(samples, replies))


def inspect(samples: Sequence[Sample], replies: dict[str, str]) -> None:
    """The same in inspect: a solver that has the reply, exact match, a log with the pictures."""
    import inspect_ai
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.dataset import Sample as Theirs
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, ModelOutput
    from inspect_ai.scorer import exact
    from inspect_ai.solver import solver

    @solver
    def reply() -> Callable[..., Any]:
        async def solve(state: Any, generate: Any) -> Any:
            state.output = ModelOutput.from_content("none", replies[state.metadata["key"]])
            return state

        return solve

    def theirs(sample: Sample) -> Theirs:
        parts = [part for message in sample.messages for part in message.parts]
        content = [
            ContentImage(image=str(part.source)) if isinstance(part, Image) else ContentText(text=part.text)
            for part in parts
        ]
        asked = ChatMessageUser(content=content)
        return Theirs(id=sample.id, input=[asked], target=str(sample.target), metadata={"key": key(sample.messages)})

    task = inspect_ai.Task(
        dataset=MemoryDataset([theirs(sample) for sample in samples]), solver=reply(), scorer=exact()
    )
    with tempfile.TemporaryDirectory() as folder:
        (log,) = inspect_ai.eval(task, model=None, log_dir=folder, display="none")
    assert log.results is not None, log.error
    assert math.isclose(log.results.scores[0].metrics["mean"].value, share_right(samples, replies))


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(parts: Mapping[str, Callable[[], None]], rounds: int, count: int) -> None:
    """Prints median, range and rate of every part; shares are medians of what a round gave against the first part."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for round in range(rounds + 1):
        for name, work in parts.items():
            took = seconds(work)
            if round:
                times[name].append(took)
    first = next(iter(times.values()))
    print(f"{'':<28} {'median s':>9} {'fastest':>9} {'slowest':>9} {'samples/s':>10} {'over the first':>15}")
    for name, measured in times.items():
        middle = statistics.median(measured)
        over = statistics.median(t / f - 1 for t, f in zip(measured, first, strict=True))
        print(f"{name:<28} {middle:9.1f} {min(measured):9.1f} {max(measured):9.1f} {count / middle:10.0f} {over:15.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=9673)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    samples = questions(options.samples)
    versions = {name: importlib.metadata.version(name) for name in ("pe-rlhf-mm", "jax")}
    print(
        f"{len(samples)} samples, {os.cpu_count()} cores, {platform.machine()}, {platform.python_version()}, {versions}"
    )
    with_model = {
        "generate": functools.partial(generate, len(samples)),
        "eval run": functools.partial(evaluate, len(samples)),
        "eval run --out": functools.partial(evaluate, len(samples), log=True),
        "eval run --out, eval report": functools.partial(evaluate, len(samples), report=True),
    }
    compare(with_model, options.rounds, len(samples))
    replies = said_at_once(samples)
    at_once = {"ours, log": functools.partial(ours, samples, replies)}
    if importlib.util.find_spec("inspect_ai"):
        at_once[f"inspect {importlib.metadata.version('inspect-ai')}, log"] = functools.partial(
            inspect, samples, replies
        )
    else:
        print("inspect-ai is not installed: pip install inspect-ai")
    compare(at_once, options.rounds, len(samples))


if __name__ == "__main__":
    main()
