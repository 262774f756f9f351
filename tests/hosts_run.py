"""Tunings that `test_hosts.py` compares, each in the process that it runs in, alone or as one of two.

python hosts_run.py FOLDER                  one process with two devices: FOLDER/alone, and goes on with FOLDER/both
python hosts_run.py FOLDER PORT INDEX       one of two with a device each: FOLDER/both, of which the second is asked
                                            to end, and goes on, and is killed
python hosts_run.py FOLDER PORT INDEX idle  the same without a run, and the first is killed
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import pe_rlhf_mm as pe
from pe_rlhf_mm import hosts
from pe_rlhf_mm.cli.main import Ending
from pe_rlhf_mm.errors import Terminated
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.training.run import Followed

SETTINGS = pe.TuneConfig(
    sft=pe.SFTConfig(steps=3, batch_size=8, learning_rate=1e-2),
    reward=pe.RewardConfig(steps=2, batch_size=8, learning_rate=1e-2, validation_pairs=4),
    rl=pe.RLConfig(
        algorithm="rloo", steps=3, prompts=4, group=2, learning_rate=1e-2, temperature=1.0, max_tokens=5,
        evaluate_every=2, evaluation_samples=4, kl_target=0.05, kl_gain=2.0,
    ),
    lora=pe.LoraConfig(rank=4),
    test_samples=4,
    mesh=pe.MeshConfig(fsdp=2),
)  # fmt: skip


def tune(out: Path, *, resume: bool = False) -> None:
    pe.tune("pe_rlhf_mm.testing:ToyTask", out=out, config=SETTINGS, resume=resume, save_every=0, quiet=True)


def at(stage: str, number: int, asked: signal.Signals) -> Callable[..., None]:
    """What the second of two processes is told of steps, and gets a signal as one is done."""

    def step(run: Followed, name: str, reached: int, metrics: object) -> None:
        if (name, reached) == (stage, number):
            os.kill(os.getpid(), asked)

    return step


def together(folder: Path) -> None:
    Followed.step = at("sft", 2, signal.SIGTERM)
    try:
        tune(folder / "both")
    except Terminated:
        print("asked to end", flush=True)
    if hosts.first():
        shutil.copy(folder / "both/metrics.jsonl", folder / "asked.jsonl")
    Followed.step = at("rl", 2, signal.SIGKILL)
    tune(folder / "both", resume=True)


def idle() -> None:
    """The second waits for nobody, and could not tell by itself."""
    if hosts.first():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(120)


def agree() -> None:
    """What one of them says or raises is said and raised on both."""

    def refuse() -> None:
        raise pe.UserError("no")

    print(json.dumps(hosts.led(lambda: f"{os.environ['INDEX']} says" + "." * 2000)[:6]), flush=True)
    print(hosts.anyone(os.environ["INDEX"] == "1"), hosts.anyone(False), flush=True)
    rows = np.arange(30.0).reshape(10, 3)
    hosts.AT_ONCE = 50  # bytes: two rows at a time
    print(np.array_equal(hosts.fetched(by_rows(rows, pe.make_mesh(fsdp=2))), rows), flush=True)
    try:
        hosts.led(refuse)
    except pe.UserError as error:
        print(error, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, Ending())
    folder, *where = sys.argv[1:]
    if where:
        os.environ["INDEX"] = where[1]
        with hosts.joined(f"127.0.0.1:{where[0]}", 2, int(where[1])):
            agree()
            idle() if "idle" in where else together(Path(folder))
    else:
        tune(Path(folder) / "alone")
        tune(Path(folder) / "both", resume=True)
