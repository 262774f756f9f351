"""Episodes on drawn screens: what wins and what loses, what each reply is answered, and replies that are no action."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from PIL import Image as Pillow

from pe_rlhf_mm.envs.actions import UIAction
from pe_rlhf_mm.envs.canvas.environment import CanvasEnv
from pe_rlhf_mm.envs.canvas.layout import Box
from pe_rlhf_mm.envs.canvas.problem import Problem, Wish
from pe_rlhf_mm.envs.canvas.screen import Screen
from pe_rlhf_mm.envs.canvas.widgets import Button, CheckBox, Dialog, Menu, TextField
from pe_rlhf_mm.envs.episode import play
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing import check_env
from pe_rlhf_mm.types import Message, Sample, Step

SAMPLE = Sample("one", [Message("system", "Act.")])
RED, BLUE = Box(0, 0, 46, 30), Box(64, 64, 46, 30)
ON_RED, ON_BLUE, ON_NOTHING = "click 18 12", "click 68 62", "click 90 10"

Make = Callable[[], Problem]


def press_red() -> Problem:
    red, blue = Button(RED, "cat", "red"), Button(BLUE, "dog", "blue")
    return Problem("Press the red button.", Screen([red, blue]), [Wish(red, True)])


def red_then_blue() -> Problem:
    red, blue = Button(RED, "cat", "red"), Button(BLUE, "dog", "blue")
    return Problem("Press red, then blue.", Screen([red, blue]), [Wish(red, True), Wish(blue, True)])


def fill() -> Problem:
    """A field where the red button would be, a box to be ticked at the bottom left, and blue to end it."""
    field, box, blue = TextField(RED), CheckBox(Box(0, 100, 62, 22), "ok"), Button(BLUE, "dog", "blue")
    wishes = [Wish(field, "cat"), Wish(box, True), Wish(blue, True)]
    return Problem('Type "cat", tick, press blue.', Screen([field, box, blue]), wishes)


def ask() -> Problem:
    """A dialog over the left half, with OK at its left and X at its right; red behind it."""
    red, dialog = Button(RED, "cat", "red"), Dialog(Box(0, 0, 110, 80), "Well?", ("OK", "X"))
    return Problem("Accept, then press red.", Screen([red, dialog]), [Wish(dialog, "OK"), Wish(red, True)])


def choose() -> Problem:
    """A menu whose entries stand at 52, 75 and 98 pixels from the top."""
    menu = Menu(Box(0, 30, 54, 22), "pet", ("ant", "bee", "cat"))
    return Problem('Choose "bee".', Screen([menu]), [Wish(menu, "bee")])


def episode(make: Make, replies: Sequence[str], max_steps: int = 8) -> list[Step]:
    environment = CanvasEnv(lambda _: make(), max_steps=max_steps)
    return [environment.reset(SAMPLE, seed=0), *map(environment.step, replies)]


def picture(step: Step) -> Pillow.Image:
    image: Pillow.Image = step.observation[0].content[0].source  # type: ignore[union-attr]
    return image


TICK, OK, X, OPEN = "click 20 85", "click 20 45", "click 64 45", "click 20 30"

ENDED: list[tuple[Make, list[str], float]] = [
    (press_red, [ON_RED], 1),
    (press_red, [ON_BLUE], 0),
    (press_red, [ON_NOTHING, "wait", ON_RED], 1),
    (press_red, ["key Tab", "key Enter"], 1),
    (press_red, ["done"], 0),
    (press_red, ["infeasible"], 0),
    (red_then_blue, [ON_RED, ON_BLUE], 1),
    (red_then_blue, [ON_RED, ON_RED, ON_BLUE], 1),
    (red_then_blue, [ON_BLUE], 0),
    (fill, [ON_RED, "type cat", TICK, ON_BLUE], 1),
    (fill, [TICK, ON_RED, "type cat", ON_BLUE], 1),
    (fill, [ON_RED, "type cats", "key Backspace", TICK, ON_BLUE], 1),
    (fill, [ON_RED, "type ca", "type t", TICK, ON_BLUE], 1),
    (fill, [TICK, TICK, ON_RED, "type cat", ON_BLUE], 0),
    (fill, [ON_RED, "type Cat", TICK, ON_BLUE], 0),
    (fill, [ON_RED, "type cat", ON_BLUE], 0),
    (ask, [OK, ON_RED], 1),
    (ask, [ON_RED, OK, ON_RED], 1),
    (ask, [X], 0),
    (choose, [OPEN, "click 20 66"], 1),
    (choose, [OPEN, ON_NOTHING, OPEN, "click 20 66"], 1),
    (choose, [OPEN, "click 20 50"], 0),
    (choose, ["double_click 20 30", "key Enter", "click 20 66"], 1),
]


@pytest.mark.parametrize(("make", "replies", "reward"), ENDED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_an_episode_ends_with_its_last_reply_and_not_before(make: Make, replies: list[str], reward: float) -> None:
    steps = episode(make, replies)
    assert [step.terminated for step in steps] == [False] * len(replies) + [True]
    assert [step.reward for step in steps] == [0] * len(replies) + [reward]
    assert not any(step.truncated or "action_error" in step.info for step in steps)


def test_what_is_shown_is_the_goal_once_and_the_screen_every_time() -> None:
    steps = episode(fill, [ON_RED, "type cat", "nonsense", TICK, ON_BLUE])
    shown = [[getattr(part, "text", "picture") for part in step.observation[0].content] for step in steps]
    assert shown[0] == ["picture", 'Type "cat", tick, press blue.']
    assert [len(parts) for parts in shown] == [2, 1, 1, 2, 1, 1]
    assert {(len(step.observation), step.observation[0].role) for step in steps} == {(1, "user")}
    assert {(picture(step).size, picture(step).mode) for step in steps} == {((128, 128), "RGB")}
    same = [picture(one) == picture(other) for one, other in itertools.pairwise(steps)]
    assert same == [False, False, True, False, False]


def test_what_was_carried_out_is_told() -> None:
    steps = episode(fill, [ON_RED, "type cat", "type", "done"])
    assert [step.info.get("action") for step in steps] == [
        None,
        UIAction("click", (0.18, 0.12)),
        UIAction("type", text="cat"),
        None,
        UIAction("done"),
    ]
    assert ["action_error" in step.info for step in steps] == [False, False, False, True, False]


NO_ACTIONS = [
    "",
    "I would click the red button.",
    "click",
    "click 50",
    "click 500 20",
    "click -1 20",
    "click nan 20",
    "press 18 12",
    f"{ON_RED}\n{ON_RED}",
    "__import__('os').system('true')",
    "drag 18 12 68 62",
    "open_app Clock",
    "scroll sideways",
    "scroll down",
    "type cat",
    "key Escape",
    "click 18 12 " * 10_000,
    ON_RED + " " * 100_000,
    "type " + "x" * 100_000,
    "(" * 100_000,
]


@pytest.mark.parametrize("reply", NO_ACTIONS, ids=lambda reply: f"{len(reply)}:{reply[:30]}")
def test_what_cannot_be_done_is_said_and_changes_nothing(reply: str) -> None:
    first, answer, last = episode(press_red, [reply, ON_RED])
    assert (answer.reward, answer.terminated, answer.truncated) == (0, False, False)
    assert list(answer.info) == ["action_error"]
    assert 0 < len(answer.info["action_error"]) < 200
    assert [part.text for part in answer.observation[0].content[1:]] == [answer.info["action_error"]]  # type: ignore[union-attr]
    assert picture(answer) == picture(first)
    assert (last.reward, last.terminated) == (1, True)


def test_a_budget_of_replies_ends_it_and_counts_those_that_fail() -> None:
    steps = episode(press_red, ["nonsense", ON_NOTHING, "wait"], max_steps=3)
    assert [step.terminated for step in steps] == [False] * 3 + [True]
    assert (steps[-1].reward, steps[-1].truncated, steps[-1].info["out_of_steps"]) == (0, False, True)


@pytest.mark.parametrize(("reply", "reward"), [(ON_RED, 1), (ON_BLUE, 0), ("done", 0)])
def test_what_ends_with_the_last_reply_of_its_budget_is_not_out_of_steps(reply: str, reward: float) -> None:
    last = episode(press_red, ["wait", reply], max_steps=2)[-1]
    assert (last.reward, last.terminated, "out_of_steps" in last.info) == (reward, True, False)


def test_after_its_end_an_episode_must_be_reset() -> None:
    environment = CanvasEnv(lambda _: press_red())
    with pytest.raises(RuntimeError, match="call reset first"):
        environment.step(ON_RED)
    environment.reset(SAMPLE, seed=0)
    environment.step(ON_RED)
    with pytest.raises(RuntimeError, match="call reset first"):
        environment.step(ON_RED)
    assert picture(environment.reset(SAMPLE, seed=0)) == picture(episode(press_red, [])[0])
    environment.close()
    with pytest.raises(RuntimeError, match="call reset first"):
        environment.step(ON_RED)


def test_a_reset_in_the_middle_begins_anew() -> None:
    environment = CanvasEnv(lambda _: fill(), max_steps=4)
    first = picture(environment.reset(SAMPLE, seed=0))
    for reply in (ON_RED, "type x", TICK):
        environment.step(reply)
    assert picture(environment.reset(SAMPLE, seed=1)) == first
    steps = [environment.step(reply) for reply in (ON_RED, "type cat", TICK, ON_BLUE)]
    assert (steps[-1].reward, steps[-1].terminated) == (1, True)


def test_a_picture_that_was_given_away_may_be_drawn_on() -> None:
    environment = CanvasEnv(lambda _: press_red())
    first = picture(environment.reset(SAMPLE, seed=0))
    before = first.copy()
    first.paste((1, 2, 3), (0, 0, 128, 128))
    assert picture(environment.step("wait")) == before


def test_another_dialect_is_spoken_when_it_is_named() -> None:
    environment = CanvasEnv(lambda _: press_red(), dialect="pixels")
    environment.reset(SAMPLE, seed=0)
    assert environment.step(ON_RED).info["action_error"]
    assert environment.step("click(23, 15)").reward == 1
    with pytest.raises(UserError, match="no dialect of actions is called 'morse'"):
        CanvasEnv(lambda _: press_red(), dialect="morse")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [press_red, red_then_blue, fill, ask, choose])
def test_the_environment_conforms_and_is_played(make: Make) -> None:
    replies = next(replies for found, replies, reward in ENDED if found is make and reward)
    assert check_env(CanvasEnv(lambda _: make()), [SAMPLE], solve=lambda _: replies) == []
    said = iter(replies)
    outcome = play(lambda messages: next(said), CanvasEnv(lambda _: make()), SAMPLE, seed=0)
    assert outcome.steps[-1].reward == 1


# --- problems ---------------------------------------------------------------------------------------------------


def test_the_oracle_finds_its_way_from_anywhere() -> None:
    """A menu that is open, a text that is wrong, a box that is ticked already."""
    problem = fill()
    for action in (UIAction("click", (0.1, 0.1)), UIAction("type", text="cows"), UIAction("click", (0.2, 0.85))):
        problem.screen.act(action)
    said = [(action.kind, action.text) for action in problem.solution()]
    erase = ("key", "Backspace")
    assert said == [("click", ""), erase, erase, erase, ("type", "at"), ("click", "")]
    assert problem.verdict is True


def test_what_helps_leaves_less_to_be_done() -> None:
    problem = fill()
    helping = [UIAction("click", (0.1, 0.1)), UIAction("click", (0.2, 0.85))]  # the field or the box: in any order
    for action in helping:
        assert problem.helps(action)
    for action in (UIAction("click", (0.68, 0.62)), UIAction("wait"), UIAction("type", text="cat"), UIAction("done")):
        assert not problem.helps(action)
    assert [wish.widget.value for wish in problem.wishes] == ["", False, False]
