"""Wrong actions on a drawn screen, by rule: what a reward model must learn to reject."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from pe_rlhf_mm.envs.actions import Direction, UIAction
from pe_rlhf_mm.envs.canvas.layout import SIDE, Box, fraction, pixel
from pe_rlhf_mm.envs.canvas.problem import Problem

INSIDE = 3
"""Pixels from the edge of a box: what a dialect rounds does not leave it."""
TRIES = 20
"""Points drawn in search of bare ground."""
OPPOSITE: Mapping[Direction, Direction] = {"up": "down", "down": "up", "left": "right", "right": "left"}


def wrong_actions(
    right: UIAction, problem: Problem, other_steps: Sequence[UIAction], word: str, rng: random.Random
) -> Iterator[tuple[str, UIAction]]:
    """Actions that do not help where `right` does, and of which sort they are; the sorts come in a random order.

    "wrong element": a click on something else. "wrong type": an action of another kind. "wrong argument": a click on
    bare ground, another text, the other direction. "another step": an action of the same episode at the wrong time.
    `word`: a text that nobody asks for. There is always one: giving up helps nowhere.
    """
    sorts = {
        "wrong element": _clicks_elsewhere(right, problem, rng),
        "wrong type": _other_kinds(right, problem, word, rng),
        "wrong argument": _other_arguments(right, problem, word, rng),
        "another step": other_steps,
    }
    for sort in rng.sample(list(sorts), len(sorts)):
        for action in rng.sample(sorts[sort], len(sorts[sort])):
            if not problem.helps(action):
                yield sort, action


def elsewhere_in_its_box(action: UIAction, problem: Problem, rng: random.Random) -> UIAction:
    """The same action; a click goes anywhere into the box that it hits, since all of it is right."""
    if action.kind != "click":
        return action
    return next(_click_in(box, rng) for box in problem.screen.targets() if _hits(action, box))


def _clicks_elsewhere(right: UIAction, problem: Problem, rng: random.Random) -> list[UIAction]:
    if right.kind != "click":
        return []
    return [_click_in(box, rng) for box in problem.screen.targets() if not _hits(right, box)]


def _other_kinds(right: UIAction, problem: Problem, word: str, rng: random.Random) -> list[UIAction]:
    some = [
        _click_in(rng.choice(problem.screen.targets()), rng),
        UIAction("type", text=word),
        UIAction("key", text=rng.choice(("Enter", "Backspace", "Tab"))),
        UIAction("scroll", direction=rng.choice(("up", "down"))),
        UIAction("done"),
    ]
    return [action for action in some if action.kind != right.kind]


def _other_arguments(right: UIAction, problem: Problem, word: str, rng: random.Random) -> list[UIAction]:
    match right.kind:
        case "click":
            spots = (UIAction("click", fraction(rng.randrange(SIDE), rng.randrange(SIDE))) for _ in range(TRIES))
            boxes = problem.screen.targets()
            return [spot for spot in spots if not any(_hits(spot, box) for box in boxes)][:1]
        case "type":
            return [UIAction("type", text=text) for text in (word, right.text[:-1], 2 * right.text)]
        case "scroll":
            return [UIAction("scroll", right.point, direction=OPPOSITE[right.direction])]
    return []


def _click_in(box: Box, rng: random.Random) -> UIAction:
    left, top, width, height = box
    x = rng.randrange(left + INSIDE, left + width - INSIDE)
    return UIAction("click", fraction(x, rng.randrange(top + INSIDE, top + height - INSIDE)))


def _hits(action: UIAction, box: Box) -> bool:
    return action.point is not None and box.holds(*pixel(action.point))
