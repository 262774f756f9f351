"""An oracle plays a problem: what a policy would have seen at every turn, what was right there, and what was said."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pe_rlhf_mm.envs.actions import ActionError, Point, UIAction
from pe_rlhf_mm.envs.web.environment import WebEnv
from pe_rlhf_mm.envs.web.replay import Lost
from pe_rlhf_mm.tasks.miniwob.oracles import oracle_of
from pe_rlhf_mm.types import Message, Outcome, Sample, Step, Text

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as fractions of the screen."""


class Right(NamedTuple):
    """An action that is right, and points that are as good as its own."""

    action: UIAction
    points: Sequence[Point]


class Look(NamedTuple):
    """A page as it is. `right`: what is right now, the oracle's choice first; `boxes`: of the elements to be clicked.

    `others`: points of each other element that can be clicked; `ground`: points at which there is none. All these
    points were hit-tested, and a dialect may round them.
    """

    right: Sequence[Right]
    boxes: Sequence[Box]
    others: Sequence[Sequence[Point]]
    ground: Sequence[Point]


class Turn(NamedTuple):
    """One reply of the oracle, and the conversation that it answers."""

    conversation: tuple[Message, ...]
    look: Look
    reply: str

    @property
    def action(self) -> UIAction:
        return self.look.right[0].action


class Played(NamedTuple):
    """An episode that the oracle won."""

    outcome: Outcome
    turns: Sequence[Turn]

    @property
    def words(self) -> list[str]:
        """Of the goal."""
        parts = [part for message in self.outcome.steps[0].observation for part in message.parts]
        return re.findall(r"\w+", " ".join(part.text for part in parts if isinstance(part, Text)))


def play(environment: WebEnv, sample: Sample) -> Played | None:
    """Plays a sample in an environment that is then free again; None where the oracle does not win.

    That is so if there is no oracle for the page, if what is right cannot be seen without scrolling, or cannot be said
    in the environment's dialect.
    """
    page = PurePosixPath(sample.metadata["page"]).stem
    if oracle_of(page) is None:
        return None
    conversation = list(sample.messages)
    steps: list[Step] = [environment.reset(sample, seed=0)]
    turns: list[Turn] = []
    while not (steps[-1].terminated or steps[-1].truncated):
        conversation += steps[-1].observation
        try:
            seen = look(environment, page)
            reply = _said(seen, environment)
        except (Lost, ActionError):
            return None
        turns.append(Turn(tuple(conversation), seen, reply))
        steps.append(environment.step(reply))
        conversation.append(Message("assistant", reply))
    if not steps[-1].terminated or steps[-1].reward <= 0:
        return None
    return Played(Outcome(sample, [turn.reply for turn in turns], steps), turns)


def look(environment: WebEnv, page: str) -> Look:
    """What the oracle of a page says of an environment that shows it."""
    found: Mapping[str, Any] = environment.evaluate(_script(page))
    return Look(
        [_right(action) for action in found["right"]],
        [(left, top, right, bottom) for left, top, right, bottom in found["boxes"]],
        [_points(points) for points in found["others"]],
        _points(found["ground"]),
    )


def _said(seen: Look, environment: WebEnv) -> str:
    if not seen.right:
        raise ActionError("nothing that can be seen is right")
    return environment.codec.render(seen.right[0].action, environment.size)


@functools.cache
def _script(page: str) -> str:
    ours = files("pe_rlhf_mm.tasks.miniwob")
    functions = [ours.joinpath(name).read_text(encoding="utf-8") for name in ("looking.js", "steps.js")]
    return "() => {\n" + "\n".join(functions) + f"\nreturn look({oracle_of(page)});\n}}"


def _right(told: Mapping[str, Any]) -> Right:
    points = _points(told["points"])
    return Right(UIAction(told["kind"], points[0] if points else None, text=told.get("text", "")), points)


def _points(told: Sequence[Sequence[float]]) -> list[Point]:
    return [(x, y) for x, y in told]
