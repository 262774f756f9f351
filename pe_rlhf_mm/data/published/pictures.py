"""Pictures of a data set: found for a row, and looked at before they are kept."""

from __future__ import annotations

import fnmatch
import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from pe_rlhf_mm.data.published.description import WrongRow
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.sources.source import Row, Source
from pe_rlhf_mm.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
KEPT = 64
"""Pictures that stay in memory: questions about one picture stand side by side."""


class Pictured:
    """Rows of a source, each with the path of its picture as `image`."""

    def __init__(self, source: Source, found: Found, name: Callable[[Row], str]):
        self.source, self.found, self.name = source, found, name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Row:
        row = self.source[index]
        name = self.name(row)
        if name not in self.found.by_name:
            raise WrongRow(f"its image {name} is not in {self.found.folder}. Copy the images again, all of them")
        return {**row, "image": self.found.by_name[name]}

    def where(self, index: int) -> str:
        return self.source.where(index)


def some_pictures(found: Found, pattern: str) -> bool:
    """Whether there is any picture of that name."""
    return any(path.suffix.lower() in SUFFIXES and fnmatch.fnmatchcase(path.name, pattern) for path in found.paths)


def require_pictures(found: Found, pattern: str, what: str) -> None:
    """Raises UserError where there is no picture of that name at all."""
    if not some_pictures(found, pattern):
        raise UserError(
            f"{found.folder} has questions and no images of {what}: looked for {pattern} there and in all folders "
            "below. Put the images, or a link to their folder, beside the questions."
        )


def image_of(row: Row) -> Path | bytes:
    """The image of a row: a path, or the bytes that a Hugging Face data set carries. Raises WrongRow for none."""
    image = row.get("image")
    if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
        image = image["bytes"]
    if not isinstance(image, Path | bytes):
        raise WrongRow("there is no image in the field 'image'")
    return image


@lru_cache(maxsize=KEPT)
def looked_at(image: Path | bytes) -> bytes:
    """The bytes of an image's file, unchanged, once it has shown that it is a picture, whole and not too large.

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
    return content
