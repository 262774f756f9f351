"""canvas/tick: tick the named check boxes, then press OK."""

from __future__ import annotations

from pe_rlhf_mm.envs.canvas.problem import Problem, Wish
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.envs.canvas.widgets import Button, CheckBox
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.canvas.canvas_task import CanvasTask
from pe_rlhf_mm.tasks.canvas.choices import Choices

CHECK_BOX, OK = (8, 3), (5, 3)
"""Units of the grid."""


@register_task("canvas/tick@1")
class Tick(CanvasTask):
    """OK wins if what is named is ticked, and nothing else."""

    name = "tick"

    def build(self, choices: Choices) -> Problem:
        """Three or four check boxes, of which one or two are named."""
        labels = choices.words(choices.rng.randint(3, 4))
        *places, last = choices.boxes([CHECK_BOX] * len(labels) + [OK])
        boxes = [CheckBox(place, label) for place, label in zip(places, labels, strict=True)]
        named = choices.rng.sample(labels, choices.rng.randint(1, 2))
        ok = Button(last, "OK")
        goal = "Tick " + " and ".join(f'"{label}"' for label in named) + ", then press OK."
        ticks = [Wish(box, box.label in named) for box in boxes]
        return Problem(goal, Screen([*boxes, ok]), [*ticks, Wish(ok, True)])
