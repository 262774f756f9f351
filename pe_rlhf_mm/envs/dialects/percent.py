"""Our own dialect, for small models: `click 50 20`, in whole percent of the screen.

It is strict: the whole reply is the action, and nothing may stand around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pe_rlhf_mm.envs.actions import ActionError, Kind, Point, UIAction
from pe_rlhf_mm.envs.dialects.kinds import KINDS, POINTING, direction_of, listed, refuse_unsayable
from pe_rlhf_mm.envs.dialects.literals import short, typable
from pe_rlhf_mm.envs.dialects.places import unit_screen

USAGES: Mapping[Kind, str] = {
    "click": "click X Y",
    "double_click": "double_click X Y",
    "long_press": "long_press X Y",
    "drag": "drag X Y X Y",
    "scroll": "scroll down",
    "type": "type TEXT",
    "key": "key Enter",
    "open_app": "open_app NAME",
    "back": "back",
    "home": "home",
    "wait": "wait",
    "answer": "answer TEXT",
    "done": "done",
    "infeasible": "infeasible",
}
SCREEN = unit_screen(100)
_NUMBER = re.compile("[0-9]{1,3}")


@dataclass(frozen=True)
class Percent:
    """Words parted by a space: the kind, then a direction, numbers from 0 to 100, or a text up to the line's end.

    `kinds`: those that `describe` tells of; all are understood.
    """

    kinds: Sequence[Kind] = KINDS

    def describe(self) -> str:
        """The grammar, as a prompt tells it: short, since a small model reads it before every episode."""
        return f"Reply with one action:\n{listed(USAGES, self.kinds)}\nX and Y are percent of the screen."

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        """The action that a reply is; the size of the screenshot does not matter. Raises ActionError."""
        said = short(reply).strip()
        word, _, rest = said.partition(" ")
        kind = next((kind for kind in KINDS if kind == word), None)
        if kind is None or "\n" in said:
            raise ActionError(f"{said[:20]!r} is no action; write only: click 50 20")
        if kind in ("type", "key", "open_app", "answer"):
            return UIAction(kind, text=_text(rest, kind))
        if kind == "infeasible":
            return UIAction(kind, text=typable(rest.strip()))
        words = rest.split()
        direction = direction_of(words.pop(0) if words else "") if kind == "scroll" else ""
        point, to = _points(words, kind)
        return UIAction(kind, point=point, to=to, direction=direction)

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        """The line that means an action. Raises ActionError for one that cannot be said, a text of two lines too."""
        refuse_unsayable(action)
        words: list[str] = [action.kind]
        words += [action.direction] if action.direction else []
        for point in (action.point, action.to):
            words += map(str, SCREEN.numbers(point)) if point is not None else ()
        if action.text or action.kind in ("type", "answer"):
            if "\n" in action.text or action.text != _text(action.text, action.kind):
                raise ActionError(f"this dialect cannot say {action.text[:40]!r}: it parts lines and trims spaces")
            words.append(action.text)
        return " ".join(words)


def _text(rest: str, kind: Kind) -> str:
    text = typable(rest.strip())
    if not text:
        raise ActionError(f"{kind} needs a text: {USAGES[kind]}")
    return text


def _points(words: Sequence[str], kind: Kind) -> tuple[Point | None, Point | None]:
    """The two points that numbers name, as many of them as the kind takes; a scroll may have one."""
    takes = {"drag": (4,), "scroll": (0, 2), **dict.fromkeys(POINTING, (2,))}.get(kind, (0,))
    if len(words) not in takes:
        raise ActionError(f"numbers after {kind}: {len(words)}; write: {USAGES[kind]}")
    wrong = [word for word in words if not _NUMBER.fullmatch(word)]
    if wrong:
        raise ActionError(f"{wrong[0][:20]!r} is no whole number 0 to 100; write: {USAGES[kind]}")
    numbers = [float(word) for word in words]
    points = [SCREEN.point(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    return points[0] if points else None, points[1] if len(points) == 2 else None


CODEC = Percent()
