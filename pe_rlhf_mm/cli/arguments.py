"""Command-line options from dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import tyro

from pe_rlhf_mm.errors import UserError

Options = TypeVar("Options")


def parse(kind: type[Options], arguments: Sequence[str], *, prog: str, default: Options | None = None) -> Options:
    """Fills a dataclass from the command line. A value that the dataclass refuses becomes a UserError."""
    try:
        if default is None:
            return tyro.cli(kind, args=list(arguments), prog=prog)
        return tyro.cli(kind, args=list(arguments), prog=prog, default=default)
    except ValueError as error:
        raise UserError(str(error)) from error
