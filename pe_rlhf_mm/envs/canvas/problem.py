"""What is to be done on a screen, whether it has been done, and how to do it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pe_rlhf_mm.envs.actions import ActionError, UIAction
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.envs.canvas.widgets import Value, Widget


class Wish(NamedTuple):
    """The value that a widget is to have."""

    widget: Widget
    value: Value

    @property
    def granted(self) -> bool:
        return self.widget.value == self.value


@dataclass
class Problem:
    """A screen, the goal in words, and the same as wishes; the last of them is for a widget that commits.

    Only what commits counts in its order. What does not, a text or a tick, may come in any order, and be taken back,
    before the next that commits.
    """

    goal: str
    screen: Screen
    wishes: Sequence[Wish]

    @property
    def verdict(self) -> bool | None:
        """Whether it was solved, or None as long as it still can be.

        It is lost as soon as something commits that should not: to another value, before its time, or at all.
        """
        granted = [wish.granted for wish in self.wishes]
        ready = granted.index(False) if False in granted else len(granted)
        right = {wish.widget for wish in self.wishes[:ready]}
        if any(widget.commits and widget.value and widget not in right for widget in self.screen.widgets):
            return False
        return True if ready == len(granted) else None

    def next_action(self) -> UIAction:
        """What brings an unsolved problem closer to its solution."""
        wish = next(wish for wish in self.wishes if not wish.granted)
        return wish.widget.towards(wish.value)

    def solution(self) -> Iterator[UIAction]:
        """The actions that solve it from here, each carried out before the next one is asked for."""
        while self.verdict is None:
            action = self.next_action()
            yield action
            self.screen.act(action)

    def helps(self, action: UIAction) -> bool:
        """Whether fewer actions are left to be done after this one; nothing is carried out here."""
        after = copy.deepcopy(self)
        try:
            after.screen.act(action)
        except ActionError:
            return False
        return after.verdict is not False and after._left() < copy.deepcopy(self)._left()

    def _left(self) -> int:
        return sum(1 for _ in self.solution())
