"""The page of a run: right numbers, unfinished runs, and a file that is whole or not there."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from report_pages import HANDLER, SCRIPT, SUMMARY, Page, make_run, read, row, sample, shown

from pe_rlhf_mm.cli.main import run as command
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.reports import page
from pe_rlhf_mm.reports.page import write_report
from pe_rlhf_mm.reports.wording import decimal, duration
from pe_rlhf_mm.training.run import Run

# --- numbers -------------------------------------------------------------------------------------------------------


def test_the_table_shows_the_numbers_of_the_summary(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run"))
    assert row(page, "SFT").split(" | ")[1:] == ["51.2 %", "1,500", "48.7 % to 53.8 %", "", "60", "1 min 1 s"]
    reward_model = ["87.1 %", "1,200", "85.3 % to 88.9 %", "", "–", "2 min 2 s"]
    assert row(page, "Reward model").split(" | ")[1:] == reward_model
    rl = ["63.4 %KL to SFT 1.250 nats per reply", "1,500", "60.9 % to 65.7 %", "", "40 of 60", "9 min 0 s"]
    assert row(page, "RL").split(" | ")[1:] == rl
    assert row(page, "Evaluation").endswith("| 31 s")


def test_the_headline_says_the_gain_and_how_sure_it_is(tmp_path: Path) -> None:
    text = read(make_run(tmp_path / "run")).text
    assert "Accuracy on 1,500 test questions was 51.2 % after SFT and is 63.4 % after RL: +12.2 points" in text
    assert "(95 % interval +9.5 to +14.9)" in text
    assert "may be chance" not in text
    assert "This run is unfinished" not in text


def test_a_gain_whose_interval_includes_zero_is_called_doubtful(tmp_path: Path) -> None:
    summary = SUMMARY | {"gain": {"accuracy": 0.004, "interval": [-0.01, 0.018]}}
    text = read(make_run(tmp_path / "run", summary=summary)).text
    assert "+0.4 points (95 % interval −1.0 to +1.8)" in text
    assert "may be chance" in text


def test_missing_numbers_are_dashes(tmp_path: Path) -> None:
    summary = {"sft": {"accuracy": math.nan, "n": None, "interval": [math.nan, math.nan]}, "rl": "gone"}
    page = read(make_run(tmp_path / "run", summary=summary))
    assert row(page, "SFT").split(" | ")[1:5] == ["–", "–", "–", ""]
    assert row(page, "RL").split(" | ")[1:4] == ["–", "–", "–"]
    assert "nan" not in page.text.lower()


def test_settings_versions_and_hardware_are_listed(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run"))
    for cells in (
        ["rank", "8"],
        ["targets", "q, v"],
        ["schedule.warmup", "3"],
        ["jax", "0.10.1"],
        ["machine", "1 x cpu"],
    ):
        assert cells in page.rows


@pytest.mark.parametrize(
    ("seconds", "written"), [(8.44, "8.4 s"), (59.7, "1 min 0 s"), (3599.6, "1 h 0 min"), (8040, "2 h 14 min")]
)
def test_durations(seconds: float, written: str) -> None:
    assert duration(seconds).replace("\xa0", " ") == written


@pytest.mark.parametrize(
    ("number", "written"),
    [(0.5, "0.500"), (-14.24, "−14.2"), (12345.0, "12,345"), (3.14e-6, "3.1×10⁻⁶"), (-0.0, "0.000"), (None, "–")],
)
def test_decimals(number: float | None, written: str) -> None:
    assert decimal(number) == written


# --- the reward model ----------------------------------------------------------------------------------------------

REWARD = {
    "sft": {"mean": -0.1, "n": 16, "interval": [-0.25, 0.05]},
    "rl": {"mean": 0.3, "n": 16, "interval": [0.2, 0.4]},
    "gain": {"mean": 0.4, "n": 16, "interval": [0.1, 0.7]},
}
UNKNOWN = {"accuracy": None, "n": 0, "interval": [None, None]}


def test_the_learned_reward_has_a_table(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run", summary=SUMMARY | {"learned_reward": REWARD}))
    assert ["SFT", "−0.100", "16", "−0.250 to 0.050"] in page.rows
    assert ["RL", "0.300", "16", "0.200 to 0.400"] in page.rows
    assert ["Gain by RL", "+0.400", "16", "+0.100 to +0.700"] in page.rows
    assert "Learned reward of test replies" not in read(make_run(tmp_path / "older")).text


def test_the_accuracy_of_the_reward_model_is_told_apart_in_the_order_of_the_run(tmp_path: Path) -> None:
    part = {"accuracy": 0.75, "n": 4, "interval": [0.5, 1.0]}
    by = {"confidence": {"9": part, "10": part | {"n": 8}}, "domain": {SCRIPT: UNKNOWN}}
    page = read(make_run(tmp_path / "run", summary=SUMMARY | {"reward_model": SUMMARY["reward_model"] | {"by": by}}))
    cells = [[cell.replace("\xa0", " ") for cell in cells] for cells in page.rows]
    nine = cells.index(["9", "75.0 %", "4", "50.0 % to 100.0 %"])
    assert cells[nine + 1] == ["10", "75.0 %", "8", "50.0 % to 100.0 %"]
    assert [SCRIPT, "–", "0", "–"] in cells
    assert len(page.all("script")) == 0


def test_of_many_parts_the_largest_are_shown(tmp_path: Path) -> None:
    by = {"domain": {f"d{i}": {"accuracy": 0.5, "n": i} for i in range(30)}}
    page = read(make_run(tmp_path / "run", summary=SUMMARY | {"reward_model": {"by": by}}))
    shown = [cells[0] for cells in page.rows if re.fullmatch(r"d\d+", cells[0] if cells else "")]
    assert shown == [f"d{i}" for i in range(10, 30)]


@pytest.mark.parametrize("broken", [7, {"sft": 7}, {"sft": {"mean": "x"}}, [REWARD]])
def test_rewards_that_are_none_break_no_page(tmp_path: Path, broken: Any) -> None:
    summary = SUMMARY | {"learned_reward": broken, "reward_model": {"by": {"domain": broken}}}
    assert "Accuracy on 1,500 test questions" in read(make_run(tmp_path / "run", summary=summary)).text


def test_where_no_reply_is_scored_the_headline_is_the_learned_reward(tmp_path: Path) -> None:
    unscored = dict.fromkeys(("sft", "rl", "reward_model", "gain"), UNKNOWN)
    summary = SUMMARY | unscored | {"learned_reward": REWARD}
    page = read(make_run(tmp_path / "run", summary=summary, samples=[sample("1", None, None), {"id": "2"}]))
    assert "The mean learned reward of the test replies was −0.100 after SFT and is 0.300 after RL: +0.400" in page.text
    assert "(95 % interval +0.100 to +0.700)." in page.text
    assert "chance" not in page.text
    assert row(page, "Reward model").split(" | ")[1:5] == ["–", "0", "–", ""]
    assert "2 not scored" in page.text
    assert "both wrong" not in page.text
    doubtful = REWARD | {"gain": {"mean": 0.4, "interval": [-0.1, 0.9]}}
    text = read(make_run(tmp_path / "doubtful", summary=summary | {"learned_reward": doubtful})).text
    assert "may be chance" in text


def test_roles_of_another_run_are_told_as_its_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["start_from"] = {"run": "/runs/tldr", "task": "text/tldr@1", "roles": ["sft"]}
    (folder / "config.json").write_text(json.dumps(config))
    page = read(folder)
    assert "trained by a run on text/tldr@1" in row(page, "SFT")
    assert "trained by" not in row(page, "Reward model")
    assert ["started from", "/runs/tldr"] in page.rows


# --- warnings ------------------------------------------------------------------------------------------------------


def panel(page: Page) -> list[dict[str, str | None]]:
    return [attributes for _, attributes in page.elements if attributes.get("role") == "alert"]


def test_warnings_of_the_training_are_told_and_nothing_more(tmp_path: Path) -> None:
    told = ["RL step 40: entropy fell from 1.204 to 0.051", f"{SCRIPT}{HANDLER} $x_1$", 7, "x" * 1000]
    page = read(make_run(tmp_path / "run", told={"warnings": told}))
    assert len(panel(page)) == 1
    assert "Warnings RL step 40: entropy fell from 1.204 to 0.051" in page.text
    assert f"{SCRIPT}{HANDLER} $x_1$" in page.text
    assert "(400 more characters)" in page.text
    assert page.text.index("entropy fell") < page.text.index("Total time")
    assert not page.all("script")
    assert not page.all("img")


@pytest.mark.parametrize("found", [None, [], {}, 7, "entropy fell", [7, None, ["x"]]])
def test_without_warnings_there_is_no_panel(tmp_path: Path, found: Any) -> None:
    page = read(make_run(tmp_path / "run", told={"warnings": found}))
    assert not panel(page)
    assert "Warning" not in page.text
    assert "warning" not in (tmp_path / "run/report.md").read_text()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_warnings_can_be_read_in_light_and_dark(tmp_path: Path, browser: Browser, width: int, dark: bool) -> None:
    told = [f"{SCRIPT}{HANDLER}", "x" * 500]
    folder = make_run(tmp_path / "run", told={"warnings": told})
    path, _ = write_report(folder)
    with shown(browser, path, width=width, dark=dark) as tab:
        warnings = tab.get_by_role("alert")
        assert warnings.locator("li").all_inner_texts() == told
        assert warnings.locator("script, img").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        style = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
        light, night = ["rgb(107, 71, 0)", "rgb(253, 240, 205)"], ["rgb(255, 225, 160)", "rgb(69, 53, 16)"]
        assert warnings.evaluate(style) == (night if dark else light)


@pytest.mark.browser
def test_curves_have_the_colour_of_their_stage(tmp_path: Path, browser: Browser) -> None:
    path, _ = write_report(make_run(tmp_path / "run"))
    with shown(browser, path) as tab:
        strokes = tab.locator("figure .line").evaluate_all("found => found.map(e => getComputedStyle(e).stroke)")
        assert set(strokes) == {"rgb(43, 98, 196)", "rgb(11, 117, 102)"}  # --sft and --rl


# --- Markdown ------------------------------------------------------------------------------------------------------


def test_the_markdown_has_the_headline_the_warnings_and_the_stages(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", told={"warnings": [f"# {SCRIPT} | x\nfell"]}, task="<b>@1")
    _, path = write_report(folder)
    tables = path.read_text().replace("\xa0", " ")
    assert tables.startswith("# Tuning: \\<b\\>@1\n\nAccuracy on 1,500 test questions was 51.2 % after SFT")
    assert "| # \\<script\\>alert(1)\\</script\\> \\| x fell |" in tables
    assert "| RL | 63.4 % | 1,500 | 60.9 % to 65.7 % | 40 of 60 | 9 min 0 s | test questions answered right |" in tables
    assert "| Total time | 12 min 34 s |" in tables


def test_a_run_that_is_started_anew_leaves_no_report_behind(tmp_path: Path) -> None:
    calibration = {"bins": [{"low": 0.5, "high": 0.6, "n": 1, "predicted": 0.5, "observed": 1}]}
    folder = make_run(tmp_path / "run", summary=SUMMARY | {"reward_model": {"calibration": calibration}})
    written = write_report(folder, figures=True)
    assert len(written) == 5
    (folder / "figures/mine.png").write_bytes(b"mine")
    Run.create(folder, {}, overwrite=True).close("failed")
    assert not [path for path in written if path.exists()]
    assert (folder / "figures/mine.png").read_bytes() == b"mine"


# --- unfinished runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"), [("running", "still running"), ("interrupted", "interrupted"), ("failed", "failed")]
)
def test_an_unfinished_run_shows_what_is_there(tmp_path: Path, status: str, words: str) -> None:
    page = read(make_run(tmp_path / "run", status=status, summary=None))
    assert "This run is unfinished" in page.text
    assert words in page.text
    assert "in stage RL at step 40 of 60" in page.text
    assert "Validation accuracy was 50.0 % before RL and 60.0 % at RL step 40." in page.text.replace("\xa0", " ")
    assert row(page, "SFT").split(" | ")[1:] == ["–", "–", "–", "", "60", "1 min 0 s"]
    assert row(page, "RL").endswith("| 40 of 60 | 40 s")
    assert "No samples yet" in page.text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", status="running", summary=None)
    (folder / "metrics.jsonl").unlink()
    text = read(folder).text
    assert "before the first step" in text
    assert "No steps have been recorded yet." in text


@pytest.mark.parametrize(
    "torn", [b'{"stage": "rl", "step": 41, "rew', b'{"stage": "rl", "step": 41, "x": "\xc3', b"4", b"[" * 100_000]
)
def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path, torn: bytes) -> None:
    folder = make_run(tmp_path / "run", status="running", summary=None)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    text = read(folder).text
    assert "1 unreadable line of metrics.jsonl left out." in text
    assert "at step 40 of 60" in text


def test_whole_files_are_not_called_torn(tmp_path: Path) -> None:
    assert "unreadable" not in read(make_run(tmp_path / "run", samples=[sample("1", 0, 1)])).text


@pytest.mark.parametrize("config", [None, "{}", '{"model_type": "idefics3"}'])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="is no run folder"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_broken_config_is_an_error_a_user_can_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"task": ')
    with pytest.raises(UserError, match=r"config\.json does not hold a JSON object"):
        write_report(tmp_path)


# --- the file ------------------------------------------------------------------------------------------------------


def test_the_page_is_written_whole_and_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert write_report(folder) == [folder / "report.html", folder / "report.md"]
    assert not list(folder.glob("*.partial"))
    assert (folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize("broken", ["rendering", "writing"])
def test_the_old_page_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "report.html").write_text("the page before")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no more")

    if broken == "rendering":
        monkeypatch.setattr(page, "draw_curves", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RuntimeError):
        write_report(folder)
    assert (folder / "report.html").read_text() == "the page before"


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    samples = [sample(str(i), i % 2, i % 3 == 0) for i in range(100)]
    folder = make_run(tmp_path / "run", samples=samples)
    one = [path.read_bytes() for path in write_report(folder)]
    assert one == [path.read_bytes() for path in write_report(folder)]


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", samples=[sample("1", 0, 1, question="half \ud83d here")])
    assert "half ? here" in read(folder).text


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "report.html").mkdir()
    assert command(["report", str(folder)]) == 2
    assert f"{folder} cannot be written: Is a directory. The report of before is intact." in capsys.readouterr().err
