"""Sweeps: which runs there are, that only those are run which are missing, and the table of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import write_json
from pe_rlhf_mm.reports.sweep import Line, read_sweep, sweep_table, write_sweep
from pe_rlhf_mm.reports.wording import DASH
from pe_rlhf_mm.sweeping.grid import Point, points, read_options

TINY = (
    "--sft.steps 1 --sft.batch-size 4 --sft.demonstrations 8 --rl.max-tokens 2 --rl.evaluation-samples 4 "
    "--test-samples 4 --preferences.steps 2 --preferences.batch-size 4 --method dpo"
).split()


def names(words: str, seeds: int = 1) -> list[str]:
    return [point.name for point in points(read_options(words.split()), seeds)]


def test_every_combination_is_a_run_and_every_seed() -> None:
    found = names("--rank 1,4 --model tiny-vlm,some/where/else --sft.steps 3", seeds=2)
    assert found == [
        f"rank-{rank}_model-{model}_seed-{seed}" for rank in (1, 4) for model in ("tiny-vlm", "else") for seed in (0, 1)
    ]


def test_options_reach_the_tuning_as_they_were_given() -> None:
    (point,) = points(read_options("--lora.targets q v --whole --sft.steps=3 --rl.max_tokens 2".split()), 1)
    assert point.options == "--lora.targets q v --whole --sft.steps 3 --rl.max-tokens 2 --seed 0".split()


def test_rank_is_that_of_all_adapters() -> None:
    first, _ = points(read_options(["--rank", "2,8"]), 1)
    assert first.options == "--lora.rank 2 --lora.reward-rank 2 --seed 0".split()


def test_full_tuning_has_no_adapters_and_is_run_once() -> None:
    found = points(read_options("--rank 1,4 --mode lora,full --lora.alpha 8".split()), 1)
    assert [point.name for point in found] == ["rank-1_mode-lora_seed-0", "mode-full_seed-0", "rank-4_mode-lora_seed-0"]
    assert found[1] == Point("mode-full_seed-0", ["mode", "seed"], {"mode": ["full"], "seed": ["0"]})


def test_an_option_behind_a_value_is_for_the_runs_with_that_value() -> None:
    words = "--sft.steps 3 --mode lora,full --full:sft.steps 5 --full:rl.steps 7 --lora:lora.alpha 8"
    lora, full = (point.options for point in points(read_options(words.split()), 1))
    assert lora == "--sft.steps 3 --mode lora --seed 0 --lora.alpha 8".split()
    assert full == "--sft.steps 5 --mode full --seed 0 --rl.steps 7".split()


@pytest.mark.parametrize(
    ("words", "seeds", "said"),
    [
        ("--mode lora,full --dora:sft.steps 5", 1, "swept are lora, full."),
        ("--mode full --full:sft.steps 5", 1, "swept are none."),
        ("--mode lora,full --rank 1,2 --full:rank 4", 1, "sets an option that is not"),
        ("4 --rank 1,2", 1, "'4' stands before any option"),
        ("--rank 1,2 --rank 3", 1, "--rank is given twice"),
        ("--rank 1,,2", 1, "between commas there must be a value"),
        ("--rank 1,1", 1, "each of them once"),
        ("--rank 1,2", 0, "--seeds is 0; a sweep needs 1 at least"),
        ("--seed 3", 1, "a sweep takes --seeds N"),
        ("--model a/same,b/same", 1, "two runs would be called model-same_seed-0"),
    ],
)
def test_what_is_no_sweep_is_refused(words: str, seeds: int, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        points(read_options(words.split()), seeds)


def test_a_value_that_no_tuning_takes_is_refused_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "tune", "pe/easy-vqa", "--lora.rank", "1,0", "--out", str(tmp_path / "sweep")]
    with pytest.raises(SystemExit) as ended:
        run(command)
    assert ended.value.code == 2
    assert "LoraConfig.rank must be above 0, not 0" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


# --- the table --------------------------------------------------------------------------------------------------


def written(folder: Path, accuracy: float, gain: float, *, status: str = "finished") -> None:
    """A run folder as a tuning leaves it, with steps that took 2, 2 and 8 seconds."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"task": "t@1", "status": status, "settings": {"method": "rlhf"}})
    steps = [{"stage": "rl", "step": n, "seconds": s, "loss": 1.0} for n, s in enumerate((10.0, 12.0, 14.0, 22.0))]
    steps.insert(2, {"stage": "rl", "step": 1, "seconds": 13.9, "validation_accuracy": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    if status == "finished":
        summary = {
            "sft": {"accuracy": accuracy - gain},
            "rl": {"accuracy": accuracy},
            "reward_model": None,
            "gain": {"accuracy": gain},
            "trainable_fraction": 0.05,
            "peak_rss_gib": 1.5,
        }
        write_json(folder / "summary.json", summary)


def spaced(words: str) -> str:
    """As pages write it: no line ends before a per cent sign."""
    return words.replace(" %", "\N{NO-BREAK SPACE}%")


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    runs = {
        f"{mode}-{seed}": {"axes": ["mode", "seed"], "given": {"mode": [mode], "seed": [str(seed)]}}
        for mode in ("lora", "full")
        for seed in (0, 1, 2)
    }
    write_json(tmp_path / "sweep.json", {"task": "t@1", "runs": runs})
    for seed, accuracy in enumerate((0.7, 0.8, 0.9)):
        written(tmp_path / f"lora-{seed}", accuracy, 0.1)
    written(tmp_path / "full-0", 0.6, 0.2)
    written(tmp_path / "full-1", 0.6, 0.2, status="failed")
    return tmp_path


def test_a_line_tells_of_its_seeds(swept: Path) -> None:
    found = read_sweep(swept)
    assert (found.task, found.axes) == ("t@1", ["mode"])
    lora, full = found.lines
    # Student's t with 2 degrees of freedom is 4.303 at 97.5 %; 0.8 ± 4.303 · 0.1 / √3 = 0.5516 to 1.0484.
    assert [measured.text for measured in lora.accuracies] == [
        spaced("70.0 % (45.2 % to 94.8 %)"),
        "–",
        spaced("80.0 % (55.2 % to 100.0 %)"),
        "+10.0 (+10.0 to +10.0)",
    ]
    assert lora.seeds == "3"
    assert lora.costs == [spaced("5.0 %"), "1.500", "–", "2.000"]
    assert full.seeds == "1 of 3"
    assert [measured.text for measured in full.accuracies] == [spaced("40.0 %"), "–", spaced("60.0 %"), "+20.0"]


def test_what_was_swept_once_is_told_of_runs_that_it_was_fixed_for(tmp_path: Path) -> None:
    runs = {
        "rank-1_seed-0": {"axes": ["rank", "seed"], "given": {"rank": ["1"], "seed": ["0"]}},
        "beta-2_seed-0": {"axes": ["beta", "seed"], "given": {"rank": ["1"], "beta": ["2"], "seed": ["0"]}},
    }
    write_json(tmp_path / "sweep.json", {"task": "t@1", "runs": runs})
    found = read_sweep(tmp_path)
    assert (found.axes, [line.values for line in found.lines]) == (["rank", "beta"], [["1", "–"], ["1", "2"]])
    assert [line.seeds for line in found.lines] == ["0 of 1", "0 of 1"]


def test_the_page_shows_what_the_table_says(swept: Path) -> None:
    page, table = (path.read_text() for path in write_sweep(swept))
    assert table == sweep_table(read_sweep(swept))
    for cell in ("80.0 %", "55.2 % to 100.0 %", "1 of 3"):
        assert spaced(cell) in page
        assert cell in table


def test_figures_show_what_has_an_interval(swept: Path) -> None:
    assert [path.name for path in write_sweep(swept, figures=True)] == ["report.html", "report.md", "tuned.png"]


def test_lines_of_a_figure_fit_and_differ() -> None:
    axes, values = (
        ["model", "mode", "rank", "reward.margin"],
        [["tiny", "lora", "16", "true"], ["tiny", "full", DASH, "false"]],
    )
    names = [Line(of, 3, 3, [], []).name(axes) for of in values]
    assert names == ["tiny, lora, rank 16, reward.margin true", "tiny, full, reward.margin false"]


def test_a_folder_without_a_sweep_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", "report", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no sweep" in capsys.readouterr().err


# --- whole sweeps -----------------------------------------------------------------------------------------------


def swept_by_command(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pe_rlhf_mm", "sweep", "tune", "pe/easy-vqa", "--out", str(folder)]
    return subprocess.Popen([*command, *TINY, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_sweep_that_was_ended_goes_on_and_more_values_are_added(tmp_path: Path) -> None:
    folder, first = tmp_path / "sweep", "rank-1_seed-0"
    process = swept_by_command(folder, "--rank", "1,2")
    deadline = time.monotonic() + 300
    while not (folder / first / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode not in (0, 1), said
    assert not (folder / "rank-2_seed-0").exists()
    assert json.loads((folder / first / "config.json").read_text())["status"] == "interrupted", said

    process = swept_by_command(folder, "--rank", "1,2")
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert f"1 of 2: {first} is finished" not in said
    assert [line.seeds for line in read_sweep(folder).lines] == ["1", "1"]
    before = (folder / first / "summary.json").read_bytes()

    process = swept_by_command(folder, "--rank", "1,3")
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert (folder / first / "summary.json").read_bytes() == before
    assert [line.values for line in read_sweep(folder).lines] == [["1"], ["2"], ["3"]]


def test_other_settings_under_a_known_name_are_refused(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = {"task": "pe/easy-vqa@1", "runs": {"seed-0": {"axes": ["seed"], "given": {"seed": ["0"]}}}}
    write_json(swept / "sweep.json", ledger)
    assert run(["sweep", "tune", "pe/easy-vqa", "--out", str(swept), "--sft.steps", "3"]) == 2
    assert "was run with --seed 0, and is to be run with --sft.steps 3 --seed 0" in capsys.readouterr().err
    assert json.loads((swept / "sweep.json").read_text()) == ledger
