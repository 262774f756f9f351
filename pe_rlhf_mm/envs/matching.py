"""Whether an action is the one that was demonstrated, by the published rules of AndroidControl and of AitW.

All points and boxes are fractions of the screenshot. Pure functions, without NumPy: one step at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pe_rlhf_mm.envs.actions import Point, UIAction

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as fractions of the screenshot."""
Rule = Literal["android_control", "aitw"]

NEAR = 0.14
"""Two taps within this distance of each other, in fractions of the screen, count as one."""
TAP = 0.04
"""A finger that moved no further than this, in fractions of the screen, has tapped."""
GROWTH = 1.4
"""By so much of its own width and height a box grows, to 2.4 times its size, before AitW looks for taps in it."""


@dataclass(frozen=True)
class StepTarget:
    """The target of a recorded step.

    `boxes`: for the rule `android_control` the box of the element that `action` touches, or nothing; for `aitw` those
    of all elements on the screen. `dialect` is what replies are written in, `size` the screenshot's width and height in
    pixels.
    """

    action: UIAction
    rule: Rule
    boxes: Sequence[Box]
    dialect: str
    size: tuple[int, int]


@dataclass(frozen=True)
class ClickTarget:
    """The target of a grounding sample: a click into `box` is right. `dialect` and `size` are as for StepTarget."""

    box: Box
    dialect: str
    size: tuple[int, int]


def holds(box: Box, point: Point) -> bool:
    """Whether a point lies in a box, its borders included."""
    left, top, right, bottom = box
    return left <= point[0] <= right and top <= point[1] <= bottom


def smallest_box_at(point: Point, boxes: Iterable[Box]) -> Box | None:
    """The box of smallest area that holds a point, the first of equals; None if there is none."""
    around = (box for box in boxes if holds(box, point))
    return min(around, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)


# --- AndroidControl ---------------------------------------------------------------------------------------------


def android_control_match(predicted: UIAction, gold: UIAction, box: Box | None) -> bool:
    """Whether kind and arguments agree: `box` is that of the element `gold` touches, None if nobody knows.

    A click or long press is right inside the box, or within 0.14 of the gold point where there is no box. A scroll must
    have the direction, a drag the direction of its main axis; texts, keys and app names the same letters, but for case
    and space. Source: Li et al., "On the Effects of Data Scale on UI Control Agents", 2024; the distance is AitW's.
    """
    if predicted.kind != gold.kind:
        return False
    if gold.kind in ("click", "double_click", "long_press"):
        return _same_place(predicted, gold, box)
    if gold.kind == "scroll":
        return predicted.direction == gold.direction
    if gold.kind == "drag":
        return _way(_gesture(predicted)) == _way(_gesture(gold))
    if gold.kind in ("type", "key", "open_app", "answer"):
        return folded(predicted.text) == folded(gold.text)
    return True


def folded(text: str) -> str:
    """A text without letter case, and with single spaces between its words."""
    return " ".join(text.casefold().split())


def _same_place(predicted: UIAction, gold: UIAction, box: Box | None) -> bool:
    if predicted.point is None:  # a dialect with marks names elements
        return predicted.element == gold.element != ""
    if box is not None:
        return holds(box, predicted.point)
    return gold.point is not None and math.dist(predicted.point, gold.point) <= NEAR


# --- Android in the Wild ----------------------------------------------------------------------------------------

Gesture = tuple[Point, Point]
"""Where the finger touches the screen, and where it leaves it."""

_FINGER: dict[str, Gesture] = {  # to see more below, a finger moves up
    "down": ((0.5, 0.75), (0.5, 0.25)),
    "up": ((0.5, 0.25), (0.5, 0.75)),
    "right": ((0.75, 0.5), (0.25, 0.5)),
    "left": ((0.25, 0.5), (0.75, 0.5)),
}


def aitw_match(predicted: UIAction, gold: UIAction, boxes: Iterable[Box]) -> bool:
    """Whether two actions are one by the rule of AitW; `boxes` are those of all elements on the screen.

    Actions without a finger are equal where their types are: the typed text is not compared. Two taps match within 0.14
    of each other, or inside one box that was enlarged to 2.4 times its size; two swipes match if their main axis is the
    same, whichever way they go. A tap matches no swipe. Source: `android_in_the_wild/action_matching.py` of
    github.com/google-research/google-research (Rawles et al., 2023), in double precision.
    """
    if aitw_type(predicted) != aitw_type(gold) or not aitw_type(gold):
        return False
    one, other = _gesture(predicted), _gesture(gold)
    if one is None or other is None:
        return True
    if aitw_type(gold) == "swipe":
        return _main_axis(one) == _main_axis(other)
    near = math.dist(one[0], other[0]) <= NEAR
    return near or any(holds(box, one[0]) and holds(box, other[0]) for box in map(_enlarged, boxes))


def aitw_match_directed(predicted: UIAction, gold: UIAction, boxes: Iterable[Box]) -> bool:
    """As `aitw_match`, and swipes must go the same way too: a scroll up is no scroll down."""
    if not aitw_match(predicted, gold, boxes):
        return False
    return aitw_type(gold) != "swipe" or _way(_gesture(predicted)) == _way(_gesture(gold))


def aitw_type(action: UIAction) -> str:
    """The type of an action as AitW tells them apart, its gestures split into "tap" and "swipe"; "" if it has none."""
    gesture = _gesture(action)
    if gesture is not None:
        return "tap" if math.dist(*gesture) <= TAP else "swipe"
    if action.kind == "key":
        return "enter" if folded(action.text) == "enter" else ""
    return action.kind if action.kind in ("type", "back", "home", "done", "infeasible") else ""


def _gesture(action: UIAction) -> Gesture | None:
    """What a finger does for an action; None for an action without one, or that names an element and no place."""
    if action.kind == "scroll":
        return _FINGER.get(action.direction)
    if action.point is None:
        return None
    if action.kind == "drag":
        return None if action.to is None else (action.point, action.to)
    return (action.point, action.point) if action.kind in ("click", "double_click", "long_press") else None


def _main_axis(gesture: Gesture) -> Literal["across", "down"]:
    """The axis of the greater movement; down for a tie, as the published rule has it, where y comes first."""
    (x, y), (to_x, to_y) = gesture
    return "across" if abs(to_x - x) > abs(to_y - y) else "down"


def _way(gesture: Gesture | None) -> tuple[str, bool] | None:
    """The main axis of a gesture, and whether it goes right or down along it."""
    if gesture is None:
        return None
    (x, y), (to_x, to_y) = gesture
    axis = _main_axis(gesture)
    return axis, (to_x > x if axis == "across" else to_y > y)


def _enlarged(box: Box) -> Box:
    """A box that grew about its centre, as AitW does it.

    Trap: the published rule clips the left and top edge to the screen and then adds the whole grown width and height,
    so that boxes at the left and top border reach further than they should. Published numbers have it. Its limit of a
    side to that of the screen is left out: it changes nothing for a point on the screen.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    left, top = max(0.0, left - GROWTH * width / 2), max(0.0, top - GROWTH * height / 2)
    return left, top, left + (1 + GROWTH) * width, top + (1 + GROWTH) * height
