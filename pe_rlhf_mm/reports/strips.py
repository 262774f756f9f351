"""Episodes as strips: a screen for every turn, with what was said to it and where it pointed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pe_rlhf_mm.reports.pictures import Album, Screen
from pe_rlhf_mm.reports.records import Record, at, number, point, text
from pe_rlhf_mm.reports.wording import decimal

FIRST, LAST = 8, 4
"""The turns of a long episode that are shown."""
LONGEST_REPLY = 120
ENDINGS = {
    "terminated": "ended by the task",
    "out_of_steps": "ended: the environment allows no more replies",
    "out_of_turns": "cut off: out of turns",
    "out_of_context": "cut off: longer than the model's context",
    "lost": "lost, and not counted",
}


class Turn(NamedTuple):
    """What was seen and what was said to it. `number` counts from 1; `reply` None: nothing was said any more."""

    number: int
    screen: Screen | None
    text: str
    reply: str | None
    point: tuple[float, float] | None
    to: tuple[float, float] | None
    error: str
    reward: str


class Strip(NamedTuple):
    """An episode of one policy. `left_out` turns are missing between `turns` and `last`."""

    policy: str
    right: bool | None
    reward: str
    replies: int
    ending: str
    why: str
    turns: list[Turn]
    left_out: int
    last: list[Turn]


def was_played(samples: Sequence[Record]) -> bool:
    """Whether samples are episodes."""
    return any(at(sample, "episodes") is not None for sample in samples)


def strip(album: Album, sample: Record, policy: str, label: str, right: bool | None) -> Strip:
    """A policy's episode; without turns if the record holds none."""
    found = at(sample, "episodes", policy, "steps")
    steps = found if isinstance(found, list) else []
    cut = len(steps) > FIRST + LAST
    shown = [*range(FIRST), *range(len(steps) - LAST, len(steps))] if cut else list(range(len(steps)))
    turns = [_turn(album, steps[i], i + 1) for i in shown]
    return Strip(
        policy=label,
        right=right,
        reward=decimal(sum(number(step, "reward") or 0.0 for step in steps)),
        replies=sum(at(step, "reply") is not None for step in steps),
        ending=ENDINGS.get(text(sample, "episodes", policy, "end"), ""),
        why=text(sample, "episodes", policy, "why"),
        turns=turns[:FIRST] if cut else turns,
        left_out=len(steps) - len(shown),
        last=turns[FIRST:] if cut else [],
    )


def _turn(album: Album, step: object, count: int) -> Turn:
    return Turn(
        number=count,
        screen=album.add(at(step, "image")),
        text=text(step, "text", longest=LONGEST_REPLY),
        reply=None if at(step, "reply") is None else text(step, "reply", longest=LONGEST_REPLY),
        point=point(step, "point"),
        to=point(step, "to"),
        error=text(step, "error", longest=LONGEST_REPLY),
        reward=decimal(number(step, "reward")) if number(step, "reward") else "",
    )
