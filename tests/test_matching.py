"""The published rules of AndroidControl and AitW: cases by hand, boundaries, and a second reading over arrays."""

from __future__ import annotations

import math
import random
from typing import get_args

import numpy as np
import pytest

from pe_rlhf_mm.envs.actions import Direction, Kind, Point, UIAction
from pe_rlhf_mm.envs.matching import (
    Box,
    aitw_match,
    aitw_match_directed,
    aitw_type,
    android_control_match,
    folded,
    holds,
    smallest_box_at,
)

OTHER = UIAction("wait")


def click(x: float, y: float) -> UIAction:
    return UIAction("click", point=(x, y))


def drag(start: Point, end: Point) -> UIAction:
    return UIAction("drag", point=start, to=end)


# --- boxes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "inside"),
    [
        ((0.25, 0.5), True),  # the borders, and the corners
        ((0.5, 0.75), True),
        ((0.25, 0.75), True),
        ((math.nextafter(0.25, 0), 0.6), False),
        ((math.nextafter(0.5, 1), 0.6), False),
        ((0.3, math.nextafter(0.5, 0)), False),
        ((0.3, math.nextafter(0.75, 1)), False),
        ((0.6, 0.3), False),  # x and y the other way round
    ],
)
def test_a_box_holds_its_borders(point: Point, inside: bool) -> None:
    assert holds((0.25, 0.5, 0.5, 0.75), point) is inside


def test_the_smallest_box_around_a_point() -> None:
    whole, card, button, elsewhere = (0, 0, 1, 1), (0.2, 0.2, 0.8, 0.4), (0.6, 0.3, 0.8, 0.4), (0.0, 0.9, 0.01, 0.91)
    assert smallest_box_at((0.7, 0.35), [whole, card, button, elsewhere]) == button
    assert smallest_box_at((0.3, 0.3), [whole, card, button, elsewhere]) == card
    assert smallest_box_at((0.3, 0.3), [button, elsewhere]) is None
    assert smallest_box_at((0.3, 0.3), []) is None


# --- AndroidControl ---------------------------------------------------------------------------------------------

BOX: Box = (0.2, 0.4, 0.6, 0.5)


@pytest.mark.parametrize(
    ("predicted", "gold", "box", "right"),
    [
        (click(0.59, 0.41), click(0.3, 0.45), BOX, True),  # far from the point, and in the box
        (click(0.6, 0.5), click(0.3, 0.45), BOX, True),
        (click(0.3, 0.51), click(0.3, 0.49), BOX, False),  # near the point, and not in the box
        (click(0.3, 0.51), click(0.3, 0.49), None, True),
        (click(0.14, 0.5), click(0.0, 0.5), None, True),  # exactly 0.14 away
        (click(math.nextafter(0.14, 1), 0.5), click(0.0, 0.5), None, False),
        (click(0.1, 0.1), click(0.0, 0.0), None, False),  # 0.1 along each axis is 0.141
        (UIAction("long_press", point=(0.3, 0.45)), click(0.3, 0.45), BOX, False),
        (UIAction("long_press", point=(0.3, 0.45)), UIAction("long_press", point=(0.5, 0.45)), BOX, True),
        (UIAction("click", element="7"), UIAction("click", point=(0.3, 0.45), element="7"), BOX, True),
        (UIAction("click", element="8"), UIAction("click", point=(0.3, 0.45), element="7"), BOX, False),
        (UIAction("click"), click(0.3, 0.45), BOX, False),
        (click(0.3, 0.45), UIAction("click"), None, False),
        (UIAction("scroll", direction="down"), UIAction("scroll", direction="down"), None, True),
        (UIAction("scroll", direction="up"), UIAction("scroll", direction="down"), None, False),
        (UIAction("type", text=" Hello  World\n"), UIAction("type", text="hello world"), None, True),
        (UIAction("type", text="helloworld"), UIAction("type", text="hello world"), None, False),
        (UIAction("open_app", text="gmail"), UIAction("open_app", text="Gmail "), None, True),
        (UIAction("open_app", text="Mail"), UIAction("open_app", text="Gmail"), None, False),
        (UIAction("key", text="enter"), UIAction("key", text="Enter"), None, True),
        (UIAction("answer", text="42"), UIAction("answer", text="43"), None, False),
        (UIAction("back"), UIAction("back"), None, True),
        (UIAction("back"), UIAction("home"), None, False),
        (UIAction("infeasible", text="no such app"), UIAction("infeasible"), None, True),
        (drag((0.9, 0.5), (0.2, 0.5)), drag((0.5, 0.5), (0.1, 0.4)), None, True),
        (drag((0.2, 0.5), (0.9, 0.5)), drag((0.5, 0.5), (0.1, 0.4)), None, False),
        (UIAction("scroll", direction="down"), drag((0.5, 0.9), (0.5, 0.1)), None, False),
    ],
)
def test_android_control(predicted: UIAction, gold: UIAction, box: Box | None, right: bool) -> None:
    assert android_control_match(predicted, gold, box) is right


