"""Lengths that few programs are compiled for."""

from __future__ import annotations

ROUND_TO = 8


def rounded(length: int, to: int = ROUND_TO) -> int:
    """The length rounded up to the next multiple of `to`."""
    return -(-length // to) * to
