"""Values out of JSON records that may lack them, or hold something else than was agreed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]
"""What was read from JSON: a dict."""
LONGEST_TEXT = 600


def at(record: object, *keys: str) -> Any:
    """What is found by following `keys` inward, or None."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None  # a page asks hundred thousands of times
    return record


def number(record: object, *keys: str) -> float | None:
    """The finite number found by following `keys`, or None: a page shows no NaN and draws no infinity."""
    value = at(record, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def interval(record: object, *keys: str) -> tuple[float, float] | None:
    """The pair of finite numbers found by following `keys`, or None."""
    value = at(record, *keys)
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = (number({"end": end}, "end") for end in value)
    return None if low is None or high is None else (low, high)


def point(record: object, *keys: str) -> tuple[float, float] | None:
    """The fractions of a picture's width and height found by following `keys`, or None: nothing is drawn outside it."""
    found = interval(record, *keys)
    return found if found is not None and all(0 <= part <= 1 for part in found) else None


def text(record: object, *keys: str, longest: int = LONGEST_TEXT) -> str:
    """What is found by following `keys` as text: empty if there is nothing, cut if it is too long."""
    value = at(record, *keys)
    found = "" if value is None else str(value)
    left_out = len(found) - longest
    return found if left_out <= 0 else f"{found[:longest]} … ({left_out:,} more characters)"