def test_texts_are_folded() -> None:
    assert folded("  New\tYORK \n") == "new york"
    assert folded("Straße") == folded("STRASSE")


# --- Android in the Wild ----------------------------------------------------------------------------------------

SQUARE: Box = (0.4, 0.4, 0.5, 0.5)  # grows by 0.07 on each side: 0.33 to 0.57


@pytest.mark.parametrize(
    ("predicted", "gold", "boxes", "right"),
    [
        (click(0.14, 0.5), click(0.0, 0.5), [], True),  # exactly 0.14 away
        (click(math.nextafter(0.14, 1), 0.5), click(0.0, 0.5), [], False),
        (click(0.34, 0.34), click(0.56, 0.56), [SQUARE], True),  # 0.31 apart, in one enlarged box
        (click(0.34, 0.34), click(0.56, 0.56), [], False),
        (click(0.32, 0.34), click(0.56, 0.56), [SQUARE], False),
        (click(0.34, 0.34), click(0.56, 0.58), [SQUARE], False),
        (click(0.1, 0.1), click(0.9, 0.9), [(0.08, 0.08, 0.12, 0.12), (0.88, 0.88, 0.92, 0.92)], False),  # two boxes
        (click(0.02, 0.45), click(0.22, 0.45), [(0.0, 0.4, 0.1, 0.5)], True),  # as published: 0 to 0.24, not 0.17
        (click(0.02, 0.45), click(0.25, 0.45), [(0.0, 0.4, 0.1, 0.5)], False),
        (click(0.45, 0.02), click(0.45, 0.22), [(0.4, 0.0, 0.5, 0.1)], True),
        (click(0.06, 0.5), click(0.99, 0.5), [(0.4, 0.4, 0.9, 0.6)], True),  # from 0.05 on, to beyond the screen
        (drag((0.0, 0.5), (0.04, 0.5)), click(0.0, 0.5), [], True),  # a finger that moved 0.04 has tapped
        (drag((0.0, 0.5), (math.nextafter(0.04, 1), 0.5)), click(0.0, 0.5), [], False),
        (UIAction("long_press", point=(0.5, 0.5)), click(0.5, 0.5), [], True),  # there is no time in the data
        (drag((0.5, 0.8), (0.5, 0.2)), drag((0.1, 0.5), (0.2, 0.1)), [], True),
        (drag((0.5, 0.2), (0.5, 0.8)), drag((0.5, 0.8), (0.5, 0.2)), [], True),  # whichever way
        (drag((0.8, 0.5), (0.2, 0.5)), drag((0.5, 0.8), (0.5, 0.2)), [], False),
        (drag((0.25, 0.25), (0.75, 0.75)), drag((0.5, 0.8), (0.5, 0.2)), [], True),  # a tie counts as down
        (drag((0.25, 0.25), (0.75, 0.75)), drag((0.8, 0.5), (0.2, 0.5)), [], False),
        (UIAction("scroll", direction="down"), drag((0.5, 0.8), (0.5, 0.2)), [], True),
        (UIAction("scroll", direction="left"), drag((0.5, 0.8), (0.5, 0.2)), [], False),
        (click(0.5, 0.5), drag((0.5, 0.5), (0.5, 0.6)), [(0, 0, 1, 1)], False),
        (UIAction("type", text="cats"), UIAction("type", text="dogs"), [], True),  # the text is not compared
        (UIAction("type", text="cats"), click(0.5, 0.5), [(0, 0, 1, 1)], False),
        (UIAction("key", text="Enter"), UIAction("key", text="enter"), [], True),
        (UIAction("key", text="Tab"), UIAction("key", text="Tab"), [], False),  # no action of AitW
        (UIAction("done"), UIAction("done"), [], True),
        (UIAction("done"), UIAction("infeasible"), [], False),
        (OTHER, OTHER, [], False),
        (UIAction("click", element="3"), click(0.5, 0.5), [(0, 0, 1, 1)], False),
    ],
)
def test_aitw(predicted: UIAction, gold: UIAction, boxes: list[Box], right: bool) -> None:
    assert aitw_match(predicted, gold, boxes) is right
    assert aitw_match(gold, predicted, boxes) is right


