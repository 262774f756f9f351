"""What lies in a program's temporary memory when it is fullest: read in the account that XLA writes of its buffers.

XLA writes two texts when it is asked to dump: where every value lies in the heap (`-buffer-assignment.txt`) and from
which instruction to which it is alive (`-live-range.txt`). Values that are one buffer at different times of its life
have the same place, so that bytes are counted once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HEAP = re.compile(r"allocation \d+: size (?P<size>\d+), .*preallocated-temp")
VALUE = re.compile(
    r" value: <\d+ (?P<name>\S+?)(?P<index>\{[\d,]*\})?(?: \(phi\))? @\d+> "
    r"\(size=(?P<size>\d+),offset=(?P<offset>\d+)\): \w+\[(?P<shape>[\d,]*)\]"
)
SPAN = re.compile(r"^ {4}(?P<value>\S+\{[\d,]*\}):(?P<first>\d+)-(?P<last>\d+)$", re.MULTILINE)
SMALL = 1e-5
"""Values below this share of the heap are left out."""


class Buffer(NamedTuple):
    """Bytes of the heap, and the value that lies there: the name of its instruction, and its shape on one device."""

    size: int
    name: str
    shape: tuple[int, ...]


class _Value(NamedTuple):
    """Where a value lies in the heap, and from which instruction to which."""

    offset: int
    size: int
    name: str
    shape: tuple[int, ...]
    first: int
    last: int


def dump_to(folder: str) -> dict[str, str | bool]:
    """The compiler's options for an account of the buffers in that folder."""
    return {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}


def fullest(folder: str) -> list[Buffer]:
    """What lies in the heap at the instant when most of it is taken; nothing where the compiler has given no account.

    Of a backend that writes other texts, or none, nothing is told.
    """
    places = _text(folder, "*-buffer-assignment.txt")
    spans = {
        span["value"]: (int(span["first"]), int(span["last"])) for span in SPAN.finditer(_text(folder, "*range.txt"))
    }
    values = list(_values(places, spans))
    instants = sorted({value.first for value in values})
    return max((_alive(values, instant) for instant in instants), key=_total, default=[])


def _text(folder: str, pattern: str) -> str:
    return next((path.read_text() for path in sorted(Path(folder).glob(pattern))), "")


def _values(text: str, spans: Mapping[str, tuple[int, int]]) -> Iterator[_Value]:
    """Those of the largest heap, which is the device's main memory: others are on the chip."""
    heaps = [(int(heap["size"]), heap.end()) for heap in HEAP.finditer(text)]
    if not heaps:
        return
    size, start = max(heaps)
    for line in text[start:].split("\n")[1:]:
        if (value := VALUE.match(line)) is None:
            if line.startswith("allocation"):
                return
            continue
        span = spans.get(value["name"] + (value["index"] or "{}"))
        if span is not None and int(value["size"]) >= SMALL * size:
            shape = tuple(map(int, filter(None, value["shape"].split(","))))
            yield _Value(int(value["offset"]), int(value["size"]), value["name"], shape, *span)


def _alive(values: Sequence[_Value], instant: int) -> list[Buffer]:
    """Every byte once: of values that lie in each other's place, the one that was made last."""
    found: list[_Value] = []
    for value in sorted((v for v in values if v.first <= instant <= v.last), key=lambda v: -v.first):
        if all(
            value.offset + value.size <= other.offset or other.offset + other.size <= value.offset for other in found
        ):
            found.append(value)
    return [Buffer(value.size, value.name, value.shape) for value in found]


def _total(buffers: Sequence[Buffer]) -> int:
    return sum(buffer.size for buffer in buffers)
