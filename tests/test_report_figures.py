"""Figures as PNG files: what is drawn lies where the numbers are, and the same numbers give the same bytes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from report_pages import HANDLER, SUMMARY, Page, make_log, make_run

from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.reports import plots
from pe_rlhf_mm.reports.calibration import find_calibration
from pe_rlhf_mm.reports.curves import recorded_series
from pe_rlhf_mm.reports.evaluation_page import write_evaluation_report
from pe_rlhf_mm.reports.evaluation_tables import Histogram, Scale
from pe_rlhf_mm.reports.histogram import Bin
from pe_rlhf_mm.reports.page import write_report
from pe_rlhf_mm.reports.plots import Mark
from pe_rlhf_mm.reports.stages import Bar
from pe_rlhf_mm.reports.win_rates import Part, WinRateRow

BINS = [
    {"low": 0.5, "high": 0.6, "n": 100, "predicted": 0.55, "observed": 0.5},
    {"low": 0.9, "high": 1.0, "n": 400, "predicted": 0.95, "observed": 0.9},
]
CALIBRATED = SUMMARY | {"reward_model": SUMMARY["reward_model"] | {"calibration": {"error": 0.05, "bins": BINS}}}
RATE = {"rate": 0.75, "interval": [0.5, 1.0], "wins": 2, "ties": 2, "losses": 0, "unscored": 0, "flipped": 0.5}
INVALID = "$\\frac{1}{$ \\input{x} %&_^"
"""Neither mathtext nor LaTeX can set it."""


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def words(figure: Figure) -> set[str]:
    """All that is written on a figure."""
    figure.savefig(io.BytesIO())  # ticks are written when they are drawn
    found = [text for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels(), axes.title)]
    return {text.get_text() for text in found}


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_run_has_its_figures_where_they_are_asked_for(tmp_path: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", summary=CALIBRATED)
    assert run(["report", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / name) for name in ("report.html", "report.md")]
    assert not (folder / "figures").exists()
    assert run(["report", str(folder), "--figures"]) == 0
    figures = [folder / f"figures/{name}.png" for name in ("curves", "stages", "calibration")]
    assert capsys.readouterr().out.split()[2:] == list(map(str, figures))
    for path in figures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert pixels(path).std() > 10  # not an empty sheet


def test_a_log_has_figures_and_two_have_their_differences_too(tmp_path: Path, capsys: Any) -> None:
    logs = [make_log(tmp_path / name, {"mine": [0.0, 1.0, 1.0]}, win_rates={"mine": RATE}) for name in "ab"]
    assert run(["eval", "report", str(logs[0]), "--figures"]) == 0
    assert capsys.readouterr().out.split() == [
        *(str(logs[0] / name) for name in ("report.html", "report.md")),
        *(str(logs[0] / f"figures/{name}.png") for name in ("results", "win-rates", "values")),
    ]
    assert run(["eval", "report", *map(str, logs), "--figures", "--out", str(tmp_path / "two/side.html")]) == 0
    there = sorted(path.stem for path in (tmp_path / "two/figures").iterdir())
    assert there == ["differences", "results", "values", "win-rates"]
    assert not (logs[1] / "figures").exists()


def test_what_has_no_numbers_yet_has_no_figures(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", summary=None, status="running")
    (folder / "metrics.jsonl").unlink()
    assert len(write_report(folder, figures=True)) == 2
    log = make_log(tmp_path / "log", {"mine": [None]})
    assert len(write_evaluation_report(log, figures=True)) == 2


def test_the_same_numbers_give_the_same_bytes_whatever_matplotlib_is_set_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run", summary=CALIBRATED)
    one = [path.read_bytes() for path in write_report(folder, figures=True)]
    for name, value in {"font.size": 30.0, "text.usetex": True, "savefig.dpi": 17.0, "axes.facecolor": "red"}.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    before = dict(matplotlib.rcParams)
    assert [path.read_bytes() for path in write_report(folder, figures=True)] == one
    assert dict(matplotlib.rcParams) == before
    assert b"matplotlib" not in b"".join(one[2:]).lower()


def test_matplotlib_is_loaded_for_figures_only_and_pyplot_never(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    code = f"""
import sys
from pathlib import Path
from pe_rlhf_mm.reports.page import write_report
write_report(Path({str(folder)!r}))
assert "matplotlib" not in sys.modules
write_report(Path({str(folder)!r}), figures=True)
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["run", "log"])
def test_without_matplotlib_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = make_run(tmp_path / kind) if kind == "run" else make_log(tmp_path / kind, {"mine": [1.0, 0.0]})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    verb = ["report"] if kind == "run" else ["eval", "report"]
    assert run([*verb, str(folder), "--figures"]) == 2
    assert "pip install 'pe-rlhf-mm[figures]'" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert run([*verb, str(folder)]) == 0


