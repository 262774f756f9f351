"""Images of a data set, each kept once however many rows show it: looked at, named by their content, put in place.

A file is named by the sha256 of its bytes. A shard has a folder of those that its rows show, a prepared data set a
folder for each two digits that names begin with: images/ab/ab12...jpg.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.data.published.description import WrongRow

IMAGES = "images"
KEPT = 64
"""Images that stay in memory: questions about one image stand side by side."""
BLOCK = 4096
"""Bytes that a file takes a multiple of on disk."""
SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}
"""By what Pillow calls the format; MPO is a JPEG with more pictures behind the first, as some cameras write it."""


class Kept(NamedTuple):
    """An image to be kept: the name of its file, and the bytes of that, unchanged."""

    file: str
    content: bytes

    @property
    def path(self) -> str:
        """Where it is in the folder of the data set."""
        return path_of(self.file)

    @property
    def room(self) -> int:
        """Bytes that it takes on disk."""
        return -(-len(self.content) // BLOCK) * BLOCK


@lru_cache(maxsize=KEPT)
def looked_at(image: Path | bytes) -> Kept:
    """An image that has shown that it is a picture, whole and not too large.

    A JPEG is decoded at an eighth of its size for that, which reads all of it. Raises WrongRow otherwise.
    """
    from PIL import Image as Pillow

    from pe_rlhf_mm.data.images import FORMATS, MAX_PIXELS

    name = f"its image of {len(image)} bytes" if isinstance(image, bytes) else f"its image {image}"
    try:
        content = image if isinstance(image, bytes) else image.read_bytes()
        if not content:
            raise WrongRow(f"{name} is empty (0 bytes). Copy it again")
        with Pillow.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise WrongRow(f"{name} is {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all. Resize it")
            suffix = SUFFIXES[str(picture.format)]
            picture.draft("RGB", (1, 1))
            picture.load()
    except Pillow.DecompressionBombError as error:
        raise WrongRow(f"{name} would unpack to an enormous picture: {error}. Resize it") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise WrongRow(f"{name} cannot be read: {reason}. Expected a PNG, JPEG, GIF or WebP file") from error
    except (SyntaxError, ValueError) as error:
        if isinstance(error, WrongRow):
            raise
        raise WrongRow(f"{name} cannot be read: {error}. Expected a PNG, JPEG, GIF or WebP file") from error
    digest = hashlib.sha256(content).hexdigest()
    return Kept(f"{digest}.{suffix}", content)


def path_of(file: str) -> str:
    """Where an image of that name is in the folder of its data set."""
    return f"{IMAGES}/{file[:2]}/{file}"


def bring_together(shards: Iterable[Path], folder: Path) -> None:
    """Links the images of all shards into a folder, each once."""
    for shard in shards:
        for image in (shard / IMAGES).glob("*"):
            place = folder / path_of(image.name)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                link(image, place)


def link(file: Path, place: Path) -> None:
    """The same file at a second place, so that a process killed now can begin again; a copy where links are unknown."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
