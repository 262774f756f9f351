"""Buttons, text fields, check boxes, menus, lists and dialogs: what they show, and what an action does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from PIL import Image as Pillow

from pe_rlhf_mm.envs.actions import ActionError, Direction, UIAction
from pe_rlhf_mm.envs.canvas import faces
from pe_rlhf_mm.envs.canvas.layout import MARGIN, SIDE, UNIT, Box

Value = str | bool | None


@dataclass(eq=False)
class Widget:
    """Something on a screen.

    `box`: where. `focused`: whether keys and text go to it. `value`: what an agent has brought it to. What `commits`
    cannot be taken back; its value is None or False until somebody has acted on it.
    """

    box: Box
    focused: bool = field(default=False, kw_only=True)
    commits: ClassVar[bool] = False
    scrolls: ClassVar[bool] = False

    @property
    def value(self) -> Value:
        raise NotImplementedError

    @property
    def gone(self) -> bool:
        return False

    @property
    def on_top(self) -> bool:
        """Whether it lies on top of everything, and nothing else can be acted on."""
        return False

    def draw(self, picture: Pillow.Image) -> None:
        """Draws it as it is now."""
        raise NotImplementedError

    def targets(self) -> Sequence[Box]:
        """Where it can be clicked now, a box for each thing that a click can mean."""
        return [self.box]

    def towards(self, value: Value) -> UIAction:
        """The next action that brings it to a value."""
        return self.box.click()

    def click(self, x: int, y: int) -> None:
        """A click on a pixel of its own, or on any while it is on top."""
        raise NotImplementedError

    def enter(self) -> None:
        """The key Enter."""
        raise ActionError("Enter does nothing here")

    def type(self, text: str) -> None:
        """Text from the keyboard."""
        raise ActionError("click a text field before you type")

    def erase(self) -> None:
        """The key Backspace."""
        raise ActionError("there is no text to erase")

    def scroll(self, direction: Direction) -> None:
        """A scroll over it."""
        raise ActionError("nothing scrolls here")


@dataclass(eq=False)
class Button(Widget):
    """Is pressed, once."""

    label: str
    color: str = ""
    value: bool = False
    commits = True

    def draw(self, picture: Pillow.Image) -> None:
        picture.paste(faces.button(self.box.size, self.label, self.color, self.value), self.box[:2])

    def click(self, x: int, y: int) -> None:
        self.value = True

    def enter(self) -> None:
        self.value = True


@dataclass(eq=False)
class TextField(Widget):
    """A line of text, which is typed at its end."""

    color: str = "black"
    value: str = ""

    def draw(self, picture: Pillow.Image) -> None:
        picture.paste(faces.text_field(self.box.size, self.value, self.color, self.focused), self.box[:2])

    def towards(self, value: Value) -> UIAction:
        if not self.focused:
            return self.box.click()
        if str(value).startswith(self.value):
            return UIAction("type", text=str(value)[len(self.value) :])
        return UIAction("key", text="Backspace")

    def click(self, x: int, y: int) -> None:
        """The screen gives it the focus."""

    def type(self, text: str) -> None:
        self.value += text

    def erase(self) -> None:
        self.value = self.value[:-1]


@dataclass(eq=False)
class CheckBox(Widget):
    """Is ticked or not; its label belongs to it."""

    label: str
    value: bool = False

    def draw(self, picture: Pillow.Image) -> None:
        picture.paste(faces.check_box(self.box.size, self.label, self.value), self.box[:2])

    def click(self, x: int, y: int) -> None:
        self.value = not self.value

    def enter(self) -> None:
        self.value = not self.value


@dataclass(eq=False)
class Menu(Widget):
    """Opens, below where it fits, and lets one entry be chosen; a click elsewhere closes it again."""

    title: str
    entries: tuple[str, ...]
    value: str | None = None
    open: bool = False
    commits = True

    @property
    def on_top(self) -> bool:
        return self.open

    def draw(self, picture: Pillow.Image) -> None:
        picture.paste(faces.menu(self.box.size, self.value or self.title), self.box[:2])
        if self.open:
            sheet = self._sheet()
            picture.paste(faces.entries(sheet.size, self.entries), sheet[:2])

    def targets(self) -> Sequence[Box]:
        return self._sheet().rows(len(self.entries)) if self.open else [self.box]

    def towards(self, value: Value) -> UIAction:
        return self.targets()[self.entries.index(str(value)) if self.open else 0].click()

    def click(self, x: int, y: int) -> None:
        if self.open:
            chosen = [e for e, row in zip(self.entries, self.targets(), strict=True) if row.holds(x, y)]
            self.value = chosen[0] if chosen else self.value
        self.open = not self.open

    def enter(self) -> None:
        self.open = not self.open

    def _sheet(self) -> Box:
        """Where the entries stand."""
        left, top, width, height = self.box
        tall = ROW * len(self.entries)
        return Box(left, min(top + height, SIDE - MARGIN - tall), width, tall)


ROW = 3 * UNIT - MARGIN
"""Pixels from one entry to the next."""


@dataclass(eq=False)
class ScrollList(Widget):
    """Shows some of its entries at a time, and lets one be chosen."""

    entries: tuple[str, ...]
    value: str | None = None
    first: int = 0
    commits = True
    scrolls = True

    def draw(self, picture: Pillow.Image) -> None:
        face = faces.scroll_list(self.box.size, self._in_view(), self.first, len(self.entries), self.value)
        picture.paste(face, self.box[:2])

    def targets(self) -> Sequence[Box]:
        left, top, width, height = self.box
        return Box(left, top, width - faces.BAR, height).rows(len(self._in_view()))

    def towards(self, value: Value) -> UIAction:
        place = self.entries.index(str(value)) - self.first
        if 0 <= place < self._page:
            return self.targets()[place].click()
        return UIAction("scroll", direction="up" if place < 0 else "down")

    def click(self, x: int, y: int) -> None:
        """Chooses an entry; the bar does nothing, as everything scrolls by scrolling."""
        for entry, row in zip(self._in_view(), self.targets(), strict=True):
            if row.holds(x, y):
                self.value = entry

    def scroll(self, direction: Direction) -> None:
        """By as many entries as are in view."""
        if direction not in ("up", "down"):
            raise ActionError("the list scrolls up and down")
        moved = self.first + (self._page if direction == "down" else -self._page)
        self.first = max(0, min(moved, len(self.entries) - self._page))

    @property
    def _page(self) -> int:
        return min(self.box.height // ROW, len(self.entries))

    def _in_view(self) -> tuple[str, ...]:
        return self.entries[self.first : self.first + self._page]


@dataclass(eq=False)
class Dialog(Widget):
    """Covers what is behind it until it is answered."""

    text: str
    answers: tuple[str, ...]
    value: str | None = None
    commits = True

    @property
    def gone(self) -> bool:
        return self.value is not None

    @property
    def on_top(self) -> bool:
        return not self.gone

    def draw(self, picture: Pillow.Image) -> None:
        picture.paste(faces.panel(self.box.size, self.text), self.box[:2])
        for answer, box in zip(self.answers, self.targets(), strict=True):
            picture.paste(faces.button(box.size, answer, ""), box[:2])

    def targets(self) -> Sequence[Box]:
        """The answers, side by side in the lower half."""
        left, top, width, height = self.box
        each, count = width // len(self.answers), len(self.answers)
        gap = UNIT // 2
        return [Box(left + each * k + gap, top + height // 2, each - 2 * gap, height // 2 - gap) for k in range(count)]

    def towards(self, value: Value) -> UIAction:
        return self.targets()[self.answers.index(str(value))].click()

    def click(self, x: int, y: int) -> None:
        for answer, box in zip(self.answers, self.targets(), strict=True):
            if box.holds(x, y):
                self.value = answer
