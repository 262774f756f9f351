"""What a sweep came to, in a table: a line for each combination of settings, over its seeds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.intervals import SHARE, Interval, mean_of_repeats
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.reports import markdown
from pe_rlhf_mm.reports.figures import sweep_figures
from pe_rlhf_mm.reports.folder import RunRecord, read_run
from pe_rlhf_mm.reports.methods import method_of
from pe_rlhf_mm.reports.plots import Mark
from pe_rlhf_mm.reports.records import at, number
from pe_rlhf_mm.reports.rendering import INTACT, render, write_all
from pe_rlhf_mm.reports.stages import Bar
from pe_rlhf_mm.reports.wording import DASH, count, decimal, percent, points

LEDGER = "sweep.json"
"""What the runs of a sweep's folder are: the task, and of every run the options it was given, and which were swept."""
SEED = "seed"
PLAIN = ("model", "mode")
"""Axes whose values say of what they are; `true` or 16 would not."""
ACCURACIES = ("SFT", "reward model", "tuned", "gain")
COSTS = ("trained", "memory, GiB", "seconds a reward step", "seconds a tuning step")
NOTE = (
    "Accuracies are means over seeds, with 95 % intervals of Student's t: how runs differ by their seeds. Where test "
    "questions are left out, each seed draws its own. A gain is that of the tuned policy over its own SFT policy, in "
    "points. Costs are medians over seeds: of the largest resident set of the process, and of the time from step to "
    "step."
)


class Measured(NamedTuple):
    """One thing over the seeds, as it is written; `bar`: where it lies, of a share whose interval is known."""

    value: str
    interval: str = ""
    bar: Bar | None = None

    @property
    def text(self) -> str:
        return f"{self.value} ({self.interval})" if self.interval else self.value


class Line(NamedTuple):
    """One combination of settings, with the number of its runs, and of those that are finished."""

    values: list[str]
    runs: int
    finished: int
    accuracies: list[Measured]
    costs: list[str]

    @property
    def seeds(self) -> str:
        return str(self.runs) if self.finished == self.runs else f"{self.finished} of {self.runs}"

    def name(self, axes: Sequence[str]) -> str:
        """Its values in few words, for a figure."""
        told = [pair for pair in zip(axes, self.values, strict=True) if pair[1] != DASH]
        return ", ".join(value if axis in PLAIN else f"{axis} {value}" for axis, value in told)


class Sweep(NamedTuple):
    """A folder of runs: their task, what their settings differ in, and a line for each combination."""

    task: str
    axes: list[str]
    lines: list[Line]

    @property
    def headline(self) -> str:
        """How far it has come."""
        finished, runs = sum(line.finished for line in self.lines), sum(line.runs for line in self.lines)
        return f"{count(finished)} of {count(runs)} runs are finished."


def read_sweep(folder: Path) -> Sweep:
    """Reads all runs of a sweep, finished or not. Raises UserError for a folder that holds none."""
    if not (folder / LEDGER).is_file():
        raise UserError(f"{folder} holds no sweep (it has no {LEDGER}). Name a folder made by `pe-rlhf sweep tune`.")
    ledger = read_json(folder / LEDGER)
    swept = dict.fromkeys(axis for run in ledger["runs"].values() for axis in run["axes"])
    axes = [axis for axis in swept if axis != SEED]
    groups: dict[tuple[str, ...], list[Path]] = {}
    for name, run in ledger["runs"].items():
        values = tuple(" ".join(run["given"].get(axis, [DASH])) for axis in axes)
        groups.setdefault(values, []).append(folder / name)
    return Sweep(ledger["task"], axes, [_line(values, folders) for values, folders in groups.items()])


def _line(values: Sequence[str], folders: Sequence[Path]) -> Line:
    begun = [read_run(folder) for folder in folders if (folder / "config.json").is_file()]
    runs = [run for run in begun if run.finished]

    def over_seeds(*keys: str) -> list[float]:
        return _known(number(run.summary, *keys) for run in runs)

    tuned = _known(number(run.summary, method_of(run.config).stage, "accuracy") for run in runs)
    accuracies = [
        _share(over_seeds("sft", "accuracy")),
        _share(over_seeds("reward_model", "accuracy")),
        _share(tuned),
        _measured(*mean_of_repeats(over_seeds("gain", "accuracy")), points),
    ]
    costs = [
        percent(_middle(over_seeds("trainable_fraction"))),
        decimal(_middle(over_seeds("peak_rss_gib"))),
        decimal(_middle(_known(_seconds_a_step(run, "reward_model") for run in runs))),
        decimal(_middle(_known(_seconds_a_step(run, method_of(run.config).stage) for run in runs))),
    ]
    return Line([*values], len(folders), len(runs), accuracies, costs)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _share(values: Sequence[float]) -> Measured:
    mean, ends = mean_of_repeats(values, SHARE)
    bar = None if math.isnan(ends.low) else Bar(100 * ends.low, 100 * mean, 100 * ends.high)
    return _measured(mean, ends, percent, bar)


def _measured(mean: float, ends: Interval, form: Callable[[float], str], bar: Bar | None = None) -> Measured:
    if math.isnan(mean):
        return Measured(DASH)
    return Measured(form(mean), "" if math.isnan(ends.low) else f"{form(ends.low)} to {form(ends.high)}", bar)


def _seconds_a_step(run: RunRecord, stage: str) -> float | None:
    """The median time from one step of a stage to the next: what comes between some of them hardly counts."""
    lines = [line for line in run.metrics if at(line, "stage") == stage and number(line, "loss") is not None]
    seconds = _known(number(line, "seconds") for line in lines)
    return _middle([later - earlier for earlier, later in itertools.pairwise(seconds)])


# --- the page ---------------------------------------------------------------------------------------------------


def write_sweep(folder: Path, *, figures: bool = False) -> list[Path]:
    """Writes `report.html` and `report.md` of a sweep into its folder; with `figures`, `figures/*.png` too.

    Returns their paths. Raises UserError for a folder that holds no sweep or cannot be written, and for figures without
    matplotlib.
    """
    found = read_sweep(folder)
    values = {"sweep": found, "accuracies": ACCURACIES, "costs": COSTS, "note": NOTE, "screens": ""}
    page = render("sweep.html.jinja", values, styles=("page.css",))
    contents: dict[Path, str | bytes] = {folder / "report.html": page, folder / "report.md": sweep_table(found)}
    if figures:
        contents |= {folder / name: png for name, png in sweep_figures(_marks(found, 2), _marks(found, 1)).items()}
    return write_all(contents, folder, INTACT)


def sweep_table(found: Sweep) -> str:
    """The table in Markdown."""
    head = [*found.axes, "seeds", *ACCURACIES, *COSTS]
    rows = [[*x.values, x.seeds, *(measured.text for measured in x.accuracies), *x.costs] for x in found.lines]
    title = f"# Sweep: {markdown.plain(found.task)}"
    return "\n\n".join([title, found.headline, markdown.table(head, rows), NOTE]) + "\n"


def _marks(found: Sweep, which: int) -> list[Mark]:
    """One accuracy of every line that has an interval."""
    of = ("sft", "reward_model", "rl")[which]
    named = [(line.name(found.axes), line.accuracies[which]) for line in found.lines]
    return [Mark(name, measured.bar, measured.value, of) for name, measured in named if measured.bar is not None]
