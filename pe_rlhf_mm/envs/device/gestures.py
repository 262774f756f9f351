"""What an action is on a touch screen: commands for the device's shell."""

from __future__ import annotations

import string
from collections.abc import Mapping

from pe_rlhf_mm.envs.actions import ActionError, Point, UIAction
from pe_rlhf_mm.envs.device.adb import Command
from pe_rlhf_mm.envs.device.keyboard import Keyboard, input_text

Size = tuple[int, int]
"""Width and height of a screenshot, in pixels."""

LONG_PRESS, DRAG, SCROLL = "1000", "1000", "500"
"""Milliseconds that the finger stays on the screen; what is dragged slowly is not flung."""
REACH = 0.2
"""How far a scrolling finger moves to either side of its point, as a share of the screen."""
MARGIN = 0.1
"""As a share of the screen, what a scroll leaves free at the edges: the gestures of the system begin there."""
FOCUS = ("sleep", "1")
"""A text field takes this long from a tap until it can be typed into."""
FINGER = {"up": (0, 1), "down": (0, -1), "left": (1, 0), "right": (-1, 0)}
"""Where the finger goes so that more is seen of what lies in a direction."""
NAMED_KEYS = {
    "enter": "ENTER",
    "tab": "TAB",
    "escape": "ESCAPE",
    "space": "SPACE",
    "backspace": "DEL",
    "delete": "FORWARD_DEL",
    "arrowup": "DPAD_UP",
    "arrowdown": "DPAD_DOWN",
    "arrowleft": "DPAD_LEFT",
    "arrowright": "DPAD_RIGHT",
    "pageup": "PAGE_UP",
    "pagedown": "PAGE_DOWN",
    "home": "MOVE_HOME",
    "end": "MOVE_END",
    "menu": "MENU",
    "search": "SEARCH",
    "recents": "APP_SWITCH",
}
"""Android's names of keys; those that lock a device or switch it off are left out."""
KEYS = NAMED_KEYS | {character: character.upper() for character in string.ascii_lowercase + string.digits}


def commands(
    action: UIAction, size: Size, *, apps: Mapping[str, str], keyboard: Keyboard = input_text
) -> list[Command]:
    """What the device is to run. `apps`: the package, or "package/activity", of each app by its name.

    Raises ActionError for an action that does not say enough, and for one that is none of a touch screen.
    """
    if action.element and action.point is None:
        raise ActionError("elements have no marks here: say where by coordinates")
    point = action.point
    match action.kind:
        case "click":
            given = [_tap(point, size)]
        case "double_click":
            given = [_tap(point, size)] * 2
        case "long_press":
            given = [_swipe(point, point, size, LONG_PRESS)]
        case "drag":
            given = [_swipe(point, action.to, size, DRAG)]
        case "scroll":
            given = [_scroll(action, size)]
        case "type":
            given = [*([_tap(point, size), FOCUS] if point else []), *keyboard(action.text)]
        case "key":
            given = [_key(action.text)]
        case "back" | "home":
            given = [("input", "keyevent", f"KEYCODE_{action.kind.upper()}")]
        case "open_app":
            given = [_open(action.text, apps)]
        case "wait":
            given = []
        case _:
            raise ActionError(f"{action.kind!r} is no action of a touch screen")
    return given


def _pixel(point: Point | None, size: Size) -> tuple[str, str]:
    """The pixel at a point, as `input` takes it."""
    if point is None:
        raise ActionError("the action does not say where")
    (x, y), (width, height) = point, size
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ActionError(f"the point ({x:g}, {y:g}) is outside the screen, whose sides are 1")
    return str(min(int(x * width), width - 1)), str(min(int(y * height), height - 1))


def _tap(point: Point | None, size: Size) -> Command:
    return ("input", "tap", *_pixel(point, size))


def _swipe(start: Point | None, end: Point | None, size: Size, milliseconds: str) -> Command:
    return ("input", "swipe", *_pixel(start, size), *_pixel(end, size), milliseconds)


def _scroll(action: UIAction, size: Size) -> Command:
    if not action.direction:
        raise ActionError("the scroll has no direction: up, down, left or right")
    point = action.point or (0.5, 0.5)
    _pixel(point, size)  # which is inside the screen, whatever becomes of the finger's way
    x, y = FINGER[action.direction]

    def on_its_way(side: int) -> Point:
        return _kept_inside(point[0] + side * REACH * x), _kept_inside(point[1] + side * REACH * y)

    return _swipe(on_its_way(-1), on_its_way(1), size, SCROLL)


def _kept_inside(fraction: float) -> float:
    return min(max(fraction, MARGIN), 1 - MARGIN)


def _key(name: str) -> Command:
    code = KEYS.get(name.strip().lower().replace("_", ""))
    if code is None:
        raise ActionError(f"there is no key {name[:80]!r}; there are {', '.join(NAMED_KEYS)}, letters and digits")
    return ("input", "keyevent", f"KEYCODE_{code}")


def _open(name: str, apps: Mapping[str, str]) -> Command:
    packages = {known.lower(): package for known, package in apps.items()}
    package = packages.get(name.strip().lower())
    if package is None:
        raise ActionError(f"there is no app {name[:80]!r}; there are {', '.join(apps) or 'none to be opened by name'}")
    if "/" in package:
        return ("am", "start", "-n", package)
    return ("monkey", "-p", package, "-c", "android.intent.category.LAUNCHER", "1")
