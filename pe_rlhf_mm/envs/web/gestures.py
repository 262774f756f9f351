"""How an action is carried out with the mouse and the keyboard of a page."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from pe_rlhf_mm.envs.actions import ActionError, Point, UIAction

if TYPE_CHECKING:
    from playwright.async_api import Page

AREA = (160, 210)
"""Width and height of MiniWoB's task area in the page's pixels, from the left top corner of the page."""

PARKED = (499, 319)
"""Where the mouse waits outside the task area, so that nothing is drawn as hovered."""

MIDDLE = (0.5, 0.6)
"""Where a scroll without a point takes place: below the instruction."""

LONGEST_TEXT = 200
"""Characters typed at once: each is a key pressed and let go."""

NOTCH = 100
"""Pixels that a scroll moves: one notch of a mouse wheel."""

MOVING = frozenset("Home End ArrowUp ArrowDown ArrowLeft ArrowRight".split())
SIMPLE = MOVING | frozenset("Enter Tab Backspace Delete Escape Space PageUp PageDown".split())
"""Keys that may be pressed alone and with Shift, as may letters and digits."""
WITH_CONTROL = MOVING | frozenset("acvxyz") | {"Enter", "Backspace", "Delete"}
"""Keys that may be pressed with Control; others open windows, change tabs or print."""

WHEEL = {"up": (0, -NOTCH), "down": (0, NOTCH), "left": (-NOTCH, 0), "right": (NOTCH, 0)}


def check(action: UIAction) -> None:
    """Raises ActionError for what cannot be done to a page, before anything is done to it."""
    for point in (action.point, action.to):
        if point is not None and not all(0 <= part <= 1 for part in point):
            raise ActionError(f"the point {point} lies outside the screen; expected fractions from 0 to 1")
    if action.kind in ("click", "double_click", "drag") and action.point is None:
        raise ActionError(f"{action.kind} needs a point of the screen")
    if action.kind == "drag" and action.to is None:
        raise ActionError("drag needs a point to drag to")
    if action.kind == "scroll" and action.direction not in WHEEL:
        raise ActionError(f"scroll needs a direction; expected {', '.join(WHEEL)}")
    if action.kind == "type" and not 0 < len(action.text) <= LONGEST_TEXT:
        raise ActionError(f"{len(action.text)} characters cannot be typed at once; expected 1 to {LONGEST_TEXT}")
    if action.kind == "key":
        combination(action.text)
    if action.kind not in ("click", "double_click", "drag", "scroll", "type", "key", "wait"):
        raise ActionError(f"a web page has no {action.kind}; the task ends by itself when it is done")


def combination(name: str) -> str:
    """The keys "Control+a" as Playwright names them; Command does on a Mac what Control does elsewhere.

    Raises ActionError for all but letters, digits, and the keys that edit, choose and move.
    """
    *held, key = name.split("+")
    allowed = WITH_CONTROL if "Control" in held else SIMPLE | set(string.ascii_letters + string.digits)
    if key not in allowed or sorted(held) not in ([], ["Control"], ["Shift"], ["Control", "Shift"]):
        raise ActionError(
            f"no key is called {name[:40]!r}; expected a letter, a digit, {', '.join(sorted(SIMPLE))}, "
            f"these with Shift+, or Control+ and one of {', '.join(sorted(WITH_CONTROL))}"
        )
    return "+".join([*("ControlOrMeta" if each == "Control" else each for each in held), key])


async def perform(page: Page, action: UIAction) -> None:
    """Does to a page what an action says that `check` has let pass; a text with a point is typed where that is."""
    x, y = _pixels(action.point or MIDDLE)
    if action.kind == "click" or (action.kind == "type" and action.point is not None):
        await page.mouse.click(x, y)
    if action.kind == "double_click":
        await page.mouse.dblclick(x, y)
    elif action.kind == "drag" and action.to is not None:
        await page.mouse.move(x, y)
        await page.mouse.down()
        await page.mouse.move(*_pixels(action.to), steps=4)
        await page.mouse.up()
    elif action.kind == "scroll":
        await page.mouse.move(x, y)
        await page.mouse.wheel(*WHEEL[action.direction])
    elif action.kind == "type":
        await page.keyboard.type(action.text)
    elif action.kind == "key":
        await page.keyboard.press(combination(action.text))


def _pixels(point: Point) -> Point:
    """A point of the page; the right and the lower edge belong to the last pixel."""
    return min(point[0] * AREA[0], AREA[0] - 0.5), min(point[1] * AREA[1], AREA[1] - 0.5)
