"""What widgets look like: small pictures, each drawn once for every state that it shows, and pasted from then on.

Text is Pillow's built-in bitmap font at twice its size. It is part of Pillow's source and is drawn without FreeType, so
that a screen has the same pixels on every machine; a model that sees the screen at half its size can still read it.
"""

from __future__ import annotations

import functools

from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from pe_rlhf_mm.envs.canvas.layout import SIDE, Box, Size

Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "red": (220, 40, 40),
    "green": (30, 150, 60),
    "blue": (50, 90, 230),
    "yellow": (250, 215, 50),
    "teal": (0, 150, 160),
    "brown": (130, 80, 40),
    "gray": (140, 140, 140),
    "black": (30, 30, 30),
}
"""What goals call a colour, and how it is drawn."""
GROUND, PAPER, TINT = (232, 232, 236), (255, 255, 255), (255, 236, 160)
INK, RING = (20, 20, 20), (255, 120, 0)
LETTER_WIDTH, LETTER_HEIGHT, ABOVE = 12, 22, 3
"""Pixels of a letter, and how many of its height are free above a capital, less those below its line."""
EDGE, TICK, BAR = 3, 16, 8
"""Pixels: of an edge, of the side of the square that is ticked, and across a scroll bar."""
PICTURES = 4096
"""So many pictures of one sort are kept."""

kept = functools.lru_cache(PICTURES)


def mark(picture: Pillow.Image, box: Box) -> None:
    """Draws the ring that says where keys go."""
    left, top, width, height = box
    ImageDraw.Draw(picture).rectangle((left - 1, top - 1, left + width, top + height), outline=RING, width=2)


def empty_screen() -> Pillow.Image:
    """The ground that widgets stand on, to be drawn on."""
    return Pillow.new("RGB", (SIDE, SIDE), GROUND)


@kept
def button(size: Size, label: str, color: str, pressed: bool = False) -> Pillow.Image:
    """A coloured plate with its label; when it is pressed the two change their colours."""
    fill = COLORS.get(color, PAPER)
    ink = INK if sum(fill) > 384 else PAPER
    plate = _plate(size, ink if pressed else fill)
    _write(plate, label, _middle(size, label), fill if pressed else ink)
    return plate


def text_field(size: Size, text: str, color: str, focused: bool) -> Pillow.Image:
    """A line to write on, in a coloured frame, tinted while it has the focus; of a long text the end is seen."""
    room = (size[0] - 4 * EDGE) // LETTER_WIDTH
    return _text_field(size, text[-room:], color, focused)


@kept
def _text_field(size: Size, seen: str, color: str, focused: bool) -> Pillow.Image:
    plate = _plate(size, TINT if focused else PAPER, COLORS[color], EDGE)
    _write(plate, seen, 2 * EDGE, INK)
    return plate


@kept
def check_box(size: Size, label: str, ticked: bool) -> Pillow.Image:
    """A square, crossed out when it is ticked, and its label."""
    picture = Pillow.new("RGB", size, GROUND)
    square = _plate((TICK, TICK), PAPER)
    if ticked:
        for step in range(TICK - EDGE + 1):  # squares along both diagonals: versions of Pillow draw lines differently
            for top in (step, TICK - EDGE - step):
                square.paste(INK, (step, top, step + EDGE, top + EDGE))
    picture.paste(square, (EDGE, (size[1] - TICK) // 2))
    _write(picture, label, TICK + 3 * EDGE, INK)
    return picture


@kept
def menu(size: Size, label: str) -> Pillow.Image:
    """A menu that is closed: its label, and a wedge that points down."""
    plate = _plate(size, PAPER)
    _write(plate, label, 2 * EDGE, INK)
    right, middle = size[0] - 2 * EDGE, size[1] // 2
    for step in range(4):
        plate.paste(INK, (right - 8 + step, middle - 4 + 2 * step, right - step, middle - 2 + 2 * step))
    return plate


@kept
def entries(size: Size, labels: tuple[str, ...], chosen: str | None = None) -> Pillow.Image:
    """Labels below each other, as in a menu that is open."""
    plate = _plate(size, PAPER)
    for label, row in zip(labels, Box(0, 0, *size).rows(len(labels)), strict=True):
        plate.paste(button(row.size, label, "", label == chosen), row[:2])
    return plate


@kept
def scroll_list(size: Size, labels: tuple[str, ...], first: int, total: int, chosen: str | None) -> Pillow.Image:
    """The labels that are in view, from the `first` of the `total` on, and a bar that says where they stand."""
    width, height = size
    plate = _plate(size, PAPER)
    plate.paste(entries((width - BAR, height), labels, chosen), (0, 0))
    top, bottom = (height * place // total for place in (first, first + len(labels)))
    plate.paste(INK, (width - BAR, top, width, bottom))
    return plate


@kept
def panel(size: Size, text: str) -> Pillow.Image:
    """A plate that covers what is behind it, with a line of text at its top."""
    plate = _plate(size, PAPER)
    head = Pillow.new("RGB", (size[0] - 2 * EDGE, LETTER_HEIGHT), PAPER)
    _write(head, text, _middle(head.size, text), INK)
    plate.paste(head, (EDGE, 2 * EDGE))
    return plate


@kept
def letters(text: str) -> Pillow.Image:
    """The mask of a line of text, a letter after the other; what the font has no letter for is a question mark."""
    known = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    mask = Pillow.new("1", (LETTER_WIDTH // 2 * len(known), LETTER_HEIGHT // 2))
    ImageDraw.Draw(mask).text((0, 0), known, fill=1, font=_font())
    return mask.resize((2 * mask.width, 2 * mask.height), Pillow.Resampling.NEAREST)


def _plate(size: Size, fill: Color, edge: Color = INK, width: int = 1) -> Pillow.Image:
    picture = Pillow.new("RGB", size, edge)
    picture.paste(fill, (width, width, size[0] - width, size[1] - width))
    return picture


def _middle(size: Size, text: str) -> int:
    """Where a text starts that is in the middle."""
    return (size[0] - LETTER_WIDTH * len(text)) // 2


def _write(picture: Pillow.Image, text: str, left: int, ink: Color) -> None:
    if text:
        picture.paste(ink, (left, (picture.height - LETTER_HEIGHT - ABOVE) // 2), letters(text))


@functools.lru_cache(1)
def _font() -> ImageFont.ImageFont:
    return ImageFont.load_default_imagefont()
