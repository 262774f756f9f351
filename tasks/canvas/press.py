"""canvas/press: press the button of a colour or of a label."""

from __future__ import annotations

from pe_rlhf_mm.envs.canvas.problem import Problem, Wish
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.canvas.canvas_task import CanvasTask
from pe_rlhf_mm.tasks.canvas.choices import BUTTON, Choices


@register_task("canvas/press@1")
class Press(CanvasTask):
    """One press, which wins or loses."""

    name = "press"

    def build(self, choices: Choices) -> Problem:
        """Two to four buttons."""
        buttons = choices.buttons(choices.boxes([BUTTON] * choices.rng.randint(2, 4)))
        wanted = choices.rng.choice(buttons)
        return Problem(f"Press {choices.naming(wanted)}.", Screen(buttons), [Wish(wanted, True)])
