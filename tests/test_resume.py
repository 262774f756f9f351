"""Runs that are killed at any moment, and the same command again until they are finished: nobody can tell afterwards.

Moments are the files that a run opens, moves and removes in its folder: within a save, between saves, as adapters are
written. Which of them, a seed draws.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pe_rlhf_mm.cli.main import run as command

ROOT = Path(__file__).parent.parent
COMMAND = """
import os, signal, sys, threading
folder, moment, ending, *sys.argv[1:] = sys.argv[1:]
moments, lock = 0, threading.Lock()
def watch(event, details):
    global moments
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate") and str(details[0]).startswith(folder):
        with lock:
            moments += 1
            now = moments == int(moment)
        if now:
            os.kill(os.getpid(), int(ending))
sys.addaudithook(watch)
from pe_rlhf_mm.cli.main import main
from pe_rlhf_mm.training import agents
agents.DIVERGENCE_EPISODES = 4
try:
    main()
finally:
    print("moments", moments, file=sys.stderr)
"""
COMMON = """
    --sft.steps 3 --sft.batch-size 8 --sft.learning-rate 1e-3 --sft.demonstrations 16 --test-samples 4
    --rl.evaluation-samples 4 --rl.max-tokens 4
"""
RL = """
    --lora.rank 3 --lora.reward-rank 2 --lora.targets q v
    --rl.steps 3 --rl.prompts 4 --rl.evaluate-every 2 --rl.learning-rate 3e-2 --rl.value-learning-rate 3e-2
    --rl.kl-target 0.05 --rl.kl-gain 2
"""
JOBS = {
    "pictures": "fickle_tasks:Pictures" + COMMON + RL + """
        --reward.steps 3 --reward.batch-size 8 --reward.learning-rate 1e-3 --reward.validate-every 2
        --reward.validation-pairs 8
    """,
    "canvas": "fickle_tasks:Canvas" + COMMON + RL + """
        --rl.environments 4 --rl.max-turns 1 --rl.reward task --rl.algorithm ppo --rl.epochs 2
    """,
    "pairs": "fickle_tasks:Pictures" + COMMON + """
        --method dpo --mode full --preferences.steps 3 --preferences.batch-size 8 --preferences.evaluate-every 2
        --preferences.learning-rate 1e-3
    """,
}  # fmt: skip
ENDINGS = {
    "pictures": [signal.SIGKILL, signal.SIGKILL],
    "canvas": [signal.SIGKILL],
    "pairs": [signal.SIGTERM],
}
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 75}


def attempt(job: str, folder: Path, moment: int = 0, ending: int = 0) -> tuple[int, str]:
    """One try at a job in a process of its own, which saves after every step: its exit code and what it said."""
    # Programs that compile in no time are kept too: every try would compile them again.
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    asked = ["tune", *JOBS[job].split(), "--out", str(folder), "--resume", "--save-every", "0"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(folder), str(moment), str(int(ending)), *asked],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def curve(folder: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` but for the times, which must not go back."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [line.pop("seconds") for line in lines]
    assert seconds == sorted(seconds)
    return lines


def contents(folder: Path) -> dict[str, bytes]:
    """Of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("job", JOBS)
def test_a_run_that_was_killed_comes_to_the_end_of_the_uninterrupted_one(job: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, said = attempt(job, whole)
    assert code == 0, said
    moments, rng = int(said.split()[-1]), random.Random(job)
    # A try that goes on has about as many moments as were left, or fewer: saves are written beside the training.
    latest = moments * 9 // 10 // len(ENDINGS[job])
    for ending in ENDINGS[job]:
        code, said = attempt(job, killed, rng.randrange(1, latest), ending)
        assert code == CODES[ending], said
        assert "Traceback" not in said
    code, said = attempt(job, killed)
    assert code == 0, said
    assert curve(killed) == curve(whole)
    assert contents(killed / "adapters") == contents(whole / "adapters")
    assert contents(killed / "images") == contents(whole / "images")
    assert (killed / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert not (killed / "state").exists()
    assert json.loads((killed / "config.json").read_text())["status"] == "finished"
    assert_said_to_be_finished(job, killed)


def assert_said_to_be_finished(job: str, folder: Path) -> None:
    """The command once more, with other settings, and as it was; nothing is changed."""
    before, said, refused = contents(folder), io.StringIO(), io.StringIO()
    asked = ["tune", *JOBS[job].split(), "--out", str(folder), "--resume"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(refused):
        assert command([*asked, "--sft.steps", "4"]) == 2
        assert command(asked) == 0
    assert "was begun with sft.steps 3, and is to go on with 4" in refused.getvalue()
    assert said.getvalue() == f"{folder} is finished: {folder / 'report.html'}\n"
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("options", "said"), [("--resume --overwrite", "either --resume or --overwrite"), ("--save-every -1", "negative")]
)
def test_what_cannot_be_meant_is_refused(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["tune", "pe/easy-vqa", "--out", str(tmp_path / "run"), *options.split()]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
