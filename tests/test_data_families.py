"""Every family of data from its published files to a tuned policy, by the commands that a user types.

Open stand-ins take the place of what cannot be had here; those of Anthropic's file are written by rule. The models are
tiny and the steps few: what is tested is the way, not where it leads.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from published_files import write_hh

FEW = (
    "--sft.steps 2 --sft.batch-size 4 --sft.demonstrations 6 --reward.steps 2 --reward.batch-size 4 --reward.pairs 6 "
    "--reward.validate-every 2 --reward.validation-pairs 4 --rl.steps 1 --rl.prompts 4 --rl.group 2 --rl.max-tokens 8 "
    "--rl.evaluation-samples 4 --test-samples 4"
).split()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model that reads long texts."""
    folder = tmp_path_factory.mktemp("model") / "llama"
    shutil.copytree(Path(__file__).parent / "fixtures/llama", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


def pe_rlhf(home: Path, *arguments: object) -> str:
    environment = {**os.environ, "PE_RLHF_DATA": str(home / "data"), "PE_RLHF_CACHE": str(home / "cache")}
    command = [sys.executable, "-m", "pe_rlhf_mm", *map(str, arguments)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tuned(home: Path, task: str, out: str, *options: object) -> dict:
    """The summary of a short tuning, after the task has been found to conform."""
    assert "conforms" in pe_rlhf(home, "tasks", "check", task)
    summary = json.loads(pe_rlhf(home, "tune", task, "--out", out, "--json", *FEW, *options))
    assert (home / out / "report.html").is_file()
    return summary


def stand_in(home: Path, name: str, *sets: str) -> None:
    """Written and prepared."""
    pe_rlhf(home, "data", "stand-in", name, "--out", f"published/{name}")
    for prepared in sets:
        pe_rlhf(home, "data", "prepare", prepared, "--from", f"published/{name}")


def test_summaries_and_then_messages_by_the_reward_model_of_summaries(home: Path, reader: Path) -> None:
    stand_in(home, "tldr", "tldr", "tldr-posts")
    summaries = tuned(home, "text/tldr", "runs/tldr", "--model", reader)
    assert (summaries["rl"]["n"], summaries["reward_model"]["n"]) == (4, 4)
    stand_in(home, "bolt", "bolt")
    messages = tuned(home, "text/bolt", "runs/bolt", "--model", reader, "--start-from", "runs/tldr")
    assert messages["rl"]["accuracy"] is None  # there is no reference to compare with
    assert messages["learned_reward"]["rl"]["n"] == 4
    trained = {json.loads(line)["stage"] for line in (home / "runs/bolt/metrics.jsonl").read_text().splitlines()}
    assert trained == {"rl", "evaluation"}


def test_helpful_replies(home: Path, reader: Path) -> None:
    stand_in(home, "shp", "shp")
    summary = tuned(home, "text/helpful-shp", "runs/shp", "--model", reader, "--reward.margin", 1)
    assert summary["reward_model"]["n"] == 4


def test_harmless_and_helpful_replies_of_anthropic(home: Path, reader: Path) -> None:
    for subset in ("harmless-base", "helpful-base"):
        for split, asked in (("train", range(60)), ("test", range(60, 80))):
            write_hh(
                home / "published/hh",
                subset,
                split,
                [
                    (f"\n\nHuman: {subset}, what is {n}?\n\nAssistant: It is {n}.",
                     f"\n\nHuman: {subset}, what is {n}?\n\nAssistant: Find out.")
                    for n in asked
                ],
            )  # fmt: skip
    pe_rlhf(home, "data", "prepare", "hh", "--from", "published/hh")
    for task in ("text/harmless", "text/helpful-hh"):
        assert tuned(home, task, f"runs/{task}", "--model", reader)["rl"]["n"] == 4


@pytest.mark.parametrize("loss", ["pairwise", "pointwise"])
def test_questions_about_images_in_the_files_of_vqav2(home: Path, loss: str) -> None:
    if not (home / "data/vqav2").is_dir():
        stand_in(home, "vqav2", "vqav2")
    summary = tuned(home, "vqa/vqav2", f"runs/{loss}", "--reward.loss", loss, "--sft.packed-length", 128)
    assert (summary["rl"]["n"], summary["reward_model"]["n"]) == (4, 4)
