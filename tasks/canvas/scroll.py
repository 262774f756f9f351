"""canvas/scroll: scroll a list until an entry shows, then click it."""

from __future__ import annotations

from pe_rlhf_mm.envs.canvas.problem import Problem, Wish
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.envs.canvas.widgets import ScrollList
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.canvas.canvas_task import CanvasTask
from pe_rlhf_mm.tasks.canvas.choices import BUTTON, Choices

LIST, IN_VIEW = (9, 9), 3
"""Units of the grid, and the entries that fit."""


@register_task("canvas/scroll@1")
class Scroll(CanvasTask):
    """Another entry loses, and so does the button."""

    name = "scroll"

    def build(self, choices: Choices) -> Problem:
        """Six to nine entries, of which three are in view, and a button that nobody asks for."""
        place, last = choices.boxes([LIST, BUTTON])
        entries = choices.words(choices.rng.randint(6, 9))
        wanted = choices.rng.choice(entries[IN_VIEW:])
        scrolled = ScrollList(place, tuple(entries))
        goal = f'Choose "{wanted}" in the list.'
        return Problem(goal, Screen([scrolled, *choices.buttons([last])]), [Wish(scrolled, wanted)])
