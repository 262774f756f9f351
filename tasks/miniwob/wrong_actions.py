"""Wrong actions on a page, by rule: what a reward model must learn to reject."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pe_rlhf_mm.envs.actions import ActionError, UIAction
from pe_rlhf_mm.tasks.miniwob.playing import Look

KEYS = ("Backspace", "Escape", "ArrowLeft", "Home")
"""Keys that bring no form further; Tab and Enter may."""


def wrong_action(
    look: Look,
    other_steps: Sequence[UIAction],
    words: Sequence[str],
    say: Callable[[UIAction], str],
    rng: random.Random,
) -> tuple[str, UIAction]:
    """An action that is wrong on a page as it is, and its sort.

    The sort is drawn evenly from those that exist: "wrong element", a click on something else that can be clicked;
    "wrong type", an action of another kind; "wrong argument", a click where there is nothing, another text, another
    key; "another step", an action of the same episode at the wrong time. `words`: of the goal, to be typed. `say`: what
    raises ActionError for an action that the agent's dialect does not have.
    """
    sorts = {
        "wrong element": _clicks_elsewhere(look, rng),
        "wrong type": _other_kinds(look, words, rng),
        "wrong argument": _other_arguments(look, words, rng),
        "another step": [action for action in other_steps if not _may_help(look, action)],
    }
    sayable = {sort: [action for action in actions if _sayable(action, say)] for sort, actions in sorts.items()}
    sort = rng.choice([sort for sort, actions in sayable.items() if actions])
    return sort, rng.choice(sayable[sort])


def right_action(look: Look, rng: random.Random) -> UIAction:
    """What the oracle chose; a click goes anywhere into what is to be clicked, since all of it is right."""
    chosen = look.right[0]
    return UIAction("click", rng.choice(chosen.points)) if chosen.points else chosen.action


def _clicks_elsewhere(look: Look, rng: random.Random) -> list[UIAction]:
    if look.right[0].action.kind != "click":
        return []
    return [UIAction("click", rng.choice(points)) for points in look.others]


def _other_kinds(look: Look, words: Sequence[str], rng: random.Random) -> list[UIAction]:
    clicks = [*look.ground, *(point for points in look.others for point in points)]
    some = [
        *([UIAction("click", rng.choice(clicks))] if clicks else []),
        UIAction("type", text=rng.choice(words)),
        UIAction("key", text=rng.choice(KEYS)),
        UIAction("wait"),
        UIAction("done"),
    ]
    kinds = {right.action.kind for right in look.right}
    return [action for action in some if action.kind not in kinds]


def _other_arguments(look: Look, words: Sequence[str], rng: random.Random) -> list[UIAction]:
    right = look.right[0].action
    match right.kind:
        case "click":
            return [UIAction("click", rng.choice(look.ground))] if look.ground else []
        case "type":
            texts = (rng.choice(words), right.text[:-1], right.text[1:], 2 * right.text)
            some = [UIAction("type", text=text.strip()) for text in texts]
        case _:
            some = [UIAction("key", text=key) for key in KEYS]
    return [action for action in some if not _may_help(look, action)]


def _sayable(action: UIAction, say: Callable[[UIAction], str]) -> bool:
    try:
        say(action)
    except ActionError:
        return False
    return True


def _may_help(look: Look, action: UIAction) -> bool:
    """Whether an action is right now, or a click into the box of what is."""
    if action.kind == "click" and action.point is not None:
        x, y = action.point
        return any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in look.boxes)
    return action in [right.action for right in look.right]
