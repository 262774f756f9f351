"""Calls whose x and y go from 0 to 1000 across the screenshot: `click(500, 250)`, as Qwen2-VL and Qwen3-VL point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pe_rlhf_mm.envs.actions import Kind, UIAction
from pe_rlhf_mm.envs.dialects import calls
from pe_rlhf_mm.envs.dialects.kinds import KINDS
from pe_rlhf_mm.envs.dialects.places import unit_screen

SCREEN = unit_screen(1000)


@dataclass(frozen=True)
class Norm1000:
    """Thousandths of the screenshot's width and height, both ends included.

    Trap: two neighbouring pixels of a screenshot more than 1000 pixels wide may have one name. `kinds`: those that
    `describe` tells of; all are understood.
    """

    kinds: Sequence[Kind] = KINDS

    def describe(self) -> str:
        """The grammar, as a prompt tells it."""
        coordinates = "x and y go from 0 at the left and top edge to 1000 at the right and bottom edge."
        return calls.describe(self.kinds, coordinates)

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        """The action of a reply; the size of the screenshot does not matter. Raises ActionError."""
        return calls.parse(reply, SCREEN)

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        """The call that means an action. Raises ActionError for one that cannot be said."""
        return calls.render(action, SCREEN)


CODEC = Norm1000()
