"""canvas/menu: open a menu and choose an entry."""

from __future__ import annotations

from pe_rlhf_mm.envs.canvas.problem import Problem, Wish
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.envs.canvas.widgets import Menu
from pe_rlhf_mm.registry import register_task
from pe_rlhf_mm.tasks.canvas.canvas_task import CanvasTask
from pe_rlhf_mm.tasks.canvas.choices import BUTTON, Choices

MENU = (8, 3)
"""Units of the grid."""


@register_task("canvas/menu@1")
class OpenMenu(CanvasTask):
    """The wrong entry loses, and so does the button; the wrong menu can be closed again."""

    name = "menu"

    def build(self, choices: Choices) -> Problem:
        """Two menus of three entries, and a button that nobody asks for."""
        *places, last = choices.boxes([MENU] * 2 + [BUTTON])
        menus = [Menu(place, choices.words(1)[0], tuple(choices.words(3))) for place in places]
        wanted = choices.rng.choice(menus)
        entry = choices.rng.choice(wanted.entries)
        goal = f'Choose "{entry}" in the menu "{wanted.title}".'
        return Problem(goal, Screen([*menus, *choices.buttons([last])]), [Wish(wanted, entry)])
