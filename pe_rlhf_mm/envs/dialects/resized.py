"""Calls whose x and y are pixels of the picture as the model sees it, after its processor: how Qwen2.5-VL points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pe_rlhf_mm.envs.actions import Kind, UIAction
from pe_rlhf_mm.envs.dialects import calls
from pe_rlhf_mm.envs.dialects.kinds import KINDS
from pe_rlhf_mm.envs.dialects.places import Screen, pixel_screen


@dataclass(frozen=True)
class Resized:
    """Pixels of the resized picture, whose sides are whole blocks; a pixel means its centre.

    `block`: pixels along a patch times patches merged along a side. `min_pixels`, `max_pixels`: the bounds of the
    resized picture's area, which must be those of the model's processor; the defaults are those of Qwen2.5-VL.
    `kinds`: those that `describe` tells of; all are understood.
    """

    block: int = 28
    min_pixels: int = 56 * 56
    max_pixels: int = 16384 * 28 * 28
    kinds: Sequence[Kind] = KINDS

    def describe(self) -> str:
        """The grammar, as a prompt tells it."""
        return calls.describe(self.kinds, "x and y are pixels of the picture, from its left and its top edge.")

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        """The action of a reply, for a screenshot of `size` (width, height) pixels before it is resized.

        Raises ActionError, and ImageError for a screenshot that the model does not take (see `data.views.native`).
        """
        return calls.parse(reply, self._screen(size))

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        """The call that means an action. Raises ActionError for one that cannot be said, and ImageError as `parse`."""
        return calls.render(action, self._screen(size))

    def _screen(self, size: tuple[int, int]) -> Screen:
        from pe_rlhf_mm.data.views import whole_blocks  # here, since it brings NumPy and Pillow

        rows, columns = whole_blocks(*size, self.block, self.min_pixels, self.max_pixels)
        return pixel_screen((columns * self.block, rows * self.block))


CODEC = Resized()
