"""Progress bars with rate and time left, one a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LABELS = {
    "demonstrations": "Oracle plays",
    "ratings": "Ratings",
    "sft": "SFT",
    "reward_model": "Reward model",
    "rl": "RL",
    "preferences": "Preferences",
    "evaluation": "Evaluation",
    "labels": "Labels",
}
SHOWN = ("loss", "accuracy", "validation_accuracy", "reward", "kl", "sft", "reward_model", "rl", "preferences")


class ProgressBar:
    """An observer that draws; plain lines instead of bars where the output is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._numbers: dict[str, dict[str, float]] = {}

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, stage: str, steps: int) -> None:
        self._tasks[stage] = self._progress.add_task(LABELS.get(stage, stage), total=steps, numbers="")
        self._totals[stage], self._numbers[stage] = steps, {}

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self._remember(stage, metrics)
        self._progress.update(self._tasks[stage], completed=step, numbers=self._text(stage))
        total = self._totals[stage]
        if not self.console.is_terminal and (step == total or step % max(total // 10, 1) == 0):
            line = f"{LABELS.get(stage, stage):<12} {step}/{total}  {self._text(stage)}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def note(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self._remember(stage, metrics)

    def say(self, text: str) -> None:
        """A line beside the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def counter(self, stage: str) -> Callable[[int, int], None]:
        """A function (done, total) that draws one stage."""

        def tick(done: int, total: int) -> None:
            if stage not in self._tasks:
                self.begin(stage, total)
            self.step(stage, done, {})

        return tick

    def _remember(self, stage: str, metrics: Mapping[str, float]) -> None:
        known = {name: metrics[name] for name in SHOWN if name in metrics and not math.isnan(metrics[name])}
        self._numbers[stage] |= known

    def _text(self, stage: str) -> str:
        return "  ".join(f"{name.replace('_', ' ')} {value:z.3f}" for name, value in self._numbers[stage].items())
