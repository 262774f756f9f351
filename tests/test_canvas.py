"""The drawn screens: every widget by hand, what keys and clicks reach, and pictures that are the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import random

import pytest
from PIL import Image as Pillow
from PIL import ImageChops, ImageFont

from pe_rlhf_mm.envs.actions import ActionError, UIAction
from pe_rlhf_mm.envs.canvas import faces
from pe_rlhf_mm.envs.canvas.layout import SIDE, Box, box_of, fraction, pixel, scatter
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.envs.canvas.widgets import Button, CheckBox, Dialog, Menu, ScrollList, TextField
from pe_rlhf_mm.errors import UserError

ENTRIES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


def at(x: int, y: int) -> UIAction:
    return UIAction("click", fraction(x, y))


def typed(text: str) -> UIAction:
    return UIAction("type", text=text)


def key(name: str) -> UIAction:
    return UIAction("key", text=name)


def scrolled(direction: str, *, over: Box | None = None) -> UIAction:
    return UIAction("scroll", over and over.click().point, direction=direction)  # type: ignore[arg-type]


def changed(before: Pillow.Image, after: Pillow.Image) -> tuple[int, int, int, int] | None:
    """The rectangle (left, top, right, bottom) that all changed pixels lie in."""
    return ImageChops.difference(before, after).getbbox()


# --- layout -----------------------------------------------------------------------------------------------------


def test_layouts_stay_on_the_screen_and_nothing_overlaps() -> None:
    sizes = [(6, 4), (10, 3), (8, 3), (5, 3), (9, 2)]
    layouts = {scatter(random.Random(seed), sizes) for seed in range(200)}
    assert len(layouts) == 200
    for layout in layouts:
        assert [box.size for box in layout] == [(8 * width - 2, 8 * height - 2) for width, height in sizes]
        sides = [(left, top, left + width, top + height) for left, top, width, height in layout]
        assert all(0 < left < right < SIDE and 0 < top < bottom < SIDE for left, top, right, bottom in sides)
        for (left, top, right, bottom), other in itertools.combinations(sides, 2):
            assert right < other[0] or other[2] < left or bottom < other[1] or other[3] < top


def test_widgets_without_room_are_refused() -> None:
    with pytest.raises(UserError, match="no room on a screen of 16 x 16 units"):
        scatter(random.Random(0), [(16, 9), (16, 8)])


def test_the_edges_of_the_screen_belong_to_its_last_pixels() -> None:
    assert pixel((0, 0)) == (0, 0)
    assert pixel((1, 1)) == (127, 127)
    assert pixel((0.5, 63.9 / 128)) == (64, 63)
    assert all(pixel(fraction(x, 127 - x)) == (x, 127 - x) for x in range(128))


# --- widgets ----------------------------------------------------------------------------------------------------

BUTTON = Box(20, 30, 46, 30)


@pytest.mark.parametrize(("x", "y"), [(20, 30), (65, 59), (43, 45)])
def test_a_button_is_pressed_by_a_click_on_any_pixel_of_it(x: int, y: int) -> None:
    button = Button(BUTTON, "cat")
    Screen([button]).act(at(x, y))
    assert button.value is True


@pytest.mark.parametrize(("x", "y"), [(19, 30), (66, 59), (20, 29), (65, 60)])
def test_a_click_beside_a_button_changes_nothing(x: int, y: int) -> None:
    button = Button(BUTTON, "cat")
    screen = Screen([button])
    before = screen.draw()
    screen.act(at(x, y))
    assert button.value is False
    assert screen.draw() == before


def test_a_check_box_is_ticked_and_unticked() -> None:
    box = CheckBox(BUTTON, "cat")
    screen = Screen([box])
    seen = []
    for action in (at(21, 31), at(60, 50), UIAction("double_click", fraction(30, 40)), key("Enter")):
        screen.act(action)
        seen.append(box.value)
    assert seen == [True, False, False, True]


def test_text_goes_to_the_field_that_was_clicked() -> None:
    one, other = TextField(Box(0, 0, 80, 22)), TextField(Box(0, 40, 80, 22))
    screen = Screen([one, other])
    for action in (at(5, 45), typed("ca"), typed("ts"), key("Backspace"), at(5, 5), typed("x")):
        screen.act(action)
    assert (one.value, other.value) == ("x", "cat")


def test_tab_goes_round_and_enter_does_what_a_click_does() -> None:
    field, box, menu, button = TextField(BUTTON), CheckBox(BUTTON, "a"), Menu(BUTTON, "m", ENTRIES), Button(BUTTON, "b")
    screen = Screen([field, box, menu, button])
    done = []
    for action in map(key, ("Tab", "TAB", "Enter", "Tab", "Enter", "Enter", "Tab", "Enter", "Tab")):
        screen.act(action)
        done.append((box.value, menu.open, button.value))
    nothing, ticked = (False, False, False), (True, False, False)
    opened, pressed = (True, True, False), (True, False, True)
    assert done == [nothing, nothing, ticked, ticked, opened, ticked, ticked, pressed, pressed]
    assert field.focused


def test_a_menu_opens_and_an_entry_is_chosen() -> None:
    """Entries of 23 pixels each stand below the closed menu, from y = 30 + 22 on."""
    menu = Menu(Box(20, 30, 54, 22), "animals", ENTRIES[:3])
    screen = Screen([menu])
    screen.act(at(21, 31))
    assert menu.open
    assert screen.targets() == [Box(20, 52, 54, 23), Box(20, 75, 54, 23), Box(20, 98, 54, 23)]
    screen.act(at(30, 75))
    assert (menu.open, menu.value) == (False, "bee")


def test_a_click_beside_an_open_menu_closes_it_and_reaches_nothing_else() -> None:
    menu, button = Menu(Box(0, 0, 54, 22), "m", ENTRIES[:3]), Button(Box(60, 60, 46, 30), "b")
    screen = Screen([menu, button])
    for action in (at(5, 5), button.box.click()):
        screen.act(action)
    assert (menu.open, menu.value, button.value) == (False, None, False)


def test_an_open_menu_covers_what_it_lies_on_and_stays_on_the_screen() -> None:
    menu, button = Menu(Box(0, 105, 54, 22), "m", ENTRIES[:3]), Button(Box(0, 60, 54, 40), "b")
    screen = Screen([menu, button])
    screen.act(at(5, 110))
    assert screen.targets() == [Box(0, 58, 54, 23), Box(0, 81, 54, 23), Box(0, 104, 54, 23)]
    screen.act(at(5, 90))
    assert (menu.value, button.value) == ("bee", False)


def test_a_list_scrolls_by_what_is_in_view_and_stops_at_its_ends() -> None:
    """Seven entries, three in view: from 0 to 3, then to 4, where the last one shows; back to 1 and to 0."""
    some = ScrollList(Box(10, 10, 70, 70), ENTRIES)
    screen, first = Screen([some]), []
    for direction in ("down", "down", "down", "up", "up"):
        screen.act(scrolled(direction, over=some.box if direction == "up" else None))
        first.append(some.first)
    assert first == [3, 4, 4, 1, 0]


def test_the_entry_that_shows_is_chosen_and_the_bar_chooses_none() -> None:
    some = ScrollList(Box(10, 10, 70, 70), ENTRIES)
    screen = Screen([some])
    screen.act(scrolled("down"))
    screen.act(at(75, 40))
    assert some.value is None
    screen.act(at(11, 79))
    assert some.value == "fox"


def test_a_dialog_takes_every_click_until_it_is_answered() -> None:
    dialog, button = Dialog(Box(0, 0, 110, 80), "Well?", ("OK", "X")), Button(Box(10, 90, 46, 30), "b")
    screen = Screen([button, dialog])
    assert screen.targets() == [Box(4, 40, 47, 36), Box(59, 40, 47, 36)]
    for action in (button.box.click(), at(20, 20), at(52, 50)):
        screen.act(action)
        assert (dialog.value, button.value) == (None, False)
    screen.act(at(60, 50))
    assert (dialog.value, screen.targets()) == ("X", [button.box])
    screen.act(button.box.click())
    assert button.value is True


def test_what_lies_on_top_is_clicked() -> None:
    below, above = Button(Box(0, 0, 40, 40), "a"), Button(Box(20, 20, 40, 40), "b")
    Screen([below, above]).act(at(30, 30))
    assert (below.value, above.value) == (False, True)


def everything() -> tuple[Screen, Dialog]:
    dialog = Dialog(Box(60, 10, 66, 60), "Hm?", ("OK", "X"))
    return Screen(
        [
            Button(box_of(0, 0, 6, 4), "cat", "red"),
            TextField(box_of(0, 4, 10, 3), "blue", "dog"),
            CheckBox(box_of(0, 7, 8, 3), "elk", True),
            Menu(box_of(9, 10, 7, 3), "fox", ENTRIES[:2]),
            ScrollList(box_of(0, 10, 9, 6), ENTRIES),
            dialog,
        ]
    ), dialog


UNREACHABLE = [
    (UIAction("click", (1.01, 0.5)), "the point is not on the screen"),
    (UIAction("click", (0.5, -0.01)), "the point is not on the screen"),
    (UIAction("double_click", (float("nan"), 0.5)), "the point is not on the screen"),
    (UIAction("click"), "the action needs a point"),
    (UIAction("scroll", (0.5, 2.0), direction="down"), "the point is not on the screen"),
    (UIAction("scroll", fraction(5, 5), direction="down"), "nothing scrolls here"),
    (UIAction("scroll", fraction(127, 0), direction="down"), "nothing scrolls here"),
    (scrolled("left"), "the list scrolls up and down"),
    (typed("x"), "nothing has the focus"),
    (key("Backspace"), "nothing has the focus"),
    (key("Escape"), "there is no key 'Escape' here; there are Enter, Tab, Backspace"),
    (UIAction("drag", (0.1, 0.1), (0.9, 0.9)), "there is no drag here; there are click, double_click"),
    (UIAction("open_app", text="rm -rf /"), "there is no open_app here"),
]


@pytest.mark.parametrize(("action", "why"), UNREACHABLE, ids=lambda value: str(value)[:60])
def test_what_cannot_be_carried_out_says_why_and_leaves_the_screen_as_it_is(action: UIAction, why: str) -> None:
    screen, dialog = everything()
    dialog.value = "OK"
    before = screen.draw()
    with pytest.raises(ActionError, match=why):
        screen.act(action)
    assert screen.draw() == before


@pytest.mark.parametrize("action", [typed("x"), key("Enter"), key("Backspace"), key("Tab"), scrolled("down")])
def test_a_dialog_is_answered_by_clicks_alone(action: UIAction) -> None:
    screen, _ = everything()
    before = screen.draw()
    with pytest.raises(ActionError):
        screen.act(action)
    assert screen.draw() == before


def test_only_a_field_takes_text() -> None:
    box = CheckBox(BUTTON, "cat")
    screen = Screen([box])
    screen.act(at(25, 35))
    for action, why in ((typed("x"), "click a text field"), (key("Backspace"), "no text to erase")):
        with pytest.raises(ActionError, match=why):
            screen.act(action)


# --- pictures ---------------------------------------------------------------------------------------------------


def test_a_screen_has_these_pixels_on_every_machine() -> None:
    """Of one machine and one version of Pillow; another one must draw them too."""
    screen, dialog = everything()
    pictures = [screen.draw()]
    for action in (dialog.targets()[0].click(), at(10, 40), at(100, 90), at(100, 90)):
        screen.act(action)
        pictures.append(screen.draw())
    assert {(picture.size, picture.mode) for picture in pictures} == {((128, 128), "RGB")}
    assert all(one != other for one, other in itertools.pairwise(pictures))
    digests = [hashlib.sha256(picture.tobytes()).hexdigest()[:16] for picture in pictures]
    assert digests == DIGESTS


DIGESTS = ["daabd28a95f16f51", "5dfd9e6af6f2950b", "3339bb3c536bfbc7", "3bb445c3b40993f5", "e6bf17ac32071b42"]


def test_text_is_drawn_without_freetype(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = faces.letters("qux")

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("an outline is drawn by FreeType, whose pixels depend on its version")

    monkeypatch.setattr(ImageFont, "truetype", broken)
    faces.letters.cache_clear()
    faces._font.cache_clear()
    assert faces.letters("qux") == expected


def test_a_letter_is_the_bitmap_at_twice_its_size() -> None:
    """The L of Pillow's font, 6 x 11 pixels."""
    rows = [*[""] * 3, "###", "##", "##", "##", "##.##", "#####", *[""] * 2]
    mask = faces.letters("L")
    drawn = ["".join("#" if mask.getpixel((x, y)) else "." for x in range(12)) for y in range(22)]
    assert drawn == ["".join(2 * dot for dot in row.ljust(6, ".")) for row in rows for _ in range(2)]


