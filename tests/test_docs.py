"""Every snippet of the documentation is run, as it is printed."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as Pillow

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.M | re.S)


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """(file name or "", code) of every block of a language."""
    return [(name, code) for lang, name, code in BLOCK.findall((ROOT / page).read_text()) if lang == language]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of docs/register-a-task.md, written out as printed."""
    folder = tmp_path_factory.mktemp("task")
    for name, code in blocks("docs/register-a-task.md", "python"):
        (folder / name).write_text(code)
    return folder


TASKS = {"swatches.py": "Swatches", "opposites.py": "Opposites", "press.py": "Press"}
SMALL = (
    "--sft.steps 30 --sft.batch-size 32 --reward.steps 30 --reward.batch-size 32 --reward.validate-every 30 "
    "--rl.steps 6 --rl.prompts 16 --rl.evaluation-samples 20"
).split()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_of_any_kind_is_forty_lines_at_most(task_folder: Path, name: str) -> None:
    lines = (task_folder / name).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 40


@pytest.mark.parametrize(
    ("verb", "name"), [*(("tasks", ":".join(task)) for task in TASKS.items()), ("evaluators", "shouting.py:Quiet")]
)
def test_the_printed_tasks_and_evaluator_conform(task_folder: Path, verb: str, name: str) -> None:
    done = run(["-m", "pe_rlhf_mm", verb, "check", name], task_folder)
    assert done.returncode == 0, done.stderr
    assert "conforms" in done.stdout


def test_the_task_of_the_sweeps_conforms(tmp_path: Path) -> None:
    ((name, code),) = blocks("docs/results/sweeps.md", "python")
    (tmp_path / name).write_text(code)
    done = run(["-m", "pe_rlhf_mm", "tasks", "check", f"{name}:Described"], tmp_path)
    assert (done.returncode, "conforms" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(("name", "asked"), list(zip(TASKS, (100, 16, 100), strict=True)))
def test_the_printed_tasks_can_be_tuned_and_evaluated(task_folder: Path, name: str, asked: int) -> None:
    task, out = f"{name}:{TASKS[name]}", f"runs/{name}"
    done = run(["-m", "pe_rlhf_mm", "tune", task, "--out", out, "--json", *SMALL], task_folder)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["rl"]["n"] == asked
    assert (task_folder / out / "report.html").is_file()
    done = run(["-m", "pe_rlhf_mm", "eval", "run", task, "--policy", out, "--json"], task_folder)
    assert done.returncode == 0, done.stderr
    # The same adapters, read back from disk in another process, answer alike.
    assert json.loads(done.stdout)["metrics"][0]["value"] == pytest.approx(summary["rl"]["accuracy"])


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """As printed, with small settings in place of the six-minute ones."""
    (code,) = [code for _, code in blocks("README.md", "python")]
    ast.parse(code)
    Pillow.new("RGB", (64, 64), "teal").save(tmp_path / "picture.png")
    small = """
import pe_rlhf_mm.tasks.vqa.easy_vqa as easy_vqa
easy_vqa.EasyVQA.tuning = pe.TuneConfig(
    sft=pe.SFTConfig(steps=4, batch_size=16, demonstrations=32),
    reward=pe.RewardConfig(steps=4, batch_size=16, pairs=64, validate_every=2, validation_pairs=32),
    rl=pe.RLConfig(steps=2, prompts=16, max_tokens=8, evaluate_every=2, evaluation_samples=32),
    test_samples=64,
)
"""
    first, rest = code.split("\n", 1)
    (tmp_path / "readme.py").write_text("\n".join([first, small, rest]))
    done = run(["readme.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout


@pytest.mark.parametrize("page", ["agents", "models", "data", "evaluation", "scale"])
def test_the_python_of_a_page_prints_what_it_says(page: str, tmp_path: Path) -> None:
    (code,) = [code for _, code in blocks(f"docs/{page}.md", "python")]
    (tmp_path / f"try_{page}.py").write_text(code)
    done = run([f"try_{page}.py"], tmp_path)
    assert (done.stdout.split(), done.stderr) == (code.rpartition("# ")[2].split(), "")


def test_every_command_of_the_documentation_exists() -> None:
    from pe_rlhf_mm.cli.main import VERBS, find

    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        for line in re.findall(r"^pe-rlhf ([^#\n]+)", text, re.M):
            assert find(line.split())[0] in VERBS


def test_every_link_in_the_documentation_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
