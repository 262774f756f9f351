"""Screens drawn at random for tiny-vlm to learn what buttons, fields, boxes, links, tabs and windows look like.

Colours, sizes, places and words are drawn freely, and none is that of a task: the lessons are what the words mean, such
as that "the second field" is the one below the first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

SIZES = ((160, 210), (160, 210), (128, 128), (180, 160), (150, 240))
"""Pixels across and down; the commonest size is that of a small web page."""
NAMES = {
    "button": ("button",),
    "field": ("field", "text field", "textbox"),
    "box": ("box", "check box"),
    "link": ("link",),
    "tab": ("tab",),
    "cross": ("cross", "x"),
}
"""What things are called; the first is what the model is to call them."""
ORDINALS = (("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"))
LETTER_WIDTH, LINE = 6, 11
"""Pixels of the font."""
APART = 3
"""Pixels at least between two things."""
TRIES = 20

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


class Thing(NamedTuple):
    """Something that can be pointed at, and where."""

    kind: str
    place: Rectangle

    @property
    def center(self) -> tuple[float, float]:
        left, top, right, bottom = self.place
        return (left + right) / 2, (top + bottom) / 2


class Screen(NamedTuple):
    """A picture and what is on it, from top to bottom; of one row, from left to right."""

    image: Pillow.Image
    things: Sequence[Thing]

    def percent(self, thing: Thing) -> str:
        """The middle of a thing as a model says it: two numbers from 0 to 100."""
        x, y = thing.center
        return f"{100 * x / self.image.width:.0f} {100 * y / self.image.height:.0f}"


def screen(rng: random.Random, words: Sequence[str]) -> Screen:
    """A screen with one to four sorts of things on it."""
    size = rng.choice(SIZES)
    ground = rng.choice([(255, 255, 255), (255, 255, 255), _tone(rng, 200, 255)])
    picture = Pillow.new("RGB", size, ground)
    pen = _Pen(ImageDraw.Draw(picture), rng, words)
    top = pen.heading(size[0]) if rng.random() < 0.6 else 0
    room = (0, top, *size)
    if rng.random() < 0.35:
        room = pen.window(room)
    if rng.random() < 0.2:
        room = pen.tabs(room)
    for kind in rng.sample(sorted(pen.drawn), rng.randint(1, 3)):
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            pen.add(kind, room)
    if not pen.things:  # a small window may have room for nothing
        return screen(rng, words)
    pen.scribble(room)
    return Screen(picture, sorted(pen.things, key=lambda thing: (thing.place[1], thing.place[0])))


def point_at(screen: Screen, rng: random.Random) -> tuple[str, str]:
    """A prompt that names one of the things, and where it is."""
    thing = rng.choice(screen.things)
    same = [other for other in screen.things if other.kind == thing.kind]
    name, place = rng.choice(NAMES[thing.kind]), same.index(thing)
    called = f"the {name}"
    if len(same) > 1:
        called = rng.choice([f"the {word} {name}" for word in ORDINALS[place]] + [f"{name} #{place + 1}"])
    return f"Point at {called}.", screen.percent(thing)


def what_is_at(screen: Screen, rng: random.Random) -> tuple[str, str]:
    """A prompt that names the place of one of the things, and what that is."""
    thing = rng.choice(screen.things)
    return f"What is at {screen.percent(thing)}?", thing.kind


class _Pen:
    """Draws on a picture, and knows what it has drawn."""

    def __init__(self, draw: ImageDraw.ImageDraw, rng: random.Random, words: Sequence[str]):
        self.draw, self.rng, self.words = draw, rng, words
        self.things: list[Thing] = []
        self.taken: list[Rectangle] = []
        self.font = ImageFont.load_default_imagefont()
        self.ink = _tone(rng, 0, 70)
        self.drawn: dict[str, Callable[[Rectangle], Rectangle | None]] = {
            "button": self.button, "field": self.field, "box": self.box, "link": self.link,
        }  # fmt: skip

    def heading(self, width: int) -> int:
        """A band with lines of text at the top; returns where it ends."""
        lines = self.rng.randint(1, 3)
        height = lines * LINE + self.rng.randint(6, 18)
        self.draw.rectangle((0, 0, width, height), fill=_tone(self.rng, 160, 255))
        for line in range(lines):
            self.draw.text((4, 3 + LINE * line), self.said(5)[: width // LETTER_WIDTH - 1], self.ink, self.font)
        return height

    def window(self, room: Rectangle) -> Rectangle:
        """A plate in a frame with a bar on top, in whose corner there is a cross; returns what is free inside."""
        left, top, right, bottom = room
        width = self.rng.randint(80, right - left - 4)
        height = self.rng.randint(60, bottom - top - 4)
        x, y = self.rng.randint(left + 1, right - width - 1), self.rng.randint(top + 1, bottom - height - 1)
        bar, edge = self.rng.randint(14, 22), _tone(self.rng, 90, 200)
        self.draw.rectangle((x, y, x + width, y + height), fill=(255, 255, 255), outline=edge)
        self.draw.rectangle((x + 2, y + 2, x + width - 2, y + bar), fill=_tone(self.rng, 170, 240), outline=edge)
        self.draw.text((x + 5, y + 3), self.said(1), self.ink, self.font)
        side = bar - 6
        corner = (x + width - side - 5, y + 4, x + width - 5, y + 4 + side)
        self.draw.rectangle(corner, fill=_tone(self.rng, 220, 255), outline=edge)
        first, second = (corner[0] + 3, corner[1] + 3), (corner[2] - 3, corner[3] - 3)
        self.draw.line((first, second), self.ink, 2)
        self.draw.line(((first[0], second[1]), (second[0], first[1])), self.ink, 2)
        self.things.append(Thing("cross", corner))
        return x + 2, y + bar, x + width - 2, y + height - 2

    def tabs(self, room: Rectangle) -> Rectangle:
        """Two to four tabs side by side, one of them chosen, on a sheet; returns what is free below them."""
        left, top, right, bottom = room
        count, height = self.rng.randint(2, 4), self.rng.randint(15, 24)
        each = min((right - left - 8) // count, self.rng.randint(28, 60))
        x, y = left + self.rng.randint(2, 6), top + self.rng.randint(2, 8)
        tone, chosen = _tone(self.rng, 180, 235), self.rng.randrange(count)
        for place in range(count):
            tab = (x + each * place, y, x + each * (place + 1) - 3, y + height)
            self.draw.rectangle(
                tab, fill=(255, 255, 255) if place == chosen else tone, outline=_tone(self.rng, 90, 180)
            )
            self.draw.text((tab[0] + 3, y + 4), self.said(1)[: (each - 6) // LETTER_WIDTH], self.ink, self.font)
            self.things.append(Thing("tab", tab))
        self.draw.line((left + 2, y + height, right - 2, y + height), self.ink)
        return left, y + height + 1, right, bottom

    def add(self, kind: str, room: Rectangle) -> None:
        """Draws a thing where there is room for it, if there is any."""
        place = self.drawn[kind](room)
        if place is not None:
            self.things.append(Thing(kind, place))

    def button(self, room: Rectangle) -> Rectangle | None:
        said = self.said(self.rng.randint(1, 2))[:14]
        height = self.rng.randint(LINE + 4, LINE + 14) if self.rng.random() < 0.8 else self.rng.randint(30, 80)
        place = self.settle(room, LETTER_WIDTH * len(said) + self.rng.randint(8, 30), height)
        if place is not None:
            fill = _tone(self.rng, 205, 245) if self.rng.random() < 0.7 else _tone(self.rng, 60, 250)
            ink = self.ink if sum(fill) > 360 else (255, 255, 255)
            round_by, edge = self.rng.randint(0, 4), _tone(self.rng, 80, 180)
            self.draw.rounded_rectangle(place, round_by, fill=fill, outline=edge)
            self.draw.text(_inside(place, said), said, ink, self.font)
        return place

    def field(self, room: Rectangle) -> Rectangle | None:
        place = self.settle(room, self.rng.randint(60, 130), LINE + self.rng.randint(5, 12))
        if place is not None:
            self.draw.rectangle(
                place, fill=(255, 255, 255), outline=_tone(self.rng, 60, 170), width=self.rng.choice((1, 2))
            )
            if self.rng.random() < 0.2:
                self.draw.text((place[0] + 4, place[1] + 3), self.said(1)[:9], self.ink, self.font)
        return place

    def box(self, room: Rectangle) -> Rectangle | None:
        side = self.rng.randint(9, 14)
        said = self.said(1)
        place = self.settle(room, side + 5 + LETTER_WIDTH * len(said), side)
        if place is None:
            return None
        square = (place[0], place[1], place[0] + side, place[1] + side)
        self.draw.rectangle(
            square, fill=(255, 255, 255), outline=_tone(self.rng, 60, 150), width=self.rng.choice((1, 2))
        )
        if self.rng.random() < 0.3:
            self.draw.rectangle((square[0] + 3, square[1] + 3, square[2] - 3, square[3] - 3), fill=self.ink)
        self.draw.text((square[2] + 4, square[1]), said, self.ink, self.font)
        return square

    def link(self, room: Rectangle) -> Rectangle | None:
        said = self.said(self.rng.randint(1, 2))[:16]
        place = self.settle(room, LETTER_WIDTH * len(said), LINE)
        if place is not None:
            blue = (self.rng.randint(0, 60), self.rng.randint(0, 90), self.rng.randint(190, 255))
            self.draw.text(place[:2], said, blue, self.font)
            self.draw.line((place[0], place[3], place[2], place[3]), blue)
        return place

    def scribble(self, room: Rectangle) -> None:
        """Text that is nothing else."""
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            said = self.said(self.rng.randint(1, 4))[:20]
            place = self.settle(room, LETTER_WIDTH * len(said), LINE)
            if place is not None:
                self.draw.text(place[:2], said, self.ink, self.font)

    def settle(self, room: Rectangle, width: int, height: int) -> Rectangle | None:
        """A free place, which is taken then; None where none was found."""
        left, top, right, bottom = room
        for _ in range(TRIES):
            if width + 2 * APART > right - left or height + 2 * APART > bottom - top:
                return None
            x = self.rng.randint(left + APART, right - width - APART)
            y = self.rng.randint(top + APART, bottom - height - APART)
            place = (x, y, x + width, y + height)
            if not any(_meet(place, other) for other in self.taken):
                self.taken.append(place)
                return place
        return None

    def said(self, count: int) -> str:
        return " ".join(self.rng.choices(self.words, k=count))


def _meet(one: Rectangle, other: Rectangle) -> bool:
    """Whether two rectangles lie closer than things do."""
    apart = (one[0] > other[2] + APART, other[0] > one[2] + APART, one[1] > other[3] + APART, other[1] > one[3] + APART)
    return not any(apart)


def _inside(place: Rectangle, said: str) -> tuple[int, int]:
    """Where a text begins that stands in the middle of a place."""
    left, top, right, bottom = place
    return (left + right - LETTER_WIDTH * len(said)) // 2, (top + bottom - LINE) // 2


def _tone(rng: random.Random, low: int, high: int) -> Color:
    """A grey half the time, a colour otherwise."""
    level = rng.randint(low, high)
    return (level, level, level) if rng.random() < 0.5 else (rng.randint(low, high), rng.randint(low, high), level)
