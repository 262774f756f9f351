"""canvas/dialog: accept or close the dialog that covers the screen, then press a button."""

from __future__ import annotations

from pe_rlhf_mm.envs.canvas.problem import Problem, Wish
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.envs.canvas.widgets import Dialog
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.canvas.canvas_task import CanvasTask
from pe_rlhf_mm.tasks.canvas.choices import BUTTON, Choices

DIALOG = (14, 10)
"""Units of the grid."""
ANSWERS = {"OK": "Accept", "X": "Close"}
"""Of every dialog, and what goals call them."""


@register_task("canvas/dialog@1")
class AnswerDialog(CanvasTask):
    """The wrong answer loses."""

    name = "dialog"

    def build(self, choices: Choices) -> Problem:
        """Two or three buttons, most of them behind a question."""
        *places, front = choices.boxes([BUTTON] * choices.rng.randint(2, 3), [DIALOG])
        buttons = choices.buttons(places)
        answers = choices.rng.sample(list(ANSWERS), len(ANSWERS))
        dialog = Dialog(front, f"{choices.words(1)[0]}?", tuple(answers))
        wanted, answer = choices.rng.choice(buttons), choices.rng.choice(answers)
        goal = f"{ANSWERS[answer]} the dialog, then press {choices.naming(wanted)}."
        return Problem(goal, Screen([*buttons, dialog]), [Wish(dialog, answer), Wish(wanted, True)])
