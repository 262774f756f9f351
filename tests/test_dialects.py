"""Actions written and read in every dialect: round trips, fixed points, the edges of the screen, and the grammar."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest

from pe_rlhf_mm.envs.actions import ActionError, Codec, Dialect, Direction, Kind, Point, UIAction, codec
from pe_rlhf_mm.envs.dialects.browsergym import BrowserGym
from pe_rlhf_mm.envs.dialects.percent import Percent
from pe_rlhf_mm.envs.dialects.pixels import Pixels
from pe_rlhf_mm.envs.dialects.resized import Resized
from pe_rlhf_mm.errors import ImageError, OutOfRange

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
KINDS: tuple[Kind, ...] = get_args(Kind)
SIZES = [(1, 1), (2, 3), (7, 1000), (160, 210), (391, 845), (1080, 2400), (1919, 1079), (4096, 2160)]
ELEMENTS: dict[str, tuple[Kind, ...]] = {
    "browsergym": ("click", "double_click", "type", "key"),
    "android_world": ("click", "scroll", "type"),
}
UNSAYABLE: dict[str, set[str]] = {
    "browsergym": {"long_press", "open_app", "home", "done"},
    "android_world": {"drag"},
    "aitw": {"double_click", "long_press", "scroll", "open_app", "wait", "answer"},
}
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.625, 3.0)
CODECS: dict[str, Codec] = {
    **{name: codec(name) for name in DIALECTS},
    **{f"browsergym x {scale}": BrowserGym(scale=scale) for scale in SCALES},
    "resized, small": Resized(block=32, min_pixels=64 * 64, max_pixels=320 * 320),
}


def half_a_place(name: str, size: tuple[int, int]) -> tuple[float, float]:
    """Half the distance of two neighbouring places of a dialect, in fractions of the screenshot, across and down."""
    if name in ("norm1000", "percent", "aitw"):
        return (0.5 / {"norm1000": 1000, "percent": 100, "aitw": 10_000}[name],) * 2
    if name.startswith("resized"):
        last = CODECS[name].render(UIAction("click", point=(1.0, 1.0)), size)
        across, down = (int(number) + 1 for number in re.findall("[0-9]+", last))
        return 0.5 / across, 0.5 / down
    return 0.5 / size[0], 0.5 / size[1]


def sizes(rng: random.Random, count: int) -> Iterator[tuple[int, int]]:
    yield from SIZES
    for _ in range(count):
        width = rng.randint(1, 4096)
        yield width, min(2160, max(1, round(width * 2 ** rng.uniform(-6, 6))))


def points(rng: random.Random, size: tuple[int, int]) -> Iterator[Point]:
    yield from [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    for _ in range(4):
        yield rng.random(), rng.random()
        yield tuple((rng.randrange(side) + 0.5) / side for side in size)  # type: ignore[misc]


def text(rng: random.Random) -> str:
    letters = "aZ09 '\"\\/(),=[]{}:;`.#é漢😀\u2028\xa0\t|%$"
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 12))).strip() or "x"


def action(kind: Kind, point: Point, to: Point, rng: random.Random) -> UIAction:
    """A complete action of a kind, with nothing to spare."""
    if kind in ("click", "double_click", "long_press"):
        return UIAction(kind, point=point)
    if kind == "drag":
        return UIAction(kind, point=point, to=to)
    if kind == "scroll":
        return UIAction(kind, direction=rng.choice(get_args(Direction)[1:]))
    if kind == "key":
        return UIAction(kind, text="Enter")
    return UIAction(kind, text=text(rng) if kind in ("type", "open_app", "answer") else "")


# --- round trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_a_point_comes_back_within_half_a_place_and_then_stays(name: str) -> None:
    rng, speech = random.Random(0), CODECS[name]
    for size in sizes(rng, 60):
        near = half_a_place(name, size)
        for point in points(rng, size):
            said = speech.render(UIAction("click", point=point), size)
            read = speech.parse(said, size)
            assert read.kind == "click"
            assert read.point is not None
            for found, given, bound in zip(read.point, point, near, strict=True):
                assert abs(found - given) <= bound + 1e-9, (size, said)
            assert speech.render(read, size) == said
            assert speech.parse(speech.render(read, size), size) == read


@pytest.mark.parametrize("name", ["pixels", "android_world", *(f"browsergym x {scale}" for scale in SCALES)])
def test_the_centre_of_a_pixel_comes_back_as_itself(name: str) -> None:
    rng, speech = random.Random(1), CODECS[name]
    for size in sizes(rng, 40):
        for pixel in [(0, 0), (size[0] - 1, size[1] - 1), (rng.randrange(size[0]), rng.randrange(size[1]))]:
            point = ((pixel[0] + 0.5) / size[0], (pixel[1] + 0.5) / size[1])
            assert speech.parse(speech.render(UIAction("click", point=point), size), size).point == point


@pytest.mark.parametrize("name", DIALECTS)
def test_every_kind_is_written_and_read_or_refused(name: str) -> None:
    rng, speech, refused = random.Random(2), codec(name), set()
    for round_ in range(150):
        size = SIZES[round_ % len(SIZES)]
        for kind in KINDS:
            # Far apart, so that a drag is no tap.
            given = action(kind, (rng.uniform(0, 0.4), rng.random()), (rng.uniform(0.6, 1), rng.random()), rng)
            try:
                said = speech.render(given, size)
            except ActionError:
                refused.add(kind)
                continue
            read = speech.parse(said, size)
            assert replace(read, point=None, to=None) == replace(given, point=None, to=None), said
            assert (read.point is None, read.to is None) == (given.point is None, given.to is None)
            assert speech.parse(speech.render(read, size), size) == read
            assert speech.parse(f"I think so.\n{said}", size) == read if name != "percent" else True
    assert refused == UNSAYABLE.get(name, set())


@pytest.mark.parametrize("name", CODECS)
def test_what_was_read_once_is_read_the_same_for_ever(name: str) -> None:
    rng, speech = random.Random(3), CODECS[name]
    write, seen = WRITTEN[re.split(", | x ", name, maxsplit=1)[0]], 0
    for size in SIZES:
        far = 1 if name == "aitw" else 60
        for _ in range(60):
            x, y = (rng.choice([rng.randint(0, far), round(rng.uniform(0, far), 3)]) for _ in "xy")
            try:
                read = speech.parse(write(x, y), size)
            except ActionError:  # outside, or a fraction of a percent
                continue
            assert speech.parse(speech.render(read, size), size) == read
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("name", ELEMENTS)
def test_an_element_stands_in_a_points_place(name: str) -> None:
    for kind in ELEMENTS[name]:
        given = replace(action(kind, (0.5, 0.5), (1, 1), random.Random(4)), point=None, element="13")
        assert codec(name).parse(codec(name).render(given, (90, 90)), (90, 90)) == given
        with pytest.raises(ActionError, match="cannot name the element"):
            codec("pixels").render(given, (90, 90))
    both = UIAction("click", point=(0.5, 0.5), element="13")
    assert codec(name).parse(codec(name).render(both, (91, 91)), (91, 91)) == replace(both, element="")


# --- the numbers that dialects write, by hand -------------------------------------------------------------------


def _call(x: object, y: object) -> str:
    return f"click({x}, {y})"


WRITTEN: dict[str, Any] = {
    "pixels": _call,
    "norm1000": _call,
    "resized": _call,
    "percent": lambda x, y: f"click {x} {y}",
    "browsergym": lambda x, y: f"mouse_click({x}, {y})",
    "android_world": lambda x, y: f'{{"action_type": "click", "x": {x}, "y": {y}}}',
    "aitw": lambda x, y: f'{{"action_type": "DUAL_POINT", "touch_point": [{y}, {x}], "lift_point": [{y}, {x}]}}',
}


@pytest.mark.parametrize(
    ("name", "x", "y", "point"),
    [
        ("pixels", 0, 0, (0.005, 0.0025)),  # the centres of the first pixels of 100 x 200
        ("pixels", 99, 199, (0.995, 0.9975)),
        ("pixels", 12.9, 7, (0.125, 0.0375)),
        ("norm1000", 0, 1000, (0.0, 1.0)),
        ("norm1000", 250, 333.4, (0.25, 0.333)),
        ("percent", 0, 100, (0.0, 1.0)),
        ("percent", 50, 7, (0.5, 0.07)),
        ("browsergym", 50, 50, (0.505, 0.2525)),
        ("android_world", 50, 50, (0.505, 0.2525)),
        ("aitw", 0.25, 0.5, (0.25, 0.5)),  # written y first
        ("resized", 0, 0, (0.5 / 112, 0.5 / 196)),  # 100 = 3.57 blocks of 28 and 200 = 7.14: 4 x 28 by 7 x 28
        ("resized", 111, 195, (111.5 / 112, 195.5 / 196)),
    ],
)
def test_numbers_mean_what_the_dialect_says(name: str, x: float, y: float, point: Point) -> None:
    read = codec(name).parse(WRITTEN[name](x, y), (100, 200))
    assert read.kind == "click"
    assert read.point == pytest.approx(point, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "size", "resized"),
    [
        (Resized(), (1080, 2400), (1092, 2408)),  # 38.57 and 85.71 blocks
        (Resized(max_pixels=1_003_520), (1080, 2400), (672, 1484)),  # / 1.60703 / 28: 24.0 and 53.3, rounded down
        (Resized(), (10, 10), (56, 56)),  # grows to the least area
        (Resized(block=32, min_pixels=65_536), (100, 50), (384, 192)),  # * 3.6204 / 32: 11.3 and 5.7, rounded up
    ],
)
def test_resized_counts_pixels_of_the_picture_that_the_model_sees(
    settings: Resized, size: tuple[int, int], resized: tuple[int, int]
) -> None:
    corner = UIAction("click", point=(1.0, 1.0))
    assert settings.render(corner, size) == f"click({resized[0] - 1}, {resized[1] - 1})"
    with pytest.raises(ActionError, match=f"x goes from 0 to {resized[0] - 1} and y from 0 to {resized[1] - 1}"):
        settings.parse(f"click({resized[0]}, 0)", size)


def test_a_screenshot_that_the_model_does_not_take_is_no_fault_of_the_agent() -> None:
    with pytest.raises(ImageError):
        Resized().parse("click(1, 1)", (5, 2000))


def test_a_page_is_counted_in_its_own_pixels_at_any_device_scale() -> None:
    twice = BrowserGym(scale=2)  # a page of 195 x 422 on a screenshot of 390 x 844
    assert twice.parse("mouse_click(194.7, 0.2)", (390, 844)).point == (389.5 / 390, 0.5 / 844)
    assert twice.render(UIAction("click", point=(20.5 / 390, 21.5 / 844)), (390, 844)) == "mouse_click(10, 10.75)"
    assert twice.render(UIAction("scroll", direction="left"), (390, 844)) == "scroll(-98, 0)"
    with pytest.raises(ActionError, match=r"x goes from 0 to 194\.5"):
        twice.parse("mouse_click(195, 0)", (390, 844))
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(OutOfRange):
            BrowserGym(scale=scale)


# --- the edges of the screen ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("off", ["-1", "-0.001", "1e400", "1e9", "-1e400", "9" * 400, "99999999999"])
def test_what_lies_outside_is_an_error_and_never_moved(name: str, off: str) -> None:
    for place in [(off, "0"), ("0", off), (off, off)]:
        with pytest.raises(ActionError, match=r"outside the screen|whole number"):
            codec(name).parse(WRITTEN[name](*place), (100, 200))


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("pixels", 100, 0),
        ("pixels", 0, 200),
        ("browsergym", 100, 0),
        ("android_world", 0, 200),
        ("norm1000", 1001, 0),
        ("norm1000", 1000.001, 0),
        ("percent", 101, 0),
        ("aitw", 1.0001, 0),
        ("aitw", 50, 20),
    ],
)
def test_the_first_place_outside_is_outside(name: str, x: float, y: float) -> None:
    with pytest.raises(ActionError, match=r"outside the screen, where x goes from 0 to .* and y from 0 to "):
        codec(name).parse(WRITTEN[name](x, y), (100, 200))


@pytest.mark.parametrize("point", [(-0.01, 0.5), (0.5, 1.01), (float("nan"), 0.5), (0.5, float("inf"))])
@pytest.mark.parametrize("name", DIALECTS)
def test_no_point_outside_is_written(name: str, point: Point) -> None:
    with pytest.raises(ActionError, match="outside the screen"):
        codec(name).render(UIAction("click", point=point), (100, 200))


@pytest.mark.parametrize("name", ["pixels", "norm1000", "resized"])
def test_a_box_counts_by_its_middle(name: str) -> None:
    speech = codec(name)
    for said in ("click(10, 20, 30, 41)", "click([10, 20, 30, 41])", "click((10, 20), (30, 41))"):
        assert speech.parse(said, (100, 200)) == speech.parse("click(20, 30.5)", (100, 200))
    assert speech.parse("click((20, 30))", (100, 200)) == speech.parse("click(x=20, y=30)", (100, 200))
    far = {"pixels": (100, 200), "norm1000": (1000, 1000), "resized": (112, 196)}[name]
    assert speech.parse(f"long_press(0, 0, {far[0]}, {far[1]})", (100, 200)).kind == "long_press"
    outside = (f"-1, 0, {far[0]}, 9", f"0, 0, {far[0] + 1}, 9", "9, 9, 9, 1e999")
    for wrong in ("30, 20, 10, 41", "10, 41, 30, 20", *outside):
        with pytest.raises(ActionError, match=r"the box from .* is outside the screen"):
            speech.parse(f"click({wrong})", (100, 200))


# --- grammar ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIALECTS)
def test_what_the_prompt_tells_is_understood(name: str) -> None:
    lines = codec(name).describe().split("\n")[1:-1]
    told = set()
    for line in lines:
        said = re.sub(r"\b(?:from_|to_|delta_)?[xyXY][12]?\b(?!\":)", "1", line.split("  ")[0])
        told.add(codec(name).parse(said, (100, 200)).kind)
    assert told == set(KINDS) - UNSAYABLE.get(name, set()) - ({"drag"} if name == "aitw" else set())


def test_a_prompt_tells_of_the_kinds_that_it_was_made_with() -> None:
    few = Percent(kinds=("click", "type"))
    assert few.describe().split("\n")[1:-1] == ["click X Y", "type TEXT"]
    assert few.parse("done", (9, 9)).kind == "done"  # the environment says what cannot be done in it
    assert "drag" not in Pixels(kinds=("click",)).describe()


@pytest.mark.parametrize("name", DIALECTS)
def test_an_incomplete_action_is_not_written(name: str) -> None:
    for broken in [UIAction("click"), UIAction("drag", point=(0.1, 0.1)), UIAction("scroll"), UIAction("key")]:
        with pytest.raises(ActionError):
            codec(name).render(broken, (9, 9))
    for more in [
        UIAction("back", text="x"),
        UIAction("click", point=(0.5, 0.5), to=(0.1, 0.1)),
        UIAction("type", text="\x00"),
        UIAction("type", text="\ud800"),
        UIAction("scroll", direction="sideways"),  # type: ignore[arg-type]
        UIAction("fly"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(ActionError):
            codec(name).render(more, (9, 9))


def test_a_scroll_may_have_a_place_and_typing_in_android_world_too() -> None:
    there = UIAction("scroll", point=(0.5, 0.5), direction="up")
    for name in ("pixels", "percent", "android_world"):
        assert codec(name).parse(codec(name).render(there, (99, 99)), (99, 99)) == there
    with pytest.raises(ActionError, match="cannot say the point of a scroll"):
        codec("browsergym").render(there, (99, 99))
    typed = UIAction("type", point=(0.5, 0.5), text="x")
    assert codec("android_world").parse(codec("android_world").render(typed, (99, 99)), (99, 99)) == typed
    with pytest.raises(ActionError, match="cannot say the point of a type"):
        codec("pixels").render(typed, (99, 99))


def test_percent_cannot_say_lines_and_outer_spaces() -> None:
    for said in ("a\nb", " a", "a ", "", " "):
        with pytest.raises(ActionError):
            codec("percent").render(UIAction("type", text=said), (9, 9))
    for reply in ("type a\nb", "infeasible a\nb"):
        with pytest.raises(ActionError, match="write only"):
            codec("percent").parse(reply, (9, 9))
    inner = UIAction("type", text="a  b")
    assert codec("percent").parse(codec("percent").render(inner, (9, 9)), (9, 9)) == inner


@pytest.mark.parametrize("name", ["android_world", "aitw"])
def test_android_has_the_key_enter_only(name: str) -> None:
    with pytest.raises(ActionError, match="the key Enter only, not 'Tab'"):
        codec(name).render(UIAction("key", text="Tab"), (9, 9))


def test_a_short_drag_is_a_tap_in_aitw() -> None:
    speech = codec("aitw")
    with pytest.raises(ActionError, match="is a tap"):
        speech.render(UIAction("drag", point=(0.5, 0.5), to=(0.5, 0.53)), (99, 99))
    near = {"action_type": "DUAL_POINT", "touch_point": [0, 0.5], "lift_point": [0.04, 0.5]}
    assert speech.parse(json.dumps(near), (99, 99)) == UIAction("click", point=(0.5, 0.0))
    far = {**near, "lift_point": [0.0401, 0.5]}
    assert speech.parse(json.dumps(far), (99, 99)) == UIAction("drag", point=(0.5, 0.0), to=(0.5, 0.0401))


def test_dialects_are_values_and_light() -> None:
    assert codec("resized") == Resized()
    assert len({Resized(), Resized(block=32), Pixels()}) == 3
    names = ", ".join(f"pe_rlhf_mm.envs.dialects.{name}" for name in DIALECTS)
    heavy = "{'numpy', 'PIL', 'jax', 'playwright'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, pe_rlhf_mm.envs.matching, {names}; print({heavy} or 'light')"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "light"