@pytest.mark.parametrize("name", [INVALID, "\ud83d\x00\n", "\u4e2d\u6587", "x" * 10_000, HANDLER, "_hidden", ""])
def test_any_name_can_be_drawn(tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder) -> None:
    logs = []
    for letter in "ab":
        logs.append(make_log(tmp_path / f"{letter} {INVALID[:8]}", {name: [0.0, 1.0]}, win_rates={name: RATE}))
    written = write_evaluation_report(*logs, figures=True)
    assert len(written) == 6
    assert [path for path in written[2:] if pixels(path).shape[1] != 1400] == []
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("odd", [1e308, -1e308, 1e-320, 10**400, None, "x", [1]])
def test_numbers_that_cannot_be_drawn_break_no_figure(
    tmp_path: Path, odd: Any, recwarn: pytest.WarningsRecorder
) -> None:
    metrics = [{"evaluator": "mine", "value": odd, "interval": [odd, 1.0]}, {"evaluator": "b", "value": 0.5}]
    rates = {"mine": dict.fromkeys(RATE, odd), "b": RATE | {"rate": odd, "interval": [odd, odd]}}
    log = make_log(tmp_path / "log", {"mine": [1.0]}, win_rates=rates)
    (log / "results.json").write_text(json.dumps({"metrics": metrics, "win_rates": rates}))
    assert "values.png" in [path.name for path in write_evaluation_report(log, figures=True)]
    folder = make_run(
        tmp_path / "run",
        summary=SUMMARY | {"sft": {"accuracy": odd, "interval": [odd, odd]}, "evaluation": SUMMARY["rl"]},
    )
    steps = [{"stage": "rl", "step": step, "success": odd, "entropy": 1.0, "kl": odd} for step in (1, 2, odd)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    assert "curves.png" in [path.name for path in write_report(folder, figures=True)]
    drawn = [
        str(a.get("d"))
        for name in ("run", "log")
        for a in Page((tmp_path / name / "report.html").read_text()).all("path")
    ]
    assert not [path for path in drawn if "nan" in path or "inf" in path]
    assert [str(warning.message) for warning in recwarn] == []


def test_of_many_evaluators_the_first_are_drawn(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log", {f"mine-{i}": [0.0, 1.0] for i in range(200)})
    for path in write_evaluation_report(log, figures=True)[2:]:
        assert pixels(path).shape[0] < 8000


# --- drawings ------------------------------------------------------------------------------------------------------


def test_values_and_intervals_lie_where_they_are() -> None:
    marks = [
        Mark("one", Bar(0.25, 0.5, 0.75), "0.500", "A"),
        Mark("one", Bar(0.5, 0.625, 0.75), "0.625", "B"),
        Mark("two", Bar(0.0, 0.125, 0.25), "0.125", "B"),
    ]
    figure = Figure()
    plots.intervals(figure, marks, Scale(0, 1), "mean", {"A": "A before", "B": "B after"})
    (axes,) = figure.axes
    spans = [lines.get_segments()[0].tolist() for lines in axes.collections]
    assert spans == [[[0.25, -0.18], [0.75, -0.18]], [[0.5, 0.18], [0.75, 0.18]], [[0.0, 1.18], [0.25, 1.18]]]
    marked = [(*line.get_xydata()[0].tolist(), line.get_marker()) for line in axes.lines if len(line.get_xdata()) == 1]
    assert marked == [(0.5, -0.18, "o"), (0.625, 0.18, "s"), (0.125, 1.18, "s")]
    assert axes.get_xlim() == (0, 1)
    assert {"one", "two", "0.500", "0.625", "0.125"} <= words(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A before", "B after"]


def test_wins_ties_and_losses_fill_a_bar() -> None:
    parts = [Part("wins", "6", 0, 60), Part("ties", "1", 60, 10), Part("losses", "3", 70, 30)]
    row = WinRateRow("", "judge", "0.650", "0.500 to 0.800", "–", "–", "–", "0", parts)
    figure = Figure()
    plots.win_rates(figure, [row], {})
    (axes,) = figure.axes
    bars = [(bar.get_x(), bar.get_width(), bar.get_facecolor()) for bar in axes.patches]
    assert [bar[:2] for bar in bars] == [(0, 60), (60, 10), (70, 30)]
    assert len({bar[2] for bar in bars}) == 3
    assert {"wins 6, ties 1, losses 3", "judge", "0.650\n(0.500 to 0.800)"} <= words(figure)


def test_values_are_bars_with_their_counts() -> None:
    figure = Figure()
    plots.values(figure, [Histogram("mine", [Bin("0.000", [3, 1]), Bin("1.000", [0, 2])])], {"A": "A", "B": "B"})
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [3, 0, 1, 2]  # those of A, then those of B
    tops = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert tops == pytest.approx([0, 1, 0.4, 1.4])
    assert {"A 3", "A 0", "B 1", "B 2", "0.000", "1.000", "mine"} <= words(figure)


def test_curves_are_those_of_the_page() -> None:
    lines = [{"stage": "rl", "step": step, "kl": step % 2} for step in range(1, 101)]
    lines += [{"stage": "rl", "step": step, "validation_accuracy": 0.5 + step / 1000} for step in (0, 100)]
    series = recorded_series(lines)
    figure = Figure()
    plots.curves(figure, series)
    checks, noisy = figure.axes
    assert checks.title.get_text().replace("\xa0", " ") == "RL: validation accuracy: 60.0 %"
    assert checks.lines[0].get_xydata().tolist() == [[0, 50], [100, 60]]
    assert list(checks.lines[2].get_ydata()) == [50, 50]  # before RL
    raw, trend = (line.get_xydata() for line in noisy.lines[:2])
    assert raw.tolist() == [[step, step % 2] for step in range(1, 101)]
    assert trend[50].tolist() == [51, 0.6]  # the mean of 1 0 1 0 1, of steps 49 to 53


def test_the_sheet_of_curves_has_no_empty_field() -> None:
    lines = [{"stage": "rl", "step": 1, name: 0.5} for name in ("reward", "kl", "length", "entropy")]
    figure = Figure()
    plots.curves(figure, recorded_series(lines))
    assert len(figure.axes) == 4


def test_the_dots_of_a_calibration_are_as_large_as_their_bins() -> None:
    found = find_calibration(CALIBRATED)
    assert found is not None
    figure = Figure()
    plots.calibration(figure, found)
    (axes,) = figure.axes
    (dots,) = axes.collections
    assert np.asarray(dots.get_offsets()).tolist() == [[pytest.approx(55), 50], [95, 90]]
    small, large = dots.get_sizes()
    assert large / small == pytest.approx(4)
    assert axes.lines[0].get_xydata().tolist() == [[50, 50], [100, 100]]
    assert axes.lines[0].get_linestyle() == "--"
    assert axes.title.get_text() == "500 labels, on average 5.0 points off"