def test_a_tick_changes_the_pixels_of_its_box_and_no_others() -> None:
    boxes = [CheckBox(box_of(0, row, 8, 3), "cat") for row in (0, 3, 6)]
    screen = Screen(boxes)
    before = screen.draw()
    boxes[1].value = True
    left, top, right, bottom = changed(before, screen.draw()) or (0, 0, 0, 0)
    assert (right - left, bottom - top) == (faces.TICK - 2, faces.TICK - 2)
    assert boxes[1].box.holds(left, top)
    assert boxes[1].box.holds(right, bottom)


def test_typed_text_appears_where_the_field_is() -> None:
    field, button = TextField(box_of(1, 1, 10, 3)), Button(box_of(1, 6, 6, 4), "cat")
    screen = Screen([field, button])
    screen.act(field.box.click())
    seen = [screen.draw()]
    for text in ("c", "a", "t"):
        screen.act(typed(text))
        seen.append(screen.draw())
        left, top, right, bottom = changed(*seen[-2:]) or (0, 0, 0, 0)
        start = field.box.left + 2 * faces.EDGE + faces.LETTER_WIDTH * (len(field.value) - 1)
        assert start <= left < right <= start + faces.LETTER_WIDTH
        assert field.box.top <= top < bottom <= field.box.top + field.box.height
    assert len({picture.tobytes() for picture in seen}) == 4


def test_of_a_long_text_the_end_is_seen_and_strange_letters_are_question_marks() -> None:
    field = TextField(box_of(0, 0, 10, 3))
    screen = Screen([field])

    def shown(text: str) -> bytes:
        field.value = text
        return screen.draw().tobytes()

    assert shown("x" * 10_000 + "abcde") == shown("abcde") != shown("abcd")
    assert shown("日本\n\x00é") == shown("?????")


def test_what_has_the_focus_and_what_was_pressed_is_seen() -> None:
    field, button = TextField(box_of(0, 0, 10, 3)), Button(box_of(0, 4, 6, 4), "cat", "red")
    screen = Screen([field, button])
    seen = [screen.draw().tobytes()]
    for action in (key("Tab"), key("Tab"), key("Enter")):
        screen.act(action)
        seen.append(screen.draw().tobytes())
    assert len(set(seen)) == 4


def test_a_picture_is_the_readers_own() -> None:
    screen, _ = everything()
    first = screen.draw()
    before = first.tobytes()
    first.paste((1, 2, 3), (0, 0, 128, 128))
    assert screen.draw().tobytes() == before
