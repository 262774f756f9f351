"""A screen of widgets: which of them an action reaches, and the picture of them all."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image as Pillow

from pe_rlhf_mm.envs.actions import ActionError, Point, UIAction
from pe_rlhf_mm.envs.canvas import faces
from pe_rlhf_mm.envs.canvas.layout import Box, pixel
from pe_rlhf_mm.envs.canvas.widgets import Widget

KINDS = ("click", "double_click", "type", "key", "scroll", "wait")
"""What can be done on a screen."""


class Screen:
    """Widgets, of which later ones lie on earlier ones; Tab goes from one to the next in the same order."""

    def __init__(self, widgets: Sequence[Widget]):
        self.widgets = tuple(widgets)

    def draw(self) -> Pillow.Image:
        """A new picture of the screen as it is now, in RGB."""
        picture = faces.empty_screen()
        top = self._top
        for widget in self._present:
            if widget is not top:
                widget.draw(picture)
                if widget.focused:
                    faces.mark(picture, widget.box)
        if top is not None:
            top.draw(picture)
        return picture

    def targets(self) -> list[Box]:
        """Where something can be clicked now."""
        return [box for widget in ([self._top] if self._top else self._present) for box in widget.targets()]

    def act(self, action: UIAction) -> None:
        """Carries out an action; a click on nothing changes the focus at most.

        Raises ActionError, with the screen as it was, for an action that a screen has not, or that reaches nothing.
        """
        match action.kind:
            case "click":
                self._click(action.point)
            case "double_click":
                self._click(action.point)
                self._click(action.point)
            case "type":
                self._listener.type(action.text)
            case "key":
                self._press(action.text)
            case "scroll":
                self._scrolled(action.point).scroll(action.direction)
            case "wait":
                pass
            case _:
                raise ActionError(f"there is no {action.kind} here; there are {', '.join(KINDS)}")

    @property
    def _present(self) -> list[Widget]:
        return [widget for widget in self.widgets if not widget.gone]

    @property
    def _top(self) -> Widget | None:
        return next((widget for widget in reversed(self.widgets) if widget.on_top), None)

    @property
    def _listener(self) -> Widget:
        """What keys and text go to."""
        listener = self._top or next((widget for widget in self._present if widget.focused), None)
        if listener is None:
            raise ActionError("nothing has the focus: click something first")
        return listener

    def _at(self, point: Point | None) -> tuple[int, int, Widget | None]:
        """The pixel of a point, and what an action there reaches."""
        if point is None or not all(0 <= part <= 1 for part in point):
            raise ActionError("the point is not on the screen" if point else "the action needs a point")
        x, y = pixel(point)
        hit = (widget for widget in reversed(self._present) if widget.box.holds(x, y))
        return x, y, self._top or next(hit, None)

    def _click(self, point: Point | None) -> None:
        x, y, widget = self._at(point)
        self._focus(widget)
        if widget is not None:
            widget.click(x, y)

    def _focus(self, chosen: Widget | None) -> None:
        for widget in self.widgets:
            widget.focused = widget is chosen

    def _press(self, key: str) -> None:
        match key.lower():
            case "enter":
                self._listener.enter()
            case "backspace":
                self._listener.erase()
            case "tab" if self._top is None:
                present = self._present
                focused = [widget.focused for widget in present]
                following = focused.index(True) + 1 if True in focused else 0
                self._focus(present[following % len(present)])
            case "tab":
                raise ActionError("Tab does nothing before the choice is made")
            case _:
                raise ActionError(f"there is no key {key!r:.20} here; there are Enter, Tab, Backspace")

    def _scrolled(self, point: Point | None) -> Widget:
        """What a scroll moves: what is at its point or, without one, the first thing that scrolls."""
        if point is not None:
            place = self._at(point)[2]
        else:
            place = self._top or next((widget for widget in self._present if widget.scrolls), None)
        if place is None:
            raise ActionError("nothing scrolls here")
        return place
