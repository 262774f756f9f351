"""AndroidWorld's JSON actions: `{"action_type": "click", "x": 540, "y": 1200}`.

What counts of a reply is its last JSON object; words may stand before and after it. An element may be named by its
`index` where a point could stand, and never by both. There is no swipe, which goes against its own direction there, and
of the keys only Enter. Source: `android_world/env/json_action.py` of github.com/google-research/android_world.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pe_rlhf_mm.envs.actions import ActionError, Kind, Point, UIAction
from pe_rlhf_mm.envs.dialects.kinds import MAY, POINTING, direction_of, listed, name_of, refuse_unsayable
from pe_rlhf_mm.envs.dialects.literals import last_object, number_of, text_of
from pe_rlhf_mm.envs.dialects.places import Screen, pixel_screen

_PLACE = ("x", "y", "index")
TYPES: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "click": ("click", _PLACE),
    "double_tap": ("double_click", _PLACE),
    "long_press": ("long_press", _PLACE),
    "scroll": ("scroll", ("direction", *_PLACE)),
    "input_text": ("type", ("text", *_PLACE)),
    "keyboard_enter": ("key", ()),
    "open_app": ("open_app", ("app_name",)),
    "navigate_back": ("back", ()),
    "navigate_home": ("home", ()),
    "wait": ("wait", ()),
    "answer": ("answer", ("text",)),
    "status": ("done", ("goal_status",)),
}
"""By action type: the kind, and the fields it may have. A status is also the kind infeasible."""
_TYPE_OF: Mapping[Kind, str] = {kind: name for name, (kind, _) in TYPES.items()} | {"infeasible": "status"}
SAYABLE: tuple[Kind, ...] = tuple(_TYPE_OF)
_MAY = {**MAY, "type": ("text", "point"), "infeasible": ()}
_MARKED: tuple[Kind, ...] = (*POINTING, "scroll", "type")

MOST_ELEMENTS = 10**6

USAGES: Mapping[Kind, str] = {
    "click": '{"action_type": "click", "x": 1, "y": 2}',
    "double_click": '{"action_type": "double_tap", "x": 1, "y": 2}',
    "long_press": '{"action_type": "long_press", "x": 1, "y": 2}',
    "scroll": '{"action_type": "scroll", "direction": "down"}  or "up", "left", "right": where there is more to see',
    "type": '{"action_type": "input_text", "text": "..", "x": 1, "y": 2}',
    "key": '{"action_type": "keyboard_enter"}',
    "open_app": '{"action_type": "open_app", "app_name": ".."}',
    "back": '{"action_type": "navigate_back"}',
    "home": '{"action_type": "navigate_home"}',
    "wait": '{"action_type": "wait"}',
    "answer": '{"action_type": "answer", "text": ".."}',
    "done": '{"action_type": "status", "goal_status": "complete"}  when the goal is reached',
    "infeasible": '{"action_type": "status", "goal_status": "infeasible"}  when it cannot be reached',
}


@dataclass(frozen=True)
class AndroidWorld:
    """Pixels of the screenshot; a pixel means its centre. `kinds`: those `describe` tells of; all are understood."""

    kinds: Sequence[Kind] = SAYABLE

    def describe(self) -> str:
        """The grammar, as a prompt tells it."""
        return (
            f"End your reply with one action, a JSON object:\n{listed(USAGES, self.kinds)}\n"
            "x and y are pixels of the screenshot, from its left and its top edge."
        )

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        """The action of a reply, for a screenshot of `size` (width, height) pixels. Raises ActionError."""
        given = {name: value for name, value in last_object(reply).items() if value is not None}
        name = text_of(given, "action_type")
        if name not in TYPES:
            raise ActionError(f"there is no action_type {name[:40]!r}; there are {', '.join(TYPES)}")
        kind, fields = TYPES[name]
        unknown = sorted(given.keys() - {"action_type", *fields})
        if unknown:
            raise ActionError(f"{name} has no field {unknown[0][:40]!r}; it has {', '.join(fields) or 'none'}")
        point, element = _place(given, pixel_screen(size))
        if kind in POINTING and point is None and not element:
            raise ActionError(f'{name} needs a place: "x" and "y"')
        if kind == "done":
            kind = _status(text_of(given, "goal_status"))
        return UIAction(
            kind,
            point=point,
            element=element,
            text=_text(kind, given),
            direction=direction_of(text_of(given, "direction")) if kind == "scroll" else "",
        )

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        """The object that means an action; by its mark where it has no point. Raises ActionError for what has none."""
        refuse_unsayable(action, kinds=SAYABLE, may=_MAY, marks=_MARKED)
        kind = action.kind
        said: dict[str, Any] = {"action_type": _TYPE_OF[kind]}
        if kind == "key" and action.text != "Enter":
            raise ActionError(f"this dialect has the key Enter only, not {action.text[:40]!r}")
        if kind in ("type", "answer"):
            said["text"] = action.text
        if kind == "open_app":
            said["app_name"] = action.text
        if kind == "scroll":
            said["direction"] = action.direction
        if kind in ("done", "infeasible"):
            said["goal_status"] = "complete" if kind == "done" else "infeasible"
        if action.point is not None:
            said["x"], said["y"] = pixel_screen(size).numbers(action.point)
        elif action.element:
            said["index"] = _index(action.element)
        return json.dumps(said, ensure_ascii=False)


def _place(given: Mapping[str, Any], screen: Screen) -> tuple[Point | None, str]:
    """The point, or the mark of an element, or neither."""
    if "index" in given:
        index = number_of(given, "index")
        if "x" in given or "y" in given or not (0 <= index < MOST_ELEMENTS and index.is_integer()):
            raise ActionError('an element is named by "index", a whole number from 0 on, and then without "x" and "y"')
        return None, str(int(index))
    if "x" in given or "y" in given:
        return screen.point(number_of(given, "x"), number_of(given, "y")), ""
    return None, ""


def _index(element: str) -> int:
    if not (element.isascii() and element.isdigit() and len(element) < len(str(MOST_ELEMENTS))):
        raise ActionError(f"this dialect names elements by whole numbers, not {element[:20]!r}")
    return int(element)


def _status(word: str) -> Kind:
    if word == "complete":
        return "done"
    if word == "infeasible":
        return "infeasible"
    raise ActionError(f'goal_status is "complete" or "infeasible", not {word[:20]!r}')


def _text(kind: Kind, given: Mapping[str, Any]) -> str:
    if kind == "key":
        return "Enter"
    if kind == "open_app":
        return name_of(text_of(given, "app_name"), "an app")
    return text_of(given, "text") if kind in ("type", "answer") else ""


CODEC = AndroidWorld()
