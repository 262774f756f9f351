"""Pictures of a run folder as data URIs: encoded anew, or put together anew, so nothing but pixels reaches the page."""

from __future__ import annotations

import base64
import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pe_rlhf_mm.reports.png_chunks import Png, only_pixels

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
MAX_PIXELS = 50_000_000
LARGEST_SIDE = 192
LARGEST_SCREEN = 420
"""Of a screen, on which text is to be read."""
SMALL = 1024
"""Bytes of a PNG file that is not encoded anew: it would take longer than all the rest, and spare little."""
COLORS_OF_SCREENS = 16_384
"""What has more is a photograph."""
COLORS_OF_DRAWINGS = 64
"""What has no more is shorter with a palette than as JPEG, which need not be tried. Grey photographs have up to 256."""


def inline_picture(folder: Path, name: str) -> str | None:
    """The picture `name` of a folder as a PNG data URI; None if it is outside, missing or no raster image."""
    path = _inside(folder, name)
    picture = None if path is None else _opened(path, LARGEST_SIDE)
    return None if picture is None else _as_uri(picture)


class Screen(NamedTuple):
    """A picture of an album: the class of elements that show it, and its width and height in pixels."""

    style: str
    width: int
    height: int


class Album:
    """The screens of a page. Many are seen more than once, and each is embedded once: in a rule of the style sheet.

    `folders`: where a picture is looked for, in turn. When `budget` characters are used up, no more are embedded.
    `beyond` counts the pictures left out by that, `unreadable` those that are missing, outside or no raster images.
    """

    def __init__(self, *folders: Path, budget: float = math.inf):
        self._folders, self._left = folders, budget
        self._screens: dict[str, Screen | None] = {}
        self._rules: list[str] = []
        self.beyond = self.unreadable = 0

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, name: object) -> Screen | None:
        """The screen that a path in the folders leads to; None if it leads to no picture, or there is no room."""
        if not isinstance(name, str):
            return None
        if name not in self._screens:
            self._screens[name] = self._embed(name)
        return self._screens[name]

    def _embed(self, name: str) -> Screen | None:
        if self._left <= 0:
            self.beyond += 1
            return None
        paths = (path for folder in self._folders if (path := _inside(folder, name)) is not None)
        found = next((found for path in paths if (found := _embedded(path)) is not None), None)
        if found is None:
            self.unreadable += 1
            return None
        screen = Screen(f"screen-{len(self._rules)}", found.width, found.height)
        self._rules.append(f".{screen.style} {{ background-image: url({found.uri}); }}")
        self._left -= len(self._rules[-1])
        return screen

    @property
    def rules(self) -> str:
        """The style sheet: names and numbers of our own, and base64."""
        return "\n".join(self._rules)


class _Embedded(NamedTuple):
    uri: str
    width: int
    height: int


def _embedded(path: str) -> _Embedded | None:
    """A picture of an album; None for what is no raster image."""
    png = _small_png(path)
    if png is not None and min(png.width, png.height) > 0 and max(png.width, png.height) <= LARGEST_SCREEN:
        return _Embedded(_uri(png.content, "PNG"), png.width, png.height)
    picture = _opened(path, LARGEST_SCREEN)
    return None if picture is None else _Embedded(_shortest(picture), *picture.size)


def _small_png(path: str) -> Png | None:
    try:
        return only_pixels(Path(path).read_bytes()) if os.path.getsize(path) <= SMALL else None
    except OSError:
        return None


def _opened(path: str, largest: int) -> Image.Image | None:
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            small = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail((largest, largest))
    return small


def _shortest(picture: Image.Image) -> str:
    """As JPEG or with a palette, whichever is shorter; a palette for a photograph would take a tenth of a second."""
    if picture.getcolors(COLORS_OF_DRAWINGS) is not None:
        return _as_uri(_of_few_colors(picture))
    found = _as_uri(picture, "JPEG")
    screen = picture.getcolors(COLORS_OF_SCREENS) is not None
    return min(found, _as_uri(_of_few_colors(picture)), key=len) if screen else found


def _of_few_colors(picture: Image.Image) -> Image.Image:
    """With a palette: a screen has few colours, and becomes a third of the size."""
    from PIL import Image

    return picture.quantize(256, dither=Image.Dither.NONE)


def _as_uri(picture: Image.Image, kind: Literal["PNG", "JPEG"] = "PNG") -> str:
    encoded = io.BytesIO()
    picture.save(encoded, kind, optimize=True)
    return _uri(encoded.getvalue(), kind)


def _uri(content: bytes, kind: Literal["PNG", "JPEG"]) -> str:
    return f"data:image/{kind.lower()};base64," + base64.b64encode(content).decode()


def _inside(folder: Path, name: str) -> str | None:
    try:
        root = os.path.realpath(folder)  # as is done by pathlib, in a third of the time
        path = os.path.realpath(os.path.join(root, name))  # also follows symbolic links, which may lead outside
        return path if os.path.commonpath([root, path]) == root and os.path.isfile(path) else None
    except (OSError, ValueError):  # a name too long, or with a NUL
        return None
