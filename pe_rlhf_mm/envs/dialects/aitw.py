"""The actions of Android in the Wild as JSON: `{"action_type": "DUAL_POINT", "touch_point": [y, x], ..}`.

A finger touches the screen at one point and leaves it at another, in fractions of the screen, y first: a tap if both
are within 0.04, a drag otherwise. A scroll is a drag there, and there is no time: no long press, no double click. The
names of types are those of `android_in_the_wild/action_type.py` of github.com/google-research/google-research. What
counts of a reply is its last JSON object; words may stand before and after it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pe_rlhf_mm.envs.actions import ActionError, Kind, Point, UIAction
from pe_rlhf_mm.envs.dialects.kinds import MAY, listed, refuse_unsayable
from pe_rlhf_mm.envs.dialects.literals import last_object, number_of, text_of
from pe_rlhf_mm.envs.dialects.places import unit_screen
from pe_rlhf_mm.envs.matching import TAP

GESTURE = "DUAL_POINT"
TYPES: Mapping[str, Kind] = {
    "TYPE": "type",
    "PRESS_BACK": "back",
    "PRESS_HOME": "home",
    "PRESS_ENTER": "key",
    "STATUS_TASK_COMPLETE": "done",
    "STATUS_TASK_IMPOSSIBLE": "infeasible",
}
"""The types that are no gesture."""
_TYPE_OF: Mapping[Kind, str] = {kind: name for name, kind in TYPES.items()} | {"click": GESTURE, "drag": GESTURE}
SAYABLE: tuple[Kind, ...] = tuple(_TYPE_OF)
_MAY = {**MAY, "infeasible": ()}
_FIELDS = ("touch_point", "lift_point", "typed_text")

USAGES: Mapping[Kind, str] = {
    "click": '{"action_type": "DUAL_POINT", "touch_point": [y, x], "lift_point": [y, x]}  a tap where both are one',
    "drag": '{"action_type": "DUAL_POINT", "touch_point": [y, x], "lift_point": [y, x]}  a tap where both are one',
    "type": '{"action_type": "TYPE", "typed_text": ".."}',
    "back": '{"action_type": "PRESS_BACK"}',
    "home": '{"action_type": "PRESS_HOME"}',
    "key": '{"action_type": "PRESS_ENTER"}',
    "done": '{"action_type": "STATUS_TASK_COMPLETE"}  when the goal is reached',
    "infeasible": '{"action_type": "STATUS_TASK_IMPOSSIBLE"}  when it cannot be reached',
}
SCREEN = unit_screen(1, decimals=4)
"""Four decimals: less than half a pixel on any screen up to 10,000 pixels."""


@dataclass(frozen=True)
class AitW:
    """Fractions of the screenshot, of four decimals. `kinds`: those `describe` tells of; all are understood."""

    kinds: Sequence[Kind] = SAYABLE

    def describe(self) -> str:
        """The grammar, as a prompt tells it."""
        return (
            f"End your reply with one action, a JSON object:\n{listed(USAGES, self.kinds)}\n"
            "y and x go from 0 at the top and left edge to 1 at the bottom and right edge."
        )

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        """The action of a reply; the size of the screenshot does not matter. Raises ActionError.

        Fields that a type does not use are not read: in the data they are filled with -1.
        """
        given = last_object(reply)
        name = text_of(given, "action_type")
        unknown = sorted(given.keys() - {"action_type", *_FIELDS})
        if unknown:
            raise ActionError(f"an action has no field {unknown[0][:40]!r}; it has action_type, {', '.join(_FIELDS)}")
        if name == GESTURE:
            touch, lift = _point(given, "touch_point"), _point(given, "lift_point")
            tap = math.dist(touch, lift) <= TAP
            return UIAction("click", point=touch) if tap else UIAction("drag", point=touch, to=lift)
        if name not in TYPES:
            raise ActionError(f"there is no action_type {name[:40]!r}; there are {', '.join((GESTURE, *TYPES))}")
        kind = TYPES[name]
        if kind == "type":
            return UIAction(kind, text=text_of(given, "typed_text", ""))
        return UIAction(kind, text="Enter" if kind == "key" else "")

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        """The object that means an action. Raises ActionError for one that there is none for."""
        refuse_unsayable(action, kinds=SAYABLE, may=_MAY)
        said: dict[str, Any] = {"action_type": _TYPE_OF[action.kind]}
        if action.kind == "key" and action.text != "Enter":
            raise ActionError(f"this dialect has the key Enter only, not {action.text[:40]!r}")
        if action.kind == "type":
            said["typed_text"] = action.text
        if action.point is not None:
            touch = SCREEN.numbers(action.point)
            lift = touch if action.to is None else SCREEN.numbers(action.to)
            if action.kind == "drag" and math.dist(touch, lift) <= TAP:
                raise ActionError(f"a drag of {TAP} of the screen or less is a tap in this dialect; drag further")
            said |= {"touch_point": touch[::-1], "lift_point": lift[::-1]}
        return json.dumps(said, ensure_ascii=False)


def _point(given: Mapping[str, Any], name: str) -> Point:
    pair = given.get(name)
    if not isinstance(pair, list) or len(pair) != 2:
        raise ActionError(f"{name} must be [y, x], two numbers from 0 to 1")
    y, x = (number_of({name: number}, name) for number in pair)
    return SCREEN.point(x, y)


CODEC = AitW()
