"""A package of somebody else's brings a task and an evaluator: installed for real, found by its metadata alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = (
    "--sft.steps 2 --sft.batch-size 4 --reward.steps 2 --reward.batch-size 4 --reward.validate-every 2 --rl.steps 2 "
    "--rl.prompts 4 --rl.max-tokens 8 --rl.evaluate-every 2"
).split()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where pip has put the package."""
    source, place = tmp_path_factory.mktemp("source") / "acme", tmp_path_factory.mktemp("installed")
    shutil.copytree(Path(__file__).parent / "plugin", source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(source)]
    subprocess.run(pip, check=True)
    return place


def pe_rlhf(installed: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-m", "pe_rlhf_mm", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_with_the_package_that_brought_it(installed: Path) -> None:
    rows = {row["id"]: row["from"] for row in json.loads(pe_rlhf(installed, "tasks", "list", "--json"))}
    assert rows["acme/greeting@1"] == "acme-tasks"
    assert rows["pe/easy-vqa@1"] == "pe-rlhf-mm"
    assert "acme/polite@1" in pe_rlhf(installed, "evaluators", "list")


def test_it_conforms_and_is_tuned_by_its_id(installed: Path, tmp_path: Path) -> None:
    assert "conforms" in pe_rlhf(installed, "tasks", "check", "acme/greeting")
    out = str(tmp_path / "run")
    summary = json.loads(pe_rlhf(installed, "tune", "acme/greeting", "--out", out, "--json", *SMALL))
    assert (summary["task"], summary["rl"]["n"]) == ("acme/greeting@1", 2)
