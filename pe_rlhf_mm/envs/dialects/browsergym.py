"""BrowserGym's action strings: `mouse_click(120, 45)`, `click('a51')`, `keyboard_type('hello')`.

Of its calls those that have a kind here: no hovering, no tabs, and the left button only. A call may follow words, as in
`calls`. Source: `browsergym/core/action/functions.py` of github.com/ServiceNow/BrowserGym.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pe_rlhf_mm.envs.actions import ActionError, Direction, Kind, UIAction
from pe_rlhf_mm.envs.dialects.kinds import MAY, direction_of, listed, name_of, refuse_unsayable
from pe_rlhf_mm.envs.dialects.literals import Value, last_call, number_of, quoted, text_of
from pe_rlhf_mm.envs.dialects.places import Screen, pixel_screen
from pe_rlhf_mm.errors import OutOfRange

USAGES: Mapping[Kind, str] = {
    "click": "mouse_click(x, y)",
    "double_click": "mouse_dblclick(x, y)",
    "drag": "mouse_drag_and_drop(from_x, from_y, to_x, to_y)",
    "scroll": "scroll(delta_x, delta_y)  in pixels, positive for right and down",
    "type": "keyboard_type('text')",
    "key": "keyboard_press('Enter')",
    "back": "go_back()",
    "wait": "noop()",
    "answer": "send_msg_to_user('text')",
    "infeasible": "report_infeasible('why')",
}
SAYABLE: tuple[Kind, ...] = tuple(USAGES)

_BUTTON = ("button", "modifiers")
CALLS: Mapping[str, tuple[Kind, tuple[str, ...], int]] = {
    "click": ("click", ("bid", *_BUTTON), 1),
    "dblclick": ("double_click", ("bid", *_BUTTON), 1),
    "fill": ("type", ("bid", "value"), 2),
    "press": ("key", ("bid", "key_comb"), 2),
    "mouse_click": ("click", ("x", "y", "button"), 2),
    "mouse_dblclick": ("double_click", ("x", "y", "button"), 2),
    "mouse_drag_and_drop": ("drag", ("from_x", "from_y", "to_x", "to_y"), 4),
    "scroll": ("scroll", ("delta_x", "delta_y"), 2),
    "keyboard_type": ("type", ("text",), 1),
    "keyboard_insert_text": ("type", ("text",), 1),
    "keyboard_press": ("key", ("key",), 1),
    "go_back": ("back", (), 0),
    "noop": ("wait", ("wait_ms",), 0),
    "send_msg_to_user": ("answer", ("text",), 1),
    "report_infeasible": ("infeasible", ("reason",), 1),
}
"""By name: the kind, the parameters, and how many of them are needed."""
_TEXTS = ("text", "value", "key", "key_comb", "reason")
_OF_MARKS: Mapping[Kind, str] = {"click": "click", "double_click": "dblclick", "type": "fill", "key": "press"}
_MAY = {**MAY, "scroll": ()}


@dataclass(frozen=True)
class BrowserGym:
    """Pixels of the page as CSS counts them, which are `scale` pixels of the screenshot each (the device scale factor).

    A number names the pixel of the screenshot that it lies in, and means its centre. `kinds`: those that `describe`
    tells of; all are understood. Raises OutOfRange for a scale that is no positive number.
    """

    scale: float = 1.0
    kinds: Sequence[Kind] = SAYABLE

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise OutOfRange(f"scale is {self.scale!r}; expected pixels of the screenshot per pixel of the page")

    def describe(self) -> str:
        """The grammar, as a prompt tells it."""
        return (
            f"End your reply with one action, on a line of its own:\n{listed(USAGES, self.kinds)}\n"
            "x and y are pixels of the page, from its left and its top edge."
        )

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        """The action of a reply, for a screenshot of `size` (width, height) pixels. Raises ActionError.

        `fill` is typing into an element: whether what it held is replaced is up to the environment.
        """
        call = last_call(reply)
        if call.name not in CALLS:
            raise ActionError(f"there is no action {call.name[:40]!r}; there are {', '.join(CALLS)}")
        kind, parameters, required = CALLS[call.name]
        given = call.bind(parameters, required)
        if given.get("button", "left") != "left" or given.get("modifiers", ()) != ():
            raise ActionError(f"{call.name} is done with the left button here, and without modifiers")
        if "wait_ms" in given:
            number_of(given, "wait_ms")
        return self._action(kind, given, pixel_screen(size, self.scale))

    def _action(self, kind: Kind, given: Mapping[str, Value], screen: Screen) -> UIAction:
        if kind == "drag":
            x1, y1, x2, y2 = (number_of(given, name) for name in CALLS["mouse_drag_and_drop"][1])
            return UIAction(kind, point=screen.point(x1, y1), to=screen.point(x2, y2))
        if kind == "scroll":
            return UIAction(kind, direction=_direction(number_of(given, "delta_x"), number_of(given, "delta_y")))
        text = next((text_of(given, name) for name in _TEXTS if name in given), "")
        return UIAction(
            kind,
            point=screen.point(number_of(given, "x"), number_of(given, "y")) if "x" in given else None,
            text=name_of(text, "a key") if kind == "key" else text,
            element=name_of(text_of(given, "bid"), "an element") if "bid" in given else "",
        )

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        """The call that means an action; by its mark where it has no point. Raises ActionError for what has no call."""
        refuse_unsayable(action, kinds=SAYABLE, may=_MAY, marks=tuple(_OF_MARKS))
        screen, kind = pixel_screen(size, self.scale), action.kind
        texts = [quoted(action.text)] if kind in ("type", "key", "answer", "infeasible") else []
        if action.element and action.point is None:
            return f"{_OF_MARKS[kind]}({', '.join([quoted(action.element), *texts])})"
        name = USAGES[kind].partition("(")[0]
        if kind == "scroll":
            return f"{name}({_deltas(action.direction, size, self.scale)})"
        points = [point for point in (action.point, action.to) if point is not None]
        numbers = [str(number) for point in points for number in screen.numbers(point)]
        return f"{name}({', '.join([*numbers, *texts])})"


def _direction(across: float, down: float) -> Direction:
    """Where the greater of two distances leads; down or up for a tie."""
    if not (math.isfinite(across) and math.isfinite(down) and (across or down)):
        raise ActionError(f"scroll({across:g}, {down:g}) goes nowhere; write pixels, such as scroll(0, 200)")
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"


def _deltas(direction: str, size: tuple[int, int], scale: float) -> str:
    """Half a screen that way."""
    width, height = (max(1, round(side / scale / 2)) for side in size)
    across = {"left": -width, "right": width}.get(direction_of(direction), 0)
    down = {"up": -height, "down": height}.get(direction_of(direction), 0)
    return f"{across}, {down}"


CODEC = BrowserGym()
