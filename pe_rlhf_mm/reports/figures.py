"""The plots of a report as PNG files, for slides and papers: by matplotlib, which is loaded when they are asked for."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.comparison import Difference
from pe_rlhf_mm.reports import plots
from pe_rlhf_mm.reports.calibration import find_calibration
from pe_rlhf_mm.reports.curves import recorded_series
from pe_rlhf_mm.reports.evaluation_log import LogRecord
from pe_rlhf_mm.reports.evaluation_tables import Scale, histograms, letters, pairs, results, scale_of, scale_of_pairs
from pe_rlhf_mm.reports.folder import RunRecord
from pe_rlhf_mm.reports.plots import Mark
from pe_rlhf_mm.reports.stages import stage_rows
from pe_rlhf_mm.reports.win_rates import win_rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0
"""Inches."""
STYLE = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddfe3",
    "legend.frameon": False,
}
Plot = Callable[["Figure"], None]


def evaluation_figures(logs: Sequence[LogRecord], differences: Sequence[Difference]) -> dict[str, bytes]:
    """PNG files of a log, or of two, by their paths. Raises UserError without matplotlib."""
    rows, paired, rates, values = results(logs), pairs(differences), win_rates(logs), histograms(logs)
    marks = [Mark(row.evaluator, row.bar, row.value, row.log) for row in rows if row.bar is not None]
    changes = [Mark(row.evaluator, row.bar, row.difference) for row in paired if row.bar is not None]
    counted = [rate for rate in rates if rate.parts]
    named = zip(letters(logs), logs, strict=True)
    names = {letter: f"{letter} {log.folder.resolve().name}" for letter, log in named if letter}
    drawn: dict[str, Plot] = {}
    if marks:
        drawn["results"] = partial(plots.intervals, marks=marks, scale=scale_of(rows), unit="mean", names=names)
    if changes:
        scale = scale_of_pairs(paired)
        drawn["differences"] = partial(plots.intervals, marks=changes, scale=scale, unit="B − A", names={})
    if counted:
        drawn["win-rates"] = partial(plots.win_rates, rows=counted, names=names)
    if values:
        drawn["values"] = partial(plots.values, found=values, names=names)
    return _png_files(drawn)


def run_figures(run: RunRecord) -> dict[str, bytes]:
    """PNG files of a run, by their paths. Raises UserError without matplotlib."""
    rows, series, calibration = stage_rows(run), recorded_series(run.metrics), find_calibration(run.summary)
    marks = [Mark(row.label, row.bar, row.value, row.stage) for row in rows if row.bar is not None]
    drawn: dict[str, Plot] = {}
    if series:
        drawn["curves"] = partial(plots.curves, series=series)
    if marks:
        unit = "accuracy on the test split, %"
        drawn["stages"] = partial(plots.intervals, marks=marks, scale=Scale(0, 100), unit=unit, names={})
    if calibration is not None:
        drawn["calibration"] = partial(plots.calibration, found=calibration)
    return _png_files(drawn)


def sweep_figures(tuned: Sequence[Mark], reward_model: Sequence[Mark]) -> dict[str, bytes]:
    """PNG files of a sweep, by their paths. Raises UserError without matplotlib."""
    drawn: dict[str, Plot] = {}
    for name, marks, unit in (
        ("tuned", tuned, "accuracy of the tuned policy on the test split, %"),
        ("reward_model", reward_model, "test pairs ranked right, %"),
    ):
        if marks:
            drawn[name] = partial(plots.intervals, marks=marks, scale=Scale(0, 100), unit=unit, names={})
    return _png_files(drawn)


def _png_files(drawn: Mapping[str, Plot]) -> dict[str, bytes]:
    try:
        import matplotlib.style
    except ImportError as error:
        raise UserError("figures are drawn by matplotlib; run `pip install 'pe-rlhf-mm[figures]'`") from error
    # From the defaults: a user's matplotlibrc must not call LaTeX, nor change a byte.
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font lacks are boxes
        return {f"figures/{name}.png": _png(plot) for name, plot in drawn.items()}


def _png(plot: Plot) -> bytes:
    from matplotlib.figure import Figure

    figure, encoded = Figure(figsize=(WIDTH, WIDTH), layout="constrained"), io.BytesIO()
    plot(figure)
    figure.savefig(encoded, format="png", metadata={"Software": None})
    return encoded.getvalue()
