"""Recorded episodes on a screen, a record a step: what AndroidControl and Android in the Wild have in common.

Actions and elements are kept as JSON. An action has the fields of a `UIAction`, {"kind": "click", "point": [0.5, 0.2]},
and "" stands for one that nobody can tell; an element is {"box": [left, top, right, bottom], "text": .., "kind": ..,
"acted_on": ..}. Places are fractions of the screenshot that they were seen on, whatever they are published as.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pe_rlhf_mm.data.published.description import Kind, SetAside

FEATURES: dict[str, Kind] = {
    "episode_id": "text",
    "step": "int",
    "goal": "text",
    "actions": "texts",
    "elements": "texts",
    "width": "int",
    "height": "int",
    "image": "image",
}
"""`actions` are those of the whole episode, of which this step's is number `step`, from 0; `width` and `height` are
pixels of the screenshot."""
PROMPT = ("goal", "image")
"""What an agent is asked: a screen on the way to a goal, which no two splits may share."""
UNKNOWN = ""
"""Instead of an action that cannot be told."""
DIGITS = 6
"""Of a fraction: a thousandth of a pixel is kept, so that what lies on a border stays there."""

Box = tuple[float, float, float, float]


def fraction(place: float, extent: float) -> float:
    """A place along a side of the screen, as a fraction."""
    return round(place / extent, DIGITS)


def action(
    kind: str,
    *,
    point: Sequence[float] | None = None,
    to: Sequence[float] | None = None,
    text: str | None = None,
    direction: str | None = None,
) -> str:
    """An action as it is kept. Raises SetAside where a point is outside the screen."""
    if not all(0 <= side <= 1 for place in (point, to) if place is not None for side in place):
        raise SetAside("point outside the screen")
    fields = {"kind": kind, "point": point, "to": to, "text": text, "direction": direction}
    return json.dumps({name: value for name, value in fields.items() if value is not None}, ensure_ascii=False)


def element(box: Box, text: str, kind: str, acted_on: bool) -> str | None:
    """An element as it is kept, as much of it as is on the screen; None where that is nothing."""
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)
    if not (left < right and top < bottom):  # nor is what is no number
        return None
    box = (left, top, right, bottom)
    return json.dumps({"box": box, "text": text, "kind": kind, "acted_on": acted_on}, ensure_ascii=False)
