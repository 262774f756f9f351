"""The drawn screens: steps and resets a second, on one core, for every task and for a policy that clicks at random.

    python benchmarks/canvas.py [--rounds 5] [--episodes 200]

A step is one reply: parsed, carried out, judged and answered with a new picture of 128 x 128 pixels. The resets of
episodes are timed with their steps, and once more alone. The oracle's replies are made beforehand; its episodes are the
first ones of the training split. Every round times everything in turn, after one that is not counted; printed are the
median, the slowest and the fastest round by the clock, and the median by processor time, which is disturbed less by
whatever else the machine does.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.tasks.canvas.canvas_task import CanvasTask
from pe_rlhf_mm.tasks.canvas.mix import PARTS, Mix
from pe_rlhf_mm.types import Sample

TARGET = 2000
"""Steps a second on one core."""

Count = Callable[[], int]


class Rate(NamedTuple):
    by_clock: float
    by_processor: float


def timed(work: Count) -> Rate:
    clock, processor = time.perf_counter(), time.process_time()
    count = work()
    return Rate(count / (time.perf_counter() - clock), count / (time.process_time() - processor))


def play(task: CanvasTask, samples: Sequence[Sample], replies: Sequence[Sequence[str]]) -> int:
    """Steps of these episodes, each of which goes on until it is over or nothing is left to say."""
    environment, steps = task.environment(), 0
    for sample, said in zip(samples, replies, strict=True):
        environment.reset(sample, seed=0)
        for reply in said:
            steps += 1
            step = environment.step(reply)
            if step.terminated or step.truncated:
                break
    return steps


def resets(task: CanvasTask, samples: Sequence[Sample]) -> int:
    environment = task.environment()
    for sample in samples:
        environment.reset(sample, seed=0)
    return len(samples)


def measurements(episodes: int) -> dict[str, Count]:
    """What is timed, by name."""
    found: dict[str, Count] = {}

    def add(name: str, task: CanvasTask, samples: Sequence[Sample], replies: Sequence[Sequence[str]]) -> None:
        found[name] = lambda: play(task, samples, replies)

    rng = random.Random(0)
    for task in [part() for part in (*PARTS, Mix)]:
        samples = list(itertools.islice(task.samples("train"), episodes))
        add(f"steps, canvas/{task.name}, oracle", task, samples, [task.solve(sample) or () for sample in samples])
    clicks = [[f"click {rng.randrange(101)} {rng.randrange(101)}" for _ in range(task.max_steps)] for _ in samples]
    add("steps, canvas/mix, random clicks", task, samples, clicks)
    add("steps, canvas/mix, replies that are no action", task, samples, [["no action"] * task.max_steps] * len(samples))
    return {**found, "resets, canvas/mix": lambda: resets(task, samples)}


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"one of {len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()}"


def table_of(found: dict[str, list[Rate]]) -> str:
    """The measurements in Markdown."""
    lines = [
        "| what | a second, median | slowest .. fastest | a processor second, median | target |",
        "|---|---|---|---|---|",
    ]
    for name, rates in found.items():
        clock, processor = [rate.by_clock for rate in rates], [rate.by_processor for rate in rates]
        spread = f"{min(clock):,.0f} .. {max(clock):,.0f}"
        target = f"{TARGET:,}" if name.startswith("steps") else ""
        lines.append(
            f"| {name} | {statistics.median(clock):,.0f} | {spread} | {statistics.median(processor):,.0f} | {target} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=200)
    options = parser.parse_args()
    before, work = os.getloadavg()[0], measurements(options.episodes)
    rounds = [{name: timed(count) for name, count in work.items()} for _ in range(options.rounds + 1)][1:]
    found = {name: [one[name] for one in rounds] for name in work}
    print(
        f"{table_of(found)}\n\n{options.episodes} episodes each; {hardware()}; load {before:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after (the benchmark itself is 1); {options.rounds} rounds; Python "
        f"{platform.python_version()}, pillow {importlib.metadata.version('pillow')}"
    )


if __name__ == "__main__":
    main()
