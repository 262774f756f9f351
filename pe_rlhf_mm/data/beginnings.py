"""Which row an episode stands in where several begin alike: beside those that share its beginning, while that pays."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from pe_rlhf_mm.data.order import first_fit
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.transcript import Transcript, beginning, length, length_together

COLUMNS = 128
"""Rows are padded to a multiple of so many tokens: each length compiles an update."""


class Filled(NamedTuple):
    """Which conversations stand in which row; those that begin alike and share a row stand side by side."""

    capacity: int
    bins: list[list[int]]


def fill_rows(conversations: Sequence[Transcript], *, width: int) -> Filled:
    """Rows of the capacity C that takes the least arithmetic, of all that hold each conversation, the longest first.

    A row costs C (1 + C / 6D) in a decoder of width D: a layer multiplies a token with some 12 D² weights, and its
    attention with the keys and values of C tokens, 2 C D numbers. So short rows are cheap, and long ones have fewer
    beginnings, as more conversations share one.
    """
    alike: dict[Hashable, list[int]] = {}
    for number in sorted(range(len(conversations)), key=lambda n: -length(conversations[n])):
        alike.setdefault(beginning(conversations[number]), []).append(number)
    groups = list(alike.values())
    shortest = rounded(max(1, *map(length, conversations)), COLUMNS)
    longest = max(shortest, *(length_together([conversations[n] for n in group]) for group in groups))
    capacities = range(shortest, rounded(longest, COLUMNS) + 1, COLUMNS)
    filled = [Filled(capacity, _bins(conversations, groups, capacity)) for capacity in capacities]
    return min(filled, key=lambda rows: len(rows.bins) * rows.capacity * (1 + rows.capacity / (6 * width)))


def _bins(conversations: Sequence[Transcript], groups: Sequence[Sequence[int]], capacity: int) -> list[list[int]]:
    parts = [part for group in groups for part in _parts(conversations, group, capacity)]
    lengths = [length_together([conversations[n] for n in part]) for part in parts]
    longest_first = sorted(range(len(parts)), key=lambda i: -lengths[i])
    return [[n for i in inside for n in parts[i]] for inside in first_fit(longest_first, lengths, capacity, len(parts))]


def _parts(conversations: Sequence[Transcript], group: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """A group that begins alike, cut where a row is full."""
    part: list[int] = []
    for number in group:
        if part and length_together([conversations[n] for n in (*part, number)]) > capacity:
            yield part
            part = []
        part.append(number)
    if part:
        yield part
