"""What an agent does to a screen, in one form for every dialect that a model may speak.

A `UIAction` holds fractions of the original screenshot and never pixels: which pixels, of which resized picture, and in
which order is the business of a codec (`envs/dialects/`). Replies are read as data and never executed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from pe_rlhf_mm.errors import UserError

Kind = Literal[
    "click",
    "double_click",
    "long_press",
    "drag",
    "scroll",
    "type",
    "key",
    "open_app",
    "back",
    "home",
    "wait",
    "answer",
    "done",
    "infeasible",
]
Direction = Literal["", "up", "down", "left", "right"]
Point = tuple[float, float]
"""x and y as fractions of the original screenshot, from its left and top edge."""

LONGEST_REPLY = 10_000
"""Characters; what is longer is no action, and is not read."""


@dataclass(frozen=True)
class UIAction:
    """One action on a screen.

    `point`: where; of a drag, where it starts, and `to` where it ends. `text`: what is typed or answered, the name of a
    key or of an app. `direction`: where a scroll goes to see more. `element`: the mark of an element, where an
    environment has marks.
    """

    kind: Kind
    point: Point | None = None
    to: Point | None = None
    text: str = ""
    direction: Direction = ""
    element: str = ""


class ActionError(ValueError):
    """A reply that is no action, or an action that cannot be carried out; the message is shown to the agent."""


class Codec(Protocol):
    """One dialect of actions."""

    def describe(self) -> str:
        """The grammar, as a prompt tells it."""
        ...

    def parse(self, reply: str, size: tuple[int, int]) -> UIAction:
        """The action of a reply, for a screenshot of `size` (width, height) pixels. Raises ActionError."""
        ...

    def render(self, action: UIAction, size: tuple[int, int]) -> str:
        """The reply that means an action. Raises ActionError for one that the dialect cannot say."""
        ...


Dialect = Literal["pixels", "norm1000", "resized", "percent", "browsergym", "android_world", "aitw"]


def codec(name: str) -> Codec:
    """The codec of a dialect, with its default settings. Raises UserError for an unknown name."""
    if name not in get_args(Dialect):
        raise UserError(f"no dialect of actions is called {name!r}; there are {', '.join(get_args(Dialect))}")
    made: Codec = importlib.import_module(f"pe_rlhf_mm.envs.dialects.{name}").CODEC
    return made
