"""One JSON document that holds a list of rows: VQAv2's questions, TextVQA, ScreenQA, easy-VQA."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from json import JSONDecodeError
from pathlib import Path

import numpy as np

from pe_rlhf_mm.data.sources.files import contents
from pe_rlhf_mm.data.sources.json_row import as_row, json_type, parse_json
from pe_rlhf_mm.data.sources.source import Row
from pe_rlhf_mm.data.sources.spans import Spans, SpanSource
from pe_rlhf_mm.errors import UserError


class JsonList(SpanSource):
    """The list at `keys` of a document, or the document itself where there are none.

    Where rows are published as lists ([question, answer, image]), `fields` names their values. The document is decoded
    once to find the rows, and only their places are kept: VQAv2's annotations are 0.4 GB of text, but 2 GB of objects.
    """

    unit = "row"

    def __init__(self, path: str | Path, *keys: str, fields: Sequence[str] = ()):
        super().__init__(path)
        self.keys = keys
        self.fields = fields

    def _find(self) -> Spans:
        data, damage = contents(self.path)
        # What is not UTF-8 passes for now: it spoils the row it stands in, not those after it.
        walk = _Walk(data[:].decode("utf-8", "surrogateescape"))
        try:
            walk.document(self.keys)
        except _OtherShape as error:
            raise UserError(f"{self.path} {error} Is it the right file?") from error
        except JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            damage = damage or f"broken JSON at {place} ({error.msg}); what follows is lost. Download the file again."
            if not walk.found:
                raise UserError(f"{self.path}: {damage}") from error
        spans = walk.spans_in_bytes() + [(len(data), len(data))] * bool(damage)
        starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
        return Spans(data, starts, ends, np.arange(1, len(spans) + 1), damage)

    def _parse(self, content: bytes) -> Row:
        value = parse_json(content)
        if not self.fields:
            return as_row(value)
        if not isinstance(value, list) or len(value) != len(self.fields):
            raise ValueError(f"it is {json_type(value)}; expected a list of {', '.join(self.fields)}.")
        return dict(zip(self.fields, value, strict=True))


class _OtherShape(Exception):
    """Good JSON without the list that was asked for."""


class _Walk:
    """Goes once through a document and notes where the elements of one list are, in characters."""

    _space = re.compile(r"[ \t\n\r]*")
    _decoder = json.JSONDecoder(parse_int=float)  # int() refuses very long numbers

    def __init__(self, text: str):
        self.text = text
        self.at = len("\ufeff") if text.startswith("\ufeff") else 0
        self.spans: list[tuple[int, int]] = []
        self.found = False

    def document(self, keys: Sequence[str]) -> None:
        """Raises JSONDecodeError where it is broken, _OtherShape where the list is not there."""
        self._list_at(keys)
        if self._next():
            raise JSONDecodeError("Extra data", self.text, self.at)

    def spans_in_bytes(self) -> list[tuple[int, int]]:
        """Where the elements are in the file."""
        if self.text.isascii():
            return self.spans
        spans, at, place = [], 0, 0
        for start, end in self.spans:
            first = place + self._bytes(at, start)
            at, place = end, first + self._bytes(start, end)
            spans.append((first, place))
        return spans

    def _bytes(self, start: int, end: int) -> int:
        return len(self.text[start:end].encode("utf-8", "surrogateescape"))

    def _list_at(self, keys: Sequence[str]) -> None:
        if not keys:
            for _ in self._items("[", "]"):
                self.found = True
                self.spans.append(self._value())
            self.found = True
            return
        names = []
        for _ in self._items("{", "}"):
            names.append(self._name())
            if names[-1] == keys[0]:
                self._list_at(keys[1:])
            else:
                self._value()
        if keys[0] not in names:
            raise _OtherShape(f"has no {keys[0]!r}, but {', '.join(names) or 'nothing at all'}.")

    def _items(self, opening: str, closing: str) -> Iterator[None]:
        """Stands before one item of an object or a list after the other."""
        if self._next() != opening:
            start, end = self._value()
            kind = json_type(self._decoder.decode(self.text[start:end]))
            raise _OtherShape(f"holds {kind} where {'an object' if opening == '{' else 'a list'} was expected.")
        self.at += 1
        if self._next() == closing:
            self.at += 1
            return
        while True:
            yield
            mark = self._next()
            if mark not in (",", closing) or not mark:
                raise JSONDecodeError("Expecting ',' delimiter", self.text, self.at)
            self.at += 1
            if mark == closing:
                return

    def _name(self) -> str:
        if self._next() != '"':
            raise JSONDecodeError("Expecting property name enclosed in double quotes", self.text, self.at)
        start, end = self._value()
        if self._next() != ":":
            raise JSONDecodeError("Expecting ':' delimiter", self.text, self.at)
        self.at += 1
        return str(json.loads(self.text[start:end]))

    def _value(self) -> tuple[int, int]:
        self._next()
        start = self.at
        try:
            _, self.at = self._decoder.raw_decode(self.text, start)
        except RecursionError as error:
            raise JSONDecodeError("Nested too deeply", self.text, start) from error
        return start, self.at

    def _next(self) -> str:
        """The character after any white space."""
        space = self._space.match(self.text, self.at)
        assert space  # it may be empty
        self.at = space.end()
        return self.text[self.at : self.at + 1]
