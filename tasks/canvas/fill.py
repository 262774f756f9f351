"""canvas/fill: type a word into a text field, then press a button."""

from __future__ import annotations

from pe_rlhf_mm.envs.canvas.problem import Problem, Wish
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.envs.canvas.widgets import TextField
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.canvas.canvas_task import CanvasTask
from pe_rlhf_mm.tasks.canvas.choices import BUTTON, Choices

FIELD = (10, 3)
"""Units of the grid."""


@register_task("canvas/fill@1")
class Fill(CanvasTask):
    """Click, type, press; what is wrong can be erased until a button is pressed."""

    name = "fill"

    def build(self, choices: Choices) -> Problem:
        """One or two fields in coloured frames, and two buttons; a field that is not named stays empty."""
        count = choices.rng.randint(1, 2)
        boxes = choices.boxes([FIELD] * count + [BUTTON] * 2)
        fields = [TextField(box, choices.color()) for box in boxes[:count]]
        buttons = choices.buttons(boxes[count:])
        (word,), field, button = choices.words(1), fields[0], buttons[0]
        place = f" in the {field.color} field" if count > 1 else ""
        goal = f'Type "{word}"{place}, then press {choices.naming(button)}.'
        empty = [Wish(other, "") for other in fields[1:]]
        return Problem(goal, Screen([*fields, *buttons]), [*empty, Wish(field, word), Wish(button, True)])
