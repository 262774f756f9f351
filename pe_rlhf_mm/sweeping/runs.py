"""Running what a sweep lacks: every run in a process of its own, so that its peak of memory is its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json, write_json
from pe_rlhf_mm.locks import locked
from pe_rlhf_mm.reports.sweep import LEDGER
from pe_rlhf_mm.sweeping.grid import Point
from pe_rlhf_mm.training.run import is_finished


def sweep(task: str, points: Sequence[Point], out: Path, say: Callable[[str], None]) -> list[str]:
    """Runs those of the points that are not finished, one after another, and returns the names of those that failed.

    A run that was killed goes on where it was. The folder may hold runs of an earlier sweep of the task; they stay.
    Raises UserError where one of them has the name of another run, and while another process sweeps there.
    """
    out.mkdir(parents=True, exist_ok=True)
    busy = f"another process is sweeping in {out}. Wait until it has ended, or give another --out."
    with locked(out / ".lock", busy):
        _enter(task, points, out)
        failed = []
        for number, point in enumerate(points, 1):
            where = f"{number} of {len(points)}: {point.name}"
            if is_finished(out / point.name):
                say(f"{where} is finished")
                continue
            say(where)
            if _run(task, point, out):
                failed.append(point.name)
        return failed


def _enter(task: str, points: Sequence[Point], out: Path) -> None:
    """Writes down what is to be run."""
    path = out / LEDGER
    there: dict[str, Any] = read_json(path) if path.exists() else {"task": task, "runs": {}}
    if there["task"] != task:
        raise UserError(f"{out} holds a sweep of {there['task']}, not of {task}. Give another --out.")
    for point in points:
        known = there["runs"].setdefault(point.name, {"axes": point.axes, "given": point.given})
        if known["given"] != point.given:
            before = " ".join(point._replace(given=known["given"]).options)
            raise UserError(
                f"{out / point.name} was run with {before}, and is to be run with {' '.join(point.options)}. Give "
                "another --out."
            )
    write_json(path, there)


def _run(task: str, point: Point, out: Path) -> int:
    """The exit code of one run. It says what it has to say itself; Ctrl-C reaches it too."""
    command = [sys.executable, "-m", "pe_rlhf_mm", "tune", task, *point.options, "--out", str(out / point.name)]
    with subprocess.Popen([*command, "--resume"], stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # it saves what it has; `with` waits for it
            raise
