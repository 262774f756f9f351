"""What is drawn on a figure of matplotlib. No colour says what a place, a shape or a word does not say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pe_rlhf_mm.reports.calibration import Calibration
from pe_rlhf_mm.reports.curves import Series
from pe_rlhf_mm.reports.evaluation_tables import Histogram, Scale
from pe_rlhf_mm.reports.stages import Bar
from pe_rlhf_mm.reports.win_rates import WinRateRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, MARGIN = 0.45, 0.9
"""Inches: of a line, and of what stands around the lines."""
MOST_LINES = 24
LONGEST_LABEL = 40
BLUE, BROWN, GREEN, MUTED = "#2b62c4", "#a3550a", "#0b7566", "#59616e"
COLOURS = {
    **{"": BLUE, "A": BLUE, "B": GREEN},
    **{"sft": BLUE, "reward_model": BROWN, "rl": GREEN, "preferences": GREEN, "evaluation": MUTED},
}
MARKERS = {"B": "s"}
BESIDE = {"A": -0.18, "B": 0.18}
"""Where on a line the marks of two logs lie."""
FILLS = {"wins": BLUE, "ties": "#cfdcf3", "losses": "white"}
COLUMNS = 3
"""Of small multiples."""
LARGEST = 220.0
"""Square points: the area of a dot."""


class Mark(NamedTuple):
    """A value with its interval, and as it is written. `of`: the letter of its log, or its stage."""

    name: str
    bar: Bar
    written: str
    of: str = ""


def label(words: str, longest: int = LONGEST_LABEL) -> str:
    """One short line of letters."""
    line = " ".join(words.encode("utf-8", errors="replace").decode().split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def intervals(figure: Figure, marks: Sequence[Mark], scale: Scale, unit: str, names: Mapping[str, str]) -> None:
    """A line for every name of a mark; `names`: what two logs are called, by their letters."""
    lines = list(dict.fromkeys(mark.name for mark in marks))[:MOST_LINES]
    axes = _lines(figure, lines, unit)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(scale.low, scale.high)
    for mark in marks:
        if mark.name in lines:
            y, colour = lines.index(mark.name) + BESIDE.get(mark.of, 0.0), COLOURS[mark.of]
            axes.hlines(y, mark.bar.low, mark.bar.high, color=colour, linewidth=2)
            axes.plot(mark.bar.value, y, MARKERS.get(mark.of, "o"), color=colour, markersize=5, clip_on=False)
            _beside(axes, y, mark.written)
    for of, name in names.items():
        axes.plot([], [], MARKERS.get(of, "o"), color=COLOURS[of], label=label(name))
    if names:
        figure.legend(loc="outside upper right", ncols=len(names))


def win_rates(figure: Figure, rows: Sequence[WinRateRow], names: Mapping[str, str]) -> None:
    """A bar of wins, ties and losses for every row, and its rate with the interval."""
    rows = rows[:MOST_LINES]
    axes = _lines(figure, [row.evaluator for row in rows], "% of those scored", high=0.62)
    axes.set_xlim(0, 100)
    for y, row in enumerate(rows):
        for part in row.parts:
            axes.barh(y, part.width, 0.4, part.start, color=FILLS[part.name], edgecolor=BLUE, linewidth=0.8)
        told = f"{label(names[row.log])}:  {row.counts}" if names else row.counts
        axes.text(0, y - 0.26, label(told, 2 * LONGEST_LABEL), va="bottom", fontsize="small")
        _beside(axes, y, f"{label(row.rate)}\n({label(row.interval)})")
    axes.set_ylim(len(rows) - 0.5, -0.7)


def values(figure: Figure, found: Sequence[Histogram], names: Mapping[str, str]) -> None:
    """How often every evaluator gave each value: a field for each of them."""
    found = found[:MOST_LINES]
    lengths = [len(one.bins) * max(len(names), 1) for one in found]
    figure.set_figheight(sum(0.25 * n + MARGIN for n in lengths))
    fields = figure.subplots(len(found), 1, squeeze=False, height_ratios=[n + 2 for n in lengths])
    for axes, one in zip(fields[:, 0], found, strict=True):
        thick = 0.8 / max(len(names), 1)
        for i, of in enumerate(names or [""]):
            counts = [bin.counts[i] for bin in one.bins]
            places = [y + thick * i for y in range(len(counts))]
            bars = axes.barh(places, counts, 0.9 * thick, color=COLOURS[of], label=label(names.get(of, "")))
            axes.bar_label(bars, [f"{of} {n:,}".strip() for n in counts], padding=3, fontsize="small")
        axes.set_yticks([y + (0.8 - thick) / 2 for y in range(len(one.bins))], [label(bin.label) for bin in one.bins])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.1)
        axes.set_title(label(one.evaluator))
    fields[-1, 0].set_xlabel("samples")
    if names:
        figure.legend(*fields[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=len(names))


def curves(figure: Figure, series: Sequence[Series]) -> None:
    """Small multiples: pale the steps as recorded, strong their moving average, dashed the value before RL."""
    lines = math.ceil(len(series) / COLUMNS)
    figure.set_size_inches(3.2 * min(len(series), COLUMNS), 2.3 * lines)
    fields = list(figure.subplots(lines, min(len(series), COLUMNS), squeeze=False).flat)
    for axes, one in zip(fields, series, strict=False):
        colour = COLOURS[one.metric.stage]
        if one.smoothed:
            axes.plot(*zip(*one.points, strict=True), color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(*zip(*one.trend, strict=True), color=colour, linewidth=1.6)
        axes.plot(*zip(*one.dots, strict=True), "o", color=colour, markersize=3)
        if one.before is not None:
            axes.axhline(one.before, color=MUTED, linestyle="--", linewidth=0.8)
        axes.set_title(label(f"{one.metric.title}: {one.last}", 50))
        axes.set_ylabel(one.unit)
        axes.set_xlabel("step")
    for axes in fields[len(series) :]:
        axes.remove()


def calibration(figure: Figure, found: Calibration) -> None:
    """A reliability diagram, whose dots are as large as their bins."""
    figure.set_size_inches(4, 4)
    axes = figure.subplots()
    axes.plot([100 * found.low, 100], [100 * found.low, 100], "--", color=MUTED, linewidth=1)
    axes.scatter(
        [100 * bin.predicted for bin in found.bins],
        [100 * bin.observed for bin in found.bins],
        [LARGEST * size**2 for size in found.sizes()],
        color=BROWN,
        clip_on=False,
    )
    axes.set(xlim=(100 * found.low, 100), ylim=(100 * found.lowest, 100))
    axes.set(xlabel="% predicted", ylabel="% of labels met", title=found.caption)


def _lines(figure: Figure, names: Sequence[str], unit: str, high: float = LINE) -> Axes:
    """Axes with a line for each name, the first one on top."""
    figure.set_figheight(high * len(names) + MARGIN)
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(unit)
    return axes


def _beside(axes: Axes, y: float, words: str) -> None:
    """Words to the right of a line."""
    axes.annotate(words, (1, y), (8, 0), ("axes fraction", "data"), "offset points", va="center", fontsize="small")
