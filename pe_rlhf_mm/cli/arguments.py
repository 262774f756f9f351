"""Command-line options from dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

import tyro

from pe_rlhf_mm.errors import UserError

Options = TypeVar("Options")


def parse(
    kind: type[Options],
    arguments: Sequence[str],
    *,
    prog: str,
    default: Options | None = None,
    description: str | None = None,
) -> Options:
    """Fills a dataclass from the command line; `description`, or else its docstring, is what --help says first.

    A value that the dataclass refuses becomes a UserError.
    """
    if {"-h", "--help"} & set(arguments):
        _tell_in_whole_lines(kind)
    try:
        if default is None:
            return tyro.cli(kind, args=list(arguments), prog=prog, description=description)
        return tyro.cli(kind, args=list(arguments), prog=prog, description=description, default=default)
    except ValueError as error:
        raise UserError(str(error)) from error


def _tell_in_whole_lines(kind: Any) -> None:
    """What is said of the fields of a dataclass, and of those in it, without the line breaks of the source.

    tyro keeps the break before a line that is indented, as those of a docstring are; what a field says of itself, it
    takes first.
    """
    import docstring_parser

    said = {one.arg_name: one.description for one in docstring_parser.parse_from_object(kind).params}
    kinds = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if text := said.get(field.name):
            field.metadata = {**field.metadata, "help": " ".join(text.split())}  # type: ignore[assignment]
        if dataclasses.is_dataclass(kinds[field.name]):
            _tell_in_whole_lines(kinds[field.name])
