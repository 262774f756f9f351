"""Rows of published files as they are read, for the tests of every data set."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from pe_rlhf_mm.data.preparation.shards import Read, Rows
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.data.published.description import Record, SetAside
from pe_rlhf_mm.data.published.origin import origin_of
from pe_rlhf_mm.data.sources.source import BadRow


def rows_of(name: str, folder: Path) -> Rows:
    return Rows(published(name), origin_of(published(name), str(folder)).parts(folder / ".unpacked", print))


def records(name: str, folder: Path) -> list[tuple[str, Record]]:
    """Split and record of every row, images as the bytes that are kept of them."""
    rows = rows_of(name, folder)
    return [(row.split, with_bytes(row)) for row in map(rows.read, range(len(rows)))]


def with_bytes(row: Read) -> Record:
    """The record, the bytes of its images in the place of their paths."""
    contents = {image.path: image.content for image in row.images}
    return {name: contents.get(value, value) if isinstance(value, str) else value for name, value in row.record.items()}


def only(name: str, folder: Path) -> tuple[str, Record]:
    (found,) = records(name, folder)
    return found


def reason(name: str, folder: Path) -> str:
    """Why the only row is set aside."""
    with pytest.raises(SetAside) as caught:
        only(name, folder)
    return caught.value.reason


def bad(name: str, folder: Path, number: int = 0) -> str:
    """What is said about a bad row."""
    with pytest.raises(BadRow) as caught:
        rows_of(name, folder).read(number)
    return str(caught.value)


def noise(seed: int) -> bytes:
    """A JPEG of some 12 kB."""
    buffer = io.BytesIO()
    Pillow.frombytes("RGB", (120, 120), random.Random(seed).randbytes(120 * 120 * 3)).save(buffer, "JPEG")
    return buffer.getvalue()


def loads(texts: list[str]) -> list[Any]:
    """Texts of JSON; None for an empty one."""
    return [json.loads(text) if text else None for text in texts]
