"""Draws that are the same on every machine: out of a hash of what is drawn for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def share(*key: object) -> float:
    """A number in [0, 1), evenly spread over keys."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def one_of(items: Sequence[Item], *key: object) -> Item:
    """One of the items, each as likely."""
    return items[int(share(*key) * len(items))]


def others(items: Sequence[Item], place: int, count: int, *key: object) -> list[Item]:
    """So many of the items, none twice and none of them the item at `place` (all others, if there are fewer)."""
    order = sorted(range(len(items)), key=lambda other: share(*key, other)) if len(items) <= count + 1 else []
    if not order:  # of many, the first that come: sorting them all for each would take the square of their number
        draw = 0
        while len(order) < count:
            other = int(share(*key, draw) * len(items))
            draw += 1
            if other != place and other not in order:
                order.append(other)
    return [items[other] for other in order if other != place]
