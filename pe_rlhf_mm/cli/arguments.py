"""Command-line options from dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

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
    try:
        if default is None:
            return tyro.cli(kind, args=list(arguments), prog=prog, description=description)
        return tyro.cli(kind, args=list(arguments), prog=prog, description=description, default=default)
    except ValueError as error:
        raise UserError(str(error)) from error
