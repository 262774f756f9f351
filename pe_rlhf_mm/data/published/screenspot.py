"""ScreenSpot: an element of a screen is described in words, and is to be clicked; a test set, nothing to train on.

K. Cheng et al., https://arxiv.org/abs/2401.10935, https://github.com/njucckevin/SeeClick. Its own files give boxes as
[x, y, width, height] in pixels, copies on the Hugging Face hub as [left, top, right, bottom] in fractions.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pe_rlhf_mm.data.published.description import Part, Published, Record, WrongRow, take
from pe_rlhf_mm.data.published.finding import Found
from pe_rlhf_mm.data.published.pictures import Pictured, image_of, require_pictures
from pe_rlhf_mm.data.sources.source import Row

PLATFORMS = {f"screenspot_{platform}*.json": platform for platform in ("mobile", "desktop", "web")}
SOURCES = {"ios": "mobile", "android": "mobile", "windows": "desktop", "macos": "desktop"}
"""What screens were taken of, where no file says it; of anything else they show web pages."""


def element(row: Row, split: str, subset: str) -> tuple[str, Record]:
    """An instruction, its screen, and the box of the element that it is about; `subset` is the platform, if known."""
    image, own_files = image_of(row), "img_filename" in row
    width, height = _size(image)
    left, top, right, bottom = _box(row, width if own_files else 1, height if own_files else 1)
    if own_files:
        right, bottom = left + right, top + bottom
    if left >= right or top >= bottom:
        raise WrongRow(f"the field 'bbox' is {row['bbox']}; expected a box with an extent")
    file = take(row, "img_filename" if own_files else "file_name", str)
    instruction, source = take(row, "instruction", str), take(row, "data_source", str)
    place = f"{left * width:.0f} {top * height:.0f} {right * width:.0f} {bottom * height:.0f}"
    return "test", {
        "id": f"{file}-{hashlib.sha256(f'{instruction} {place}'.encode()).hexdigest()[:8]}",
        "instruction": instruction,
        "platform": subset or SOURCES.get(source.lower(), "web"),
        "kind": take(row, "data_type", str),
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        "width": width,
        "height": height,
        "image": image,
    }


def _box(row: Row, width: int, height: int) -> list[float]:
    """The four numbers of a box as fractions of a width and a height."""
    numbers = take(row, "bbox", list)
    if len(numbers) != 4 or not all(isinstance(number, int | float) for number in numbers):
        raise WrongRow("the field 'bbox' does not hold four numbers")
    return [number / side for number, side in zip(numbers, (width, height) * 2, strict=True)]


def _size(image: Path | bytes) -> tuple[int, int]:
    """Width and height in pixels of an image that can be read."""
    from PIL import Image as Pillow

    from pe_rlhf_mm.data.preparation.images import looked_at

    with Pillow.open(io.BytesIO(looked_at(image).content)) as picture:
        return picture.size


def _image_name(row: Row) -> str:
    return take(row, "img_filename", str)


def _parts(found: Found) -> Sequence[Part]:
    from pe_rlhf_mm.data.sources.json_list import JsonList

    parts = []
    for pattern, platform in PLATFORMS.items():
        for path in found.named(pattern):
            require_pictures(found, "*", "screens")
            source = Pictured(JsonList(path), found, _image_name)
            parts.append(Part(source, partial(element, split="test", subset=platform)))
    return parts


SCREENSPOT = Published(
    name="screenspot",
    title="ScreenSpot: elements of screens to be found by a description",
    licence="Apache 2.0 by its card on the hub; the screens under the terms of what they show",
    where_to_get_it=(
        "Download screenspot_{mobile,desktop,web}.json and the images, which https://github.com/njucckevin/SeeClick "
        "links to, or the Parquet files of rootsautomation/ScreenSpot from the Hugging Face hub."
    ),
    files=tuple(PLATFORMS),
    archives=("screenspot*.zip",),
    features={
        "id": "text",
        "instruction": "text",
        "platform": "text",
        "kind": "text",
        "left": "float",
        "top": "float",
        "right": "float",
        "bottom": "float",
        "width": "int",
        "height": "int",
        "image": "image",
    },
    prompt=("instruction", "image"),
    ignored=("id",),
    parts=_parts,
    row=element,
)
