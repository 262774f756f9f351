"""Where a dialect's numbers lie on a screen, and back.

Every dialect has a grid of places. Reading a number gives its place on the grid, and writing a fraction the nearest
place, so that what was read once is written and read as itself for ever. What lies outside is an error, never moved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pe_rlhf_mm.envs.actions import ActionError, Point


class Ruler(Protocol):
    """The numbers along one edge of the screen."""

    @property
    def last(self) -> float:
        """The number of the last place."""
        ...

    @property
    def length(self) -> float:
        """The number at the far end of the screen, which is as far as a box may reach."""
        ...

    def fraction(self, number: float) -> float | None:
        """The place of a number, in fractions of the edge; None if it is outside."""
        ...

    def number(self, fraction: float) -> float:
        """The number of the place that a fraction, 0 to 1, lies in or next to."""
        ...


@dataclass(frozen=True)
class PixelRuler:
    """Pixels from 0 on, of which `scale` go to a unit: a number names the pixel it lies in, and means its centre."""

    pixels: int
    scale: float = 1.0

    @property
    def last(self) -> float:
        return (self.pixels - 1) / self.scale

    @property
    def length(self) -> float:
        return self.pixels / self.scale

    def fraction(self, number: float) -> float | None:
        place = number * self.scale
        return (math.floor(place) + 0.5) / self.pixels if 0 <= place < self.pixels else None

    def number(self, fraction: float) -> float:
        """A whole number where one names the pixel, otherwise one with two decimals."""
        pixel = min(int(fraction * self.pixels), self.pixels - 1)
        centre = (pixel + 0.5) / self.scale
        return int(centre) if math.floor(int(centre) * self.scale) == pixel else round(centre, 2)


@dataclass(frozen=True)
class UnitRuler:
    """Numbers from 0 at one end to `length` at the other, both included, rounded to so many decimals."""

    length: int
    decimals: int = 0

    @property
    def last(self) -> float:
        return self.length

    def fraction(self, number: float) -> float | None:
        return round(number, self.decimals) / self.length if 0 <= number <= self.length else None

    def number(self, fraction: float) -> float:
        nearest = round(fraction * self.length, self.decimals)
        return nearest if self.decimals else int(nearest)


class Screen(NamedTuple):
    """A ruler from left to right, and one from top to bottom."""

    across: Ruler
    down: Ruler

    def point(self, x: float, y: float) -> Point:
        """The point that two numbers name. Raises ActionError outside the screen."""
        fractions = self.across.fraction(x), self.down.fraction(y)
        if fractions[0] is None or fractions[1] is None:
            raise self._outside(f"({x:g}, {y:g})")
        return fractions[0], fractions[1]

    def centre(self, left: float, top: float, right: float, bottom: float) -> Point:
        """The middle of a box. Raises ActionError if the box is turned over, or not on the screen as a whole."""
        if not (0 <= left <= right <= self.across.length and 0 <= top <= bottom <= self.down.length):
            raise self._outside(f"the box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})")
        return self.point((left + right) / 2, (top + bottom) / 2)

    def numbers(self, point: Point) -> tuple[float, float]:
        """The two numbers that name a point. Raises ActionError for what is no pair of fractions."""
        x, y = point
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ActionError(f"the point ({x:g}, {y:g}) is outside the screen, whose fractions go from 0 to 1")
        return self.across.number(x), self.down.number(y)

    def _outside(self, what: str) -> ActionError:
        ends = f"x goes from 0 to {self.across.last:g} and y from 0 to {self.down.last:g}"
        return ActionError(f"{what} is outside the screen, where {ends}")


def pixel_screen(size: tuple[int, int], scale: float = 1.0) -> Screen:
    """The pixels of a picture of that width and height, `scale` of them to a unit."""
    return Screen(PixelRuler(size[0], scale), PixelRuler(size[1], scale))


def unit_screen(length: int, decimals: int = 0) -> Screen:
    """The same numbers along both edges, whatever the picture's size."""
    return Screen(UnitRuler(length, decimals), UnitRuler(length, decimals))
