"""Texts that nobody should meet unprepared: their lengths are shown, and the texts themselves with --reveal."""

from __future__ import annotations


def length_of(text: str) -> str:
    """What stands in the place of a text."""
    return f"<{len(text):,} characters>"


def notice(warning: str) -> str:
    """Why lengths were shown, and what shows the texts; `warning` is a sentence of the data set or the task."""
    return f"{warning} Their lengths are shown; --reveal prints them."
