"""canvas/mix: the problems of all other tasks on drawn screens, in turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from pe_rlhf_mm.envs.actions import Dialect
from pe_rlhf_mm.envs.canvas.problem import Problem
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.canvas.canvas_task import CanvasTask
from pe_rlhf_mm.tasks.canvas.dialog import AnswerDialog
from pe_rlhf_mm.tasks.canvas.fill import Fill
from pe_rlhf_mm.tasks.canvas.menu import OpenMenu
from pe_rlhf_mm.tasks.canvas.press import Press
from pe_rlhf_mm.tasks.canvas.scroll import Scroll
from pe_rlhf_mm.tasks.canvas.tick import Tick
from pe_rlhf_mm.types import Sample

PARTS: tuple[type[CanvasTask], ...] = (Press, Fill, Tick, OpenMenu, AnswerDialog, Scroll)


@register_task("canvas/mix@1")
class Mix(CanvasTask):
    """As many problems as any of its parts has; their samples are the same ones here and there."""

    name = "mix"

    def __init__(self, dialect: Dialect = "percent", max_steps: int = 8):
        super().__init__(dialect, max_steps)
        self._parts = {part.name: part(dialect, max_steps) for part in PARTS}

    def problem(self, sample: Sample) -> Problem:
        """That of the part which the sample is of."""
        return self._parts[sample.metadata["problem"]].problem(sample)

    def samples(self, split: str, *, seed: int = 0) -> Iterator[Sample]:
        """One of each part in turn."""
        count = sum(1 for _ in super().samples(split))
        turns = zip(*(part.samples(split) for part in self._parts.values()), strict=True)
        return itertools.islice(itertools.chain.from_iterable(turns), count)
