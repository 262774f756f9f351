"""Where things stand on a screen: boxes, and layouts drawn at random."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import NamedTuple

from pe_rlhf_mm.envs.actions import Point, UIAction
from pe_rlhf_mm.errors import UserError

SIDE = 128
"""Pixels of a screen, across and down."""
UNIT = 8
"""Pixels of a square of the grid that layouts are made on."""
MARGIN = 1
"""Pixels at each side of a widget that stay free, so that neighbours do not grow together."""
TRIES, RESTARTS = 24, 1000
"""Places tried for one box, and layouts begun, before a set of boxes is taken for one that does not fit."""

Size = tuple[int, int]


class Box(NamedTuple):
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        return self.width, self.height

    @property
    def center(self) -> tuple[int, int]:
        return self.left + self.width // 2, self.top + self.height // 2

    def holds(self, x: int, y: int) -> bool:
        """Whether a pixel is inside."""
        return self.left <= x < self.left + self.width and self.top <= y < self.top + self.height

    def rows(self, count: int) -> list[Box]:
        """So many boxes below each other that fill it."""
        edges = [self.top + self.height * place // count for place in range(count + 1)]
        return [Box(self.left, top, self.width, bottom - top) for top, bottom in itertools.pairwise(edges)]

    def click(self) -> UIAction:
        """A click in the middle."""
        x, y = self.center
        return UIAction("click", fraction(x, y))


def fraction(x: int, y: int) -> Point:
    """The middle of a pixel as fractions of the screen."""
    return (x + 0.5) / SIDE, (y + 0.5) / SIDE


def pixel(point: Point) -> tuple[int, int]:
    """The pixel of a point that is on the screen; the right and the bottom edge belong to the last one."""
    x, y = (min(int(part * SIDE), SIDE - 1) for part in point)
    return x, y


def scatter(rng: random.Random, sizes: Sequence[Size]) -> tuple[Box, ...]:
    """Boxes of the given sizes, in units of the grid, anywhere on the screen; none overlaps another.

    Raises UserError for boxes that find no room.
    """
    cells = SIDE // UNIT
    for _ in range(RESTARTS):
        free = [(1 << cells) - 1] * cells  # a row of the grid each, a bit a square
        corners = [_settle(rng, free, size) for size in sizes]
        found = [corner for corner in corners if corner is not None]
        if len(found) == len(sizes):
            return tuple(box_of(*corner, *size) for corner, size in zip(found, sizes, strict=True))
    raise UserError(f"no room on a screen of {cells} x {cells} units for widgets of {list(sizes)}; make them smaller")


def box_of(left: int, top: int, width: int, height: int) -> Box:
    """The pixels of a rectangle of the grid, less the margin."""
    return Box(UNIT * left + MARGIN, UNIT * top + MARGIN, UNIT * width - 2 * MARGIN, UNIT * height - 2 * MARGIN)


def _settle(rng: random.Random, free: list[int], size: Size) -> tuple[int, int] | None:
    """Takes a free rectangle of the grid and returns its corner, or None if none was found."""
    width, height = size
    for _ in range(TRIES):
        left, top = rng.randint(0, len(free) - width), rng.randint(0, len(free) - height)
        squares, rows = ((1 << width) - 1) << left, range(top, top + height)
        if all(free[row] & squares == squares for row in rows):
            for row in rows:
                free[row] ^= squares
            return left, top
    return None
