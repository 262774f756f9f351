"""Pictures of a run folder as data URIs: decoded and encoded anew, so nothing but pixels reaches the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
MAX_PIXELS = 50_000_000
LARGEST_SIDE = 192


def inline_picture(folder: Path, name: str) -> str | None:
    """The picture `name` of a folder as a PNG data URI; None if it is outside, missing or no raster image."""
    from PIL import Image

    path = _inside(folder, name)
    if path is None:
        return None
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            small = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    encoded = io.BytesIO()
    small.save(encoded, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def _inside(folder: Path, name: str) -> Path | None:
    try:
        path = (folder / name).resolve()  # also follows symbolic links, which may lead outside
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError):  # a name too long, or with a NUL
        return None
