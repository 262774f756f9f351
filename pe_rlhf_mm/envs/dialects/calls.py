"""The grammar of the dialects that write `click(x, y)`, whatever x and y count.

What counts of a reply is its last line that is a call (see `literals.last_call`); words may stand before and after it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pe_rlhf_mm.envs.actions import ActionError, Kind, UIAction
from pe_rlhf_mm.envs.dialects.kinds import KINDS, POINTING, direction_of, listed, name_of, refuse_unsayable
from pe_rlhf_mm.envs.dialects.literals import Call, last_call, number_of, quoted, text_of
from pe_rlhf_mm.envs.dialects.places import Screen

USAGES: Mapping[Kind, str] = {
    "click": "click(x, y)",
    "double_click": "double_click(x, y)",
    "long_press": "long_press(x, y)",
    "drag": "drag(x1, y1, x2, y2)",
    "scroll": 'scroll("down")  or "up", "left", "right": where there is more to see',
    "type": 'type("text")',
    "key": 'key("Enter")',
    "open_app": 'open_app("name")',
    "back": "back()",
    "home": "home()",
    "wait": "wait()",
    "answer": 'answer("text")',
    "done": "done()  when the goal is reached",
    "infeasible": 'infeasible("why")  when it cannot be reached',
}
PARAMETERS: Mapping[Kind, tuple[tuple[str, ...], int]] = {
    **dict.fromkeys(POINTING, (("x", "y"), 2)),
    "drag": (("x1", "y1", "x2", "y2"), 4),
    "scroll": (("direction", "x", "y"), 1),
    **dict.fromkeys(("type", "key", "open_app", "answer"), (("text",), 1)),
    "infeasible": (("text",), 0),
}
"""Of each kind that takes any, the parameters, and how many of them it needs."""


def describe(kinds: Collection[Kind], coordinates: str) -> str:
    """The grammar for a prompt; `coordinates` says what x and y count."""
    return f"End your reply with one action, on a line of its own:\n{listed(USAGES, kinds)}\n{coordinates}"


def parse(reply: str, screen: Screen) -> UIAction:
    """The action of a reply. A box, `click(left, top, right, bottom)`, is clicked in its middle. Raises ActionError."""
    call = last_call(reply).flat()
    kind = next((kind for kind in KINDS if kind == call.name), None)
    if kind is None:
        raise ActionError(f"there is no action {call.name[:40]!r}; there are {', '.join(KINDS)}")
    if kind in POINTING and len(call.values) == 4:
        return UIAction(kind, point=_middle(call, screen))
    given = call.bind(*PARAMETERS.get(kind, ((), 0)))
    if kind == "drag":
        x1, y1, x2, y2 = (number_of(given, name) for name in PARAMETERS[kind][0])
        return UIAction(kind, point=screen.point(x1, y1), to=screen.point(x2, y2))
    text = text_of(given, "text", "")
    return UIAction(
        kind,
        point=screen.point(number_of(given, "x"), number_of(given, "y")) if given.keys() & {"x", "y"} else None,
        text=name_of(text, kind) if kind in ("key", "open_app") else text,
        direction=direction_of(text_of(given, "direction")) if kind == "scroll" else "",
    )


def _middle(call: Call, screen: Screen) -> tuple[float, float]:
    box = call.bind(("left", "top", "right", "bottom"), 4)
    return screen.centre(*(number_of(box, edge) for edge in ("left", "top", "right", "bottom")))


def render(action: UIAction, screen: Screen) -> str:
    """The call that means an action. Raises ActionError for one that is incomplete, or says more than a call can."""
    refuse_unsayable(action)
    arguments = [quoted(action.direction)] if action.direction else []
    for point in (action.point, action.to):
        arguments += map(str, screen.numbers(point)) if point is not None else ()
    if action.text or action.kind in ("type", "answer"):
        arguments.append(quoted(action.text))
    return f"{action.kind}({', '.join(arguments)})"
