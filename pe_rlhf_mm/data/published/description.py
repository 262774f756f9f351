"""What a published data set is: which files, what a row of them means, and which rows are set aside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from pe_rlhf_mm.data.published.finding import Found
    from pe_rlhf_mm.data.sources.source import Row, Source

Record = dict[str, Any]
"""A prepared row: text as str, lists of text, whole numbers, floats, and an image as the path of its file, or None."""
Kind = Literal["text", "texts", "int", "float", "image"]
"""What a field holds; records on disk hold an image as a path from the folder of the data set."""
VERSION = "1.0.0"
"""Of what is prepared: it moves when a record or a rule of any data set changes."""
REPORT = "preparation.json"
"""Lies beside the records of a prepared data set: what was read, kept and set aside."""
SPLITS = ("train", "validation", "test")

Value = TypeVar("Value")


class SetAside(Exception):
    """A row that a rule of its data set leaves out; it is counted under the reason."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class WrongRow(ValueError):
    """A row that is not as published; the message says in what."""


Convert = Callable[["Row"], tuple[str, Record]]
"""From a row to its split and its record; an image is a published path or bytes still. Raises SetAside or WrongRow."""


class Meaning(Protocol):
    """What a row with the published columns means, given its publisher's split and its part of the data set."""

    def __call__(self, row: Row, split: str, subset: str) -> tuple[str, Record]: ...


@dataclass(frozen=True)
class Part:
    """Rows of one format, and what they mean; `lacks` are fields that the files at hand cannot fill."""

    source: Source
    convert: Convert
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A data set as its publisher gives it away.

    `files` are the names looked for, as patterns, and `archives` those of the packed files they may be in. `prompt`
    names the fields that no two splits may share, `ignored` those in which two copies of a row may differ, and
    `upsetting` those that nobody should meet unprepared, of which `warning` is the sentence that says so.
    `parts` are its rows out of the files found; `row` is the meaning of one row, whatever kind of file it came in.
    """

    name: str
    title: str
    licence: str
    where_to_get_it: str
    files: tuple[str, ...]
    features: Mapping[str, Kind]
    prompt: tuple[str, ...]
    parts: Callable[[Found], Sequence[Part]]
    row: Meaning
    archives: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    upsetting: tuple[str, ...] = ()
    warning: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        """The fields that make two rows of a split the same row."""
        return tuple(name for name in self.features if name not in self.ignored)


def take(row: Mapping[str, Any], name: str, kind: type[Value]) -> Value:
    """The value of a field. Raises WrongRow where it is missing or of another kind; whole numbers are floats too."""
    if not isinstance(row, Mapping):
        raise WrongRow(f"there is a {type(row).__name__} where an object with {name!r} was expected")
    if name not in row:
        raise WrongRow(f"there is no field {name!r}; expected one ({kind.__name__})")
    value = row[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise WrongRow(f"the field {name!r} holds a {type(value).__name__}; expected {kind.__name__}")
    return value


def choice(row: Mapping[str, Any], name: str) -> int:
    """A field that says which of two: 0 or 1. Raises WrongRow for anything else."""
    value = take(row, name, int)
    if value not in (0, 1):
        raise WrongRow(f"the field {name!r} is {value}; expected 0 or 1")
    return value


def texts(values: Sequence[Any], name: str) -> list[str]:
    """The values, which must be texts. Raises WrongRow where one is not, and where there is none."""
    if not values:
        raise WrongRow(f"the field {name!r} is empty; expected one text at least")
    if not all(isinstance(value, str) for value in values):
        raise WrongRow(f"the field {name!r} does not hold texts only")
    return list(values)


def held_out(key: str) -> bool:
    """Whether a row belongs to the tenth held out: sha256 of what must not be split begins with a byte below 25."""
    return hashlib.sha256(key.encode()).digest()[0] < 256 // 10


def train_or_validation(key: str) -> str:
    """The split of a published training row where the publisher has no validation split."""
    return "validation" if held_out(key) else "train"