@pytest.mark.parametrize(
    ("predicted", "right"),
    [
        (drag((0.2, 0.9), (0.25, 0.5)), True),
        (drag((0.5, 0.2), (0.5, 0.8)), False),
        (drag((0.8, 0.5), (0.2, 0.5)), False),
        (UIAction("scroll", direction="down"), True),  # a finger that goes up
        (UIAction("scroll", direction="up"), False),
        (click(0.5, 0.8), False),
    ],
)
def test_directed_swipes_go_the_same_way(predicted: UIAction, right: bool) -> None:
    assert aitw_match_directed(predicted, drag((0.5, 0.8), (0.5, 0.2)), []) is right


def test_directed_taps_and_types_are_as_before() -> None:
    assert aitw_match_directed(click(0.34, 0.34), click(0.56, 0.56), [SQUARE])
    assert aitw_match_directed(UIAction("type", text="a"), UIAction("type", text="b"), [])
    across = {
        d: drag((0.5, 0.5), (0.5 + (0.3 if d == "left" else -0.3), 0.5)) for d in get_args(Direction)[3:]
    }  # to see what is on the left, a finger goes right
    for direction, gesture in across.items():
        assert aitw_match_directed(UIAction("scroll", direction=direction), gesture, [])


def reference(a: tuple[str, Point, Point], b: tuple[str, Point, Point], boxes: np.ndarray) -> bool:
    """A second reading of the published rule: (type, touch, lift), points as (y, x), boxes as (y, x, height, width)."""
    if "DUAL_POINT" not in (a[0], b[0]) or a[0] != b[0]:
        return a[0] == b[0]
    (touch_a, lift_a), (touch_b, lift_b) = np.array(a[1:]), np.array(b[1:])
    tapped = [np.linalg.norm(touch - lift) <= 0.04 for touch, lift in ((touch_a, lift_a), (touch_b, lift_b))]
    if tapped[0] != tapped[1]:
        return False
    if not tapped[0]:
        return bool(np.argmax(abs(lift_a - touch_a)) == np.argmax(abs(lift_b - touch_b)))
    grown = boxes.copy()
    grown[:, :2] = np.maximum(0, boxes[:, :2] - 1.4 * boxes[:, 2:] / 2)
    grown[:, 2:] = np.minimum(1, boxes[:, 2:] + 1.4 * boxes[:, 2:])
    ends = grown[:, :2] + grown[:, 2:]
    inside = [((grown[:, :2] <= touch) & (touch <= ends)).all(1) for touch in (touch_a, touch_b)]
    return bool((inside[0] & inside[1]).any() or np.linalg.norm(touch_a - touch_b) <= 0.14)


def test_aitw_is_what_a_second_reading_over_arrays_says() -> None:
    rng, matches = random.Random(5), 0
    kinds: list[Kind] = ["type", "back", "home", "done", "infeasible"]

    def one() -> tuple[UIAction, tuple[str, Point, Point]]:
        if rng.random() < 0.1:
            kind = rng.choice(kinds)
            return UIAction(kind), (kind, (-1.0, -1.0), (-1.0, -1.0))
        x, y = rng.random(), rng.random()
        reach = rng.choice([0.0, 0.03, 0.06, 0.5])
        to = tuple(min(1.0, max(0.0, at + rng.uniform(-reach, reach))) for at in (x, y))
        return drag((x, y), (to[0], to[1])), ("DUAL_POINT", (y, x), (to[1], to[0]))

    for _ in range(3_000):
        places = np.array([[rng.random(), rng.random(), rng.random() / 4, rng.random() / 4] for _ in range(6)])
        boxes = [(x, y, x + width, y + height) for y, x, height, width in places.tolist()]
        (mine, theirs), (other, others) = one(), one()
        assert aitw_match(mine, other, boxes) == reference(theirs, others, places)
        matches += aitw_match(mine, other, boxes)
    assert 200 < matches < 2_800


def test_types_of_aitw() -> None:
    assert [aitw_type(action) for action in (click(0, 0), drag((0, 0), (1, 1)), drag((0, 0), (0, 0.03)))] == [
        "tap",
        "swipe",
        "tap",
    ]
    assert aitw_type(UIAction("open_app", text="Mail")) == ""
