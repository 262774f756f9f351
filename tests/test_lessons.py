"""What tiny-vlm is taught: that the answers are right, and that nothing of the tasks is given away."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from PIL import Image as Pillow

from pe_rlhf_mm.assets import screens, tiny_vlm
from pe_rlhf_mm.assets.screens import NAMES, Screen, Thing, point_at, what_is_at
from pe_rlhf_mm.envs.actions import ActionError, codec

DRAWN = [screens.screen(random.Random(seed), tiny_vlm.WORDS) for seed in range(300)]


def test_every_sort_of_thing_is_drawn_and_lies_on_its_screen() -> None:
    assert {thing.kind for screen in DRAWN for thing in screen.things} == set(NAMES)
    for screen in DRAWN:
        assert screen.things
        for thing in screen.things:
            left, top, right, bottom = thing.place
            assert 0 <= left < right <= screen.image.width
            assert 0 <= top < bottom <= screen.image.height


def test_the_answer_is_inside_the_thing() -> None:
    for screen in DRAWN:
        for thing in screen.things:
            x, y = map(int, screen.percent(thing).split())
            left, top, right, bottom = thing.place
            assert left - 1 <= x / 100 * screen.image.width <= right + 1
            assert top - 1.5 <= y / 100 * screen.image.height <= bottom + 1.5


def test_where_a_thing_is_said_to_be_something_can_be_seen() -> None:
    for screen in DRAWN:
        pixels = np.asarray(screen.image, np.int32)
        for thing in screen.things:
            left, top, right, bottom = thing.place
            assert np.ptp(pixels[top : bottom + 1, left : right + 1], axis=(0, 1)).max() > 20


def test_things_do_not_cover_each_other() -> None:
    """Half of it from any middle is its own: things are picked out by where their middles are."""
    for screen in DRAWN:
        for thing in screen.things:
            x, y = thing.center
            inside = [o for o in screen.things if o.place[0] <= x <= o.place[2] and o.place[1] <= y <= o.place[3]]
            assert inside == [thing]


def test_the_same_seed_draws_the_same_screen() -> None:
    again = screens.screen(random.Random(7), tiny_vlm.WORDS)
    assert (again.image.tobytes(), again.things) == (DRAWN[7].image.tobytes(), DRAWN[7].things)


TWO_FIELDS = Screen(
    Pillow.new("RGB", (100, 200)), [Thing("field", (10, 20, 50, 40)), Thing("field", (50, 120, 90, 160))]
)


def test_the_second_of_two_is_the_lower_one() -> None:
    found = dict(point_at(TWO_FIELDS, random.Random(seed)) for seed in range(200))
    names = ("field", "text field", "textbox")
    first = {f"Point at {said}." for n in names for said in (f"the first {n}", f"the 1st {n}", f"{n} #1")}
    second = {f"Point at {said}." for n in names for said in (f"the second {n}", f"the 2nd {n}", f"{n} #2")}
    assert found == dict.fromkeys(first, "30 15") | dict.fromkeys(second, "70 70")


def test_what_is_alone_needs_no_number() -> None:
    alone = TWO_FIELDS._replace(things=[Thing("cross", (0, 0, 10, 10))])
    assert {point_at(alone, random.Random(seed)) for seed in range(50)} == {
        ("Point at the cross.", "5 2"), ("Point at the x.", "5 2"),
    }  # fmt: skip
    assert what_is_at(alone, random.Random(0)) == ("What is at 5 2?", "cross")


def test_what_is_quoted_stands_in_the_prompt_once() -> None:
    for seed in range(500):
        prompt, said = tiny_vlm.quotation(random.Random(seed))
        assert re.findall('"(.*?)"', prompt) == [said]
        assert re.fullmatch("[A-Za-z0-9]{2,9}", said)


def told() -> list[tiny_vlm.Lesson]:
    phases, shown = [phase._replace(steps=20) for phase in tiny_vlm.PHASES], tiny_vlm.pictures()
    return [lesson for phase in phases for lesson in tiny_vlm.lessons(shown, phase, 0)]


def test_no_lesson_is_a_question_or_an_action_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_vlm, "SCREENS", 50)
    found = told()
    assert {image is None for image, _, _ in found} == {True, False}
    for _, prompt, reply in found:
        assert not prompt.endswith("?") or prompt.startswith("What is at ")
        if not prompt.startswith("Repeat: "):
            with pytest.raises(ActionError):
                codec("percent").parse(reply, (100, 100))
