"""What an action of each kind must say, and what it may say besides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import get_args

from pe_rlhf_mm.envs.actions import ActionError, Direction, Kind, UIAction
from pe_rlhf_mm.envs.dialects.literals import typable

KINDS: tuple[Kind, ...] = get_args(Kind)
POINTING: tuple[Kind, ...] = ("click", "double_click", "long_press")
"""Kinds that are done to one place, or to one element."""

NEEDS: Mapping[Kind, tuple[str, ...]] = {
    **dict.fromkeys(POINTING, ("point",)),
    "drag": ("point", "to"),
    "scroll": ("direction",),
    "key": ("text",),
    "open_app": ("text",),
}
"""The fields of a UIAction that cannot be empty. What is typed or answered may be: an empty text is one too."""
MAY: Mapping[Kind, tuple[str, ...]] = {
    "scroll": ("point",),
    "type": ("text",),
    "answer": ("text",),
    "infeasible": ("text",),
}
"""Fields that may be set besides."""
_FIELDS = ("point", "to", "text", "direction")


def refuse_unsayable(
    action: UIAction,
    *,
    kinds: Collection[Kind] = KINDS,
    may: Mapping[Kind, tuple[str, ...]] = MAY,
    marks: Collection[Kind] = (),
) -> None:
    """Raises ActionError if an action lacks what its kind needs, or has what a dialect cannot say.

    `kinds`: those the dialect has; `may`: what it can say of them besides NEEDS; `marks`: those for which the mark of
    an element may stand in a point's place. Where an action has both, its mark need not be said.
    """
    if action.kind not in kinds:
        raise ActionError(f"this dialect has no {action.kind}; it has {', '.join(kinds)}")
    marked = action.element != "" and action.point is None
    if marked and action.kind not in marks:
        raise ActionError(f"this dialect cannot name the element of a {action.kind}; give its point")
    needs = NEEDS.get(action.kind, ())
    for name in _FIELDS:
        given = getattr(action, name) not in (None, "")
        if name in needs and not given and not (marked and name == "point"):
            raise ActionError(f"a {action.kind} needs a {name}")
        if given and name not in (*needs, *may.get(action.kind, ())):
            raise ActionError(f"this dialect cannot say the {name} of a {action.kind}")
    if action.direction:
        direction_of(action.direction)
    typable(action.text)


def direction_of(word: str) -> Direction:
    """The direction that a word names. Raises ActionError for any other word."""
    for direction in get_args(Direction):
        if word and word.lower() == direction:
            known: Direction = direction
            return known
    raise ActionError(f"a scroll goes up, down, left or right, not {word[:20]!r}")


def name_of(text: str, what: str) -> str:
    """The text itself, which must name a key or an app. Raises ActionError if it is blank."""
    if not text.strip():
        raise ActionError(f"{what} needs a name")
    return text


def listed(usages: Mapping[Kind, str], kinds: Collection[Kind]) -> str:
    """The lines of a grammar that say how to write these kinds, each once."""
    return "\n".join(dict.fromkeys(usages[kind] for kind in kinds if kind in usages))
