"""What chips send each other while a program runs: read in the text that the compiler prints of it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?\S+ = (?P<result>.*?) "
    r"(?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?P<start>-start)?\("
)
ARRAY = re.compile(r"(?P<kind>pred|[a-z]+)(?P<bits>\d*)(?:e\d\w*)?\[(?P<shape>[\d,]*)\]")
WHILE = re.compile(r" while\(.*condition=%?(?P<condition>[\w.\-]+), body=%?(?P<body>[\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
BOUND = re.compile(r"[su]32\[\]\S* constant\((\d+)\)")
CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
CHANNEL = re.compile(r"channel_id=(\d+)")
GROUPS = re.compile(
    r"replica_groups=(?:\[\d+,(?P<size>\d+)\]|\{\{(?P<first>[\d,]+)\}|mesh\[(?P<axes>[^\]]*)\] ?\{(?P<along>[^}]*)\})"
)
AXIS = re.compile(r"'(\w+)'(?:=(\d+))?")


class Collective(NamedTuple):
    """An exchange among `group` chips: the bytes of its result on one of them, and how often a program does it."""

    kind: str
    size: int
    group: int
    times: int

    @property
    def received(self) -> float:
        """Bytes that reach a chip by links, all times together, if nothing is sent twice."""
        others = (self.group - 1) / self.group
        share = {"all-reduce": 2 * others, "reduce-scatter": self.group - 1, "collective-permute": 1}
        return self.times * self.size * share.get(self.kind, others)


def collectives(text: str, turns: int = 1) -> list[Collective]:
    """Those of a compiled program, whose text this is. A loop that says no number of turns makes `turns` of them.

    An exchange that the compiler overlaps with several pieces of work is printed once for each, under one channel.
    """
    parts, seen, found = _computations(text), set[tuple[str, str]](), []
    times = _times(parts, turns)
    for name, lines in parts.items():
        for line in lines:
            if (match := COLLECTIVE.search(line)) is None:
                continue
            channel = CHANNEL.search(line)
            key = (match["kind"], channel[1] if channel else line)
            if key not in seen:
                seen.add(key)
                found.append(Collective(match["kind"], _size(match), _group(line), times[name]))
    return found


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of every computation, by its name; the one that is run is called ENTRY."""
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith("{"):
            first = line.split(" ", 1)[0].lstrip("%")
            lines = parts.setdefault(first, [])
        else:
            lines.append(line)
    return parts


def _times(parts: Mapping[str, Sequence[str]], turns: int) -> dict[str, int]:
    """How often each computation runs: a loop as often as it says, or at most may."""
    times, waiting = defaultdict[str, int](int, {"ENTRY": 1}), ["ENTRY"]
    while waiting:
        name = waiting.pop()
        for line in parts.get(name, ()):
            for called, trips in _called(line, parts, turns):
                if called in parts and called not in times:
                    times[called] = times[name] * trips
                    waiting.append(called)
    return times


def _called(line: str, parts: Mapping[str, Sequence[str]], turns: int) -> Iterator[tuple[str, int]]:
    loop = WHILE.search(line)
    if loop is not None:
        known = TRIPS.search(line)
        bounds = [int(bound) for inner in parts.get(loop["condition"], ()) for bound in BOUND.findall(inner)]
        yield loop["body"], int(known[1]) if known else max(bounds, default=turns)
        return
    for name in CALLED.findall(line):
        yield name, 1
    for names in BRANCHES.findall(line):
        yield from ((name.strip().lstrip("%"), 1) for name in names.split(","))


def _size(match: re.Match[str]) -> int:
    """Bytes of the results of an exchange."""
    sizes = [
        math.prod(map(int, array["shape"].split(",")), start=int(array["bits"] or 8) // 8)
        for array in ARRAY.finditer(match["result"])
        if array["shape"]
    ]
    if match["start"] and match["kind"] in ("all-gather", "collective-permute"):  # what is given stands first
        sizes = sizes[len(sizes) // 2 :]
    return sum(sizes)


def _group(line: str) -> int:
    """How many chips exchange; 2 where that is not said, as of a permutation."""
    found = GROUPS.search(line)
    if found is None:
        return 2
    if found["axes"] is not None:
        sizes = {name: int(size) for name, size in AXIS.findall(found["axes"])}
        return math.prod(sizes[name] for name, _ in AXIS.findall(found["along"]))
    return int(found["size"]) if found["size"] else len(found["first"].split(","))
