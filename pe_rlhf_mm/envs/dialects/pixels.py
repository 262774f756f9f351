"""Calls whose x and y are pixels of the screenshot: `click(120, 45)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pe_rlhf_mm.envs.actions import Kind, UIAction
from pe_rlhf_mm.envs.dialects import calls
from pe_rlhf_mm.envs.dialects.kinds import KINDS
from pe_rlhf_mm.envs.dialects.places import pixel_screen


@dataclass(frozen=True)
class Pixels:
    """Pixels of the original screenshot, from 0 to width - 1; a pixel means its centre.

    `kinds`: those that `describe` tells of; all are understood.
    """

    kinds: Sequence[Kind] = KINDS

    def describe(self) -> str:
        """The grammar, as a prompt tells it."""
        return calls.describe(self.kinds, "x and y are pixels of the screenshot, from its left and its top edge.")

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        """The action of a reply, for a screenshot of `size` (width, height) pixels. Raises ActionError."""
        return calls.parse(reply, pixel_screen(size))

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        """The call that means an action. Raises ActionError for one that cannot be said."""
        return calls.render(action, pixel_screen(size))


CODEC = Pixels()
