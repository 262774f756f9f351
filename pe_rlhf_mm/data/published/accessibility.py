"""What is on an Android screen: the elements of an AndroidAccessibilityForest, read from its bytes.

The forest is a protocol buffer of the package android_env (android_accessibility_forest.proto and what it imports). Of
its wire format (protobuf.dev/programming-guides/encoding) this is as much as it takes to walk down to the nodes: zeros,
false and empty texts are absent, and fields that are not asked for are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pe_rlhf_mm.data.published.description import WrongRow

WINDOWS, TREE, NODES = 1, 11, 1
"""Fields: of the forest, of a window, of a tree."""
BOUNDS, CLASS, DESCRIPTION, HINT, TEXT, VISIBLE = 2, 3, 4, 5, 7, 23
"""Fields of a node."""
ACTED_ON = (12, 14, 15, 19)
"""Those that say that it is checkable, clickable, editable, long-clickable."""
SIDES = (1, 2, 3, 4)
"""Fields of the bounds: left, top, right, bottom."""
VARINT, EIGHT_BYTES, DELIMITED, FOUR_BYTES = 0, 1, 2, 5
FIXED = {EIGHT_BYTES: 8, FOUR_BYTES: 4}
LONGEST_VARINT = 10
"""Bytes: seven bits each of 64."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels of the screen."""


class Node(NamedTuple):
    """A node that can be seen. `text`: what it says, or else its description, or else its hint."""

    box: Box
    text: str
    kind: str
    """The last part of its class: Button."""
    acted_on: bool


def visible_nodes(forest: bytes) -> list[Node]:
    """The visible nodes of all windows that have an extent, in their order. Raises WrongRow for bytes that are none."""
    try:
        return [
            found
            for window in _messages(forest, WINDOWS)
            for tree in _messages(window, TREE)
            for node in _messages(tree, NODES)
            if (found := _node(node)) is not None
        ]
    except ValueError as error:
        raise WrongRow(f"its accessibility tree cannot be read ({error}). Download the file again") from error


def _node(message: bytes) -> Node | None:
    fields = dict(_fields(message))
    sides = dict(_fields(_bytes(fields.get(BOUNDS, b""))))
    left, top, right, bottom = (_signed(sides.get(side, 0)) for side in SIDES)
    if not fields.get(VISIBLE) or right <= left or bottom <= top:
        return None
    text = next((said for name in (TEXT, DESCRIPTION, HINT) if (said := _text(fields.get(name, b"")))), "")
    kind = _text(fields.get(CLASS, b"")).rpartition(".")[2]
    return Node((left, top, right, bottom), text, kind, any(fields.get(name) for name in ACTED_ON))


def _messages(message: bytes, field: int) -> Iterator[bytes]:
    return (_bytes(value) for number, value in _fields(message) if number == field)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of every field; of one that stands twice the last value counts, as protocol buffers have it."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire not in (*FIXED, DELIMITED):
            raise ValueError(f"field {number} has the unknown wire type {wire}")
        size, at = _varint(message, at) if wire == DELIMITED else (FIXED[wire], at)
        if at + size > len(message):
            raise ValueError(f"field {number} ends behind the end")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and where it ends."""
    if at < len(message) and message[at] < 128:  # nearly all of them
        return message[at], at + 1
    value = 0
    for place, byte in enumerate(message[at : at + LONGEST_VARINT]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number has no end")


def _signed(value: int | bytes) -> int:
    """A number that may be negative: it is written as 64 bits then, whatever it was declared."""
    if isinstance(value, bytes):
        raise ValueError("a number is none")
    return value - (1 << 64) if value >> 63 else value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands for a message or a text")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode().strip()
