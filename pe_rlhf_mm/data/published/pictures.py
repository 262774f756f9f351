"""Pictures of a data set, found for its rows."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path

from pe_rlhf_mm.data.published.description import WrongRow
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.sources.source import Row, Source
from pe_rlhf_mm.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")


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
