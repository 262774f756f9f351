"""`pe-rlhf sweep tune` and `pe-rlhf sweep report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pe_rlhf_mm.cli.arguments import parse
from pe_rlhf_mm.errors import UserError

FAILED = 1


@dataclass(frozen=True)
class Sweep:
    """Tunes once for every combination of settings and every seed, and makes one table of all runs.

    Any option of `pe-rlhf tune` may follow. Those whose value has commas in it are swept: --mode lora,full
    --rank 1,4,16 --model tiny-vlm,my-model. --rank stands for --lora.rank and --lora.reward-rank, and
    --full:sft.learning-rate is for the runs of mode full. What is finished in the folder is not run again, what was
    killed goes on, and more values may be added later.
    """

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """Id of a task, or path.py:Class, or package.module:Class."""
    seeds: int = 1
    """Runs of each combination, with the seeds 0, 1, .."""
    out: Path | None = None
    """Folder of all runs and of the table; sweeps/<task> if not given."""


def tune(arguments: Sequence[str]) -> int:
    """Runs what is missing; the exit code is 1 where runs failed. All settings are read before the first run."""
    try:
        options, others = tyro.cli(Sweep, args=list(arguments), prog="pe-rlhf sweep tune", return_unknown_args=True)
    except ValueError as error:
        raise UserError(str(error)) from error
    from pe_rlhf_mm import registry
    from pe_rlhf_mm.cli.tune import read_options as read_tune
    from pe_rlhf_mm.reports.sweep import write_sweep
    from pe_rlhf_mm.sweeping.grid import points, read_options
    from pe_rlhf_mm.sweeping.runs import sweep

    task = registry.tasks.resolve(options.task)
    runs = points(read_options(others), options.seeds)
    for run in runs:
        read_tune([task, *run.options])
    out = options.out or Path("sweeps") / task.partition("@")[0].rpartition(":")[2].replace("/", "-")
    failed = sweep(task, runs, out, lambda words: print(words, file=sys.stderr))
    print(*write_sweep(out), sep="\n")
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}", file=sys.stderr)
    return FAILED if failed else 0


@dataclass(frozen=True)
class Report:
    """Writes report.html and report.md of a sweep again, finished or not."""

    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder of the sweep."""
    figures: bool = False
    """Write figures/*.png into it too (extra figures)."""


def report(arguments: Sequence[str]) -> None:
    """Prints the paths of what it wrote."""
    options = parse(Report, arguments, prog="pe-rlhf sweep report")
    from pe_rlhf_mm.reports.sweep import write_sweep

    for path in write_sweep(options.sweep, figures=options.figures):
        print(path)
