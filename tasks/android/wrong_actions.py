"""Wrong actions on a screen, by rule: what a reward model of actions must learn to reject."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from pe_rlhf_mm.envs.actions import Direction, Kind, Point, UIAction
from pe_rlhf_mm.envs.matching import Box

SORTS: Mapping[str, float] = {"element": 0.4, "type": 0.2, "argument": 0.2, "step": 0.2}
"""Shares of the sorts: another element, another type of action, other arguments, the action of another step."""
DRAWS = 64
"""An action for which so many draws are no good has none that is wrong."""
DIRECTIONS: tuple[Direction, ...] = tuple(direction for direction in get_args(Direction) if direction)
TYPES: tuple[Kind, ...] = ("click", "long_press", "scroll", "type", "open_app", "back", "home", "wait", "done")
"""Those that a wrong type is drawn from."""


@dataclass(frozen=True)
class Scene:
    """What a wrong action is made of: the right one, what is on the screen, and what was done in other steps.

    `touched`: the box of the element that the right action touches, if any; `boxes`: of elements that may be acted on;
    `words`: what the screen says.
    """

    right: UIAction
    touched: Box | None
    boxes: Sequence[Box]
    words: Sequence[str]
    others: Sequence[UIAction]


def wrong_reply(
    scene: Scene, write: Callable[[UIAction], str | None], right: Callable[[str], bool], rng: random.Random
) -> str | None:
    """An action as it is written that `right` denies; None if there is none to be found.

    Where a sort has none (another element, for "go back"), or one that cannot be written or is right too, another is
    drawn.
    """
    for _ in range(DRAWS):
        sort = rng.choices(tuple(SORTS), tuple(SORTS.values()))[0]
        action = MAKERS[sort](scene, rng)
        reply = None if action is None else write(action)
        if reply is not None and not right(reply):
            return reply
    return None


def _other_element(scene: Scene, rng: random.Random) -> UIAction | None:
    """The same, done to an element of the screen, at the place where the right one is touched.

    Trap: were it the middle, a reward model would learn that people never click there.
    """
    if scene.right.point is None or not scene.boxes:
        return None
    across, down = _place(scene.right.point, scene.touched) if scene.touched else _anywhere(rng)
    left, top, right, bottom = rng.choice(scene.boxes)
    return replace(scene.right, point=(left + across * (right - left), top + down * (bottom - top)))


def _other_type(scene: Scene, rng: random.Random) -> UIAction:
    """An action of another type, with arguments that the screen suggests."""
    kind = rng.choice([kind for kind in TYPES if kind != scene.right.kind])
    if kind in ("click", "long_press"):
        return UIAction(kind, point=scene.right.point or _somewhere(scene, rng))
    if kind == "scroll":
        return UIAction(kind, direction=rng.choice(DIRECTIONS))
    if kind in ("type", "open_app"):
        return UIAction(kind, text=scene.right.text or _word(scene, rng))
    return UIAction(kind)


def _other_argument(scene: Scene, rng: random.Random) -> UIAction | None:
    """The same type of action, done elsewhere, in another direction, or with other words."""
    right = scene.right
    if right.direction:
        return replace(right, direction=rng.choice(DIRECTIONS))
    if right.text:
        return replace(right, text=rng.choice([_word(scene, rng), right.text[: rng.randrange(len(right.text))]]))
    if right.point is None:
        return None
    return replace(right, point=_anywhere(rng), to=_anywhere(rng) if right.to else None)


def _other_step(scene: Scene, rng: random.Random) -> UIAction | None:
    """What was done in another step of the episode."""
    return rng.choice(scene.others) if scene.others else None


MAKERS: Mapping[str, Callable[[Scene, random.Random], UIAction | None]] = {
    "element": _other_element,
    "type": _other_type,
    "argument": _other_argument,
    "step": _other_step,
}


def _somewhere(scene: Scene, rng: random.Random) -> Point:
    """The middle of some element."""
    return centre(rng.choice(scene.boxes)) if scene.boxes else _anywhere(rng)


def _anywhere(rng: random.Random) -> Point:
    return rng.random(), rng.random()


def _place(point: Point, box: Box) -> Point:
    """Where in a box a point is, in fractions of the box."""
    left, top, right, bottom = box
    return (point[0] - left) / (right - left), (point[1] - top) / (bottom - top)


def centre(box: Box) -> Point:
    """The middle of a box."""
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2


def _word(scene: Scene, rng: random.Random) -> str:
    """Something that the screen says."""
    return rng.choice(scene.words) if scene.words else "OK"
