"""Lengths that few programs are compiled for."""

from __future__ import annotations

ROUND_TO = 8


def rounded(length: int) -> int:
    """The length rounded up to the next multiple of ROUND_TO."""
    return -(-length // ROUND_TO) * ROUND_TO
