"""Step accuracy, success of episodes, clicks in boxes: values and parts by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pe_rlhf_mm.envs.actions import UIAction
from pe_rlhf_mm.envs.matching import Box, ClickTarget, Rule, StepTarget
from pe_rlhf_mm.evaluators.click_in_box import ClickInBox
from pe_rlhf_mm.evaluators.ui_step import UIStep
from pe_rlhf_mm.evaluators.ui_success import UISuccess
from pe_rlhf_mm.testing import check_evaluator
from pe_rlhf_mm.types import Evaluator, Message, Outcome, Sample, Score, Step

SIZE = (1000, 2000)
CLICK = UIAction("click", point=(0.5, 0.5))


def outcome(target: Any, *replies: str, steps: tuple[Step, ...] = ()) -> Outcome:
    return Outcome(Sample("s", (Message("user", "?"),), target=target), replies, steps)


def step_target(action: UIAction, *boxes: Box, rule: Rule = "android_control", dialect: str = "pixels") -> StepTarget:
    return StepTarget(action, rule, boxes, dialect, SIZE)


@pytest.mark.parametrize("evaluator", [UIStep(), UISuccess(), ClickInBox()])
def test_they_are_evaluators(evaluator: Evaluator) -> None:
    played = outcome(None, "x", steps=(Step([]), Step([], 1.0, terminated=True)))
    clicked = outcome(ClickTarget((0, 0, 1, 1), "pixels", SIZE), "click(1, 1)")
    stepped = outcome(step_target(CLICK), "click(1, 1)")
    assert check_evaluator(evaluator) == []
    assert check_evaluator(evaluator, [played, clicked, stepped, outcome(None)]) == []


# --- steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "reply", "value", "parts"),
    [
        (step_target(CLICK, (0.4, 0.4, 0.6, 0.6)), "click(401, 801)", 1, (0, 1, 1)),
        (step_target(CLICK, (0.4, 0.4, 0.6, 0.6)), "click(399, 801)", 0, (0, 1, 0)),
        (step_target(CLICK), "Thought: there.\nclick(600, 1000)", 1, (0, 1, 1)),  # no box: within 0.14
        (step_target(CLICK), "long_press(500, 1000)", 0, (0, 0, 0)),
        (step_target(CLICK), "I would click it.", 0, (1, 0, 0)),
        (step_target(CLICK), "click(1000, 1000)", 0, (1, 0, 0)),  # outside the screen, and not moved into it
        (step_target(UIAction("type", text="Hello world")), 'type("hello  World")', 1, (0, 1, 1)),
        (step_target(UIAction("type", text="Hello world")), 'type("goodbye")', 0, (0, 1, 0)),
        (step_target(CLICK, (0.45, 0.45, 0.55, 0.55), rule="aitw"), "click(610, 1220)", 1, (0, 1, 1)),  # to 0.62
        (step_target(CLICK, (0.45, 0.45, 0.55, 0.55), rule="aitw"), "click(630, 1220)", 0, (0, 1, 0)),
        (step_target(CLICK, rule="aitw"), "drag(500, 1000, 500, 1040)", 1, (0, 1, 1)),  # 0.02: a tap
        (step_target(CLICK, rule="aitw"), "drag(500, 1000, 500, 1400)", 0, (0, 0, 0)),
        (step_target(UIAction("drag", (0.5, 0.8), (0.5, 0.2)), rule="aitw"), 'scroll("down")', 1, (0, 1, 1)),
        (step_target(UIAction("drag", (0.5, 0.8), (0.5, 0.2)), rule="aitw"), 'scroll("up")', 1, (0, 1, 0)),
        (step_target(UIAction("drag", (0.5, 0.8), (0.5, 0.2)), rule="aitw"), 'scroll("left")', 0, (0, 1, 0)),
        (step_target(UIAction("wait"), rule="aitw"), "wait()", 0, (0, 0, 0)),  # no action of AitW
        (step_target(CLICK, dialect="norm1000"), "click(500, 500)", 1, (0, 1, 1)),
        (step_target(CLICK, dialect="percent"), "click 50 50", 1, (0, 1, 1)),
        (step_target(CLICK, dialect="percent"), "click(500, 1000)", 0, (1, 0, 0)),
    ],
)
def test_steps(target: StepTarget, reply: str, value: float, parts: tuple[float, float, float]) -> None:
    found = UIStep().score([outcome(target, "click(0, 0)", reply)])[0]
    assert (found.value, found.parts) == (value, dict(zip(("unparsable", "type", "directed"), parts, strict=True)))


def test_a_step_says_why() -> None:
    target = step_target(CLICK)
    assert UIStep().score([outcome(target, "click(0, 0)")])[0].why == (
        "did click (0.001, 0.000), expected click (0.500, 0.500)"
    )
    assert "outside the screen" in UIStep().score([outcome(target, "click(-1, 0)")])[0].why
    assert UIStep().score([outcome(target)])[0].parts["unparsable"] == 1  # nothing was said
    for other in (None, "click(1, 1)", ClickTarget((0, 0, 1, 1), "pixels", SIZE)):
        found = UIStep().score([outcome(other, "click(0, 0)")])[0]
        assert found == Score(None, "the sample's target is no StepTarget")


# --- episodes ---------------------------------------------------------------------------------------------------


def played(*steps: Step) -> Score:
    return UISuccess().score([outcome(None, *["x"] * (len(steps) - 1), steps=steps)])[0]


BEGIN = Step([])
MISTAKE = Step([], info={"action_error": "no action"})


@pytest.mark.parametrize(
    ("steps", "value", "parts"),
    [
        ([Step([]), Step([], 1.0, terminated=True)], 1, (2, 0, 0, 1)),
        ([MISTAKE, Step([]), MISTAKE, Step([], 0.5, terminated=True)], 1, (4, 0.5, 0, 0.5)),
        ([Step([], 0.0, terminated=True)], 0, (1, 0, 0, 0)),
        ([Step([], -1.0, terminated=True)], 0, (1, 0, 0, -1)),
        ([Step([], 0.25), Step([], -0.25, terminated=True)], 0, (2, 0, 0, 0)),
        ([Step([], 1.0), Step([], truncated=True)], 0, (2, 0, 1, 1)),  # rewarded, and cut by the budget
        ([Step([], 1.0), Step([], 1.0, terminated=True, info={"out_of_steps": True})], 0, (2, 0, 1, 2)),
        ([MISTAKE, Step([], truncated=True, info={"action_error": "no"})], 0, (2, 1, 1, 0)),
        ([], 0, (0, 0, 0, 0)),
    ],
)
def test_success(steps: list[Step], value: float, parts: tuple[float, ...]) -> None:
    found = played(BEGIN, *steps)
    assert (found.value, found.parts) == (
        value,
        dict(zip(("steps", "invalid", "truncated", "reward"), parts, strict=True)),
    )


def test_a_lost_episode_is_not_scored() -> None:
    lost = Step([], truncated=True, info={"lost": "the browser was killed"})
    assert played(BEGIN, Step([], 1.0), lost) == Score(None, "the episode was lost: the browser was killed")
    assert played(lost).value is None
    assert UISuccess().score([outcome(None, "x")])[0] == Score(None, "it was not played: there are no steps")
    assert "cut off after 1 steps, 1 of them invalid" in played(BEGIN, Step([], 0, False, True, MISTAKE.info)).why


# --- grounding --------------------------------------------------------------------------------------------------

BOX = (0.1, 0.2, 0.3, 0.25)


@pytest.mark.parametrize(
    ("dialect", "reply", "value", "parts"),
    [
        ("norm1000", "click(200, 220)", 1, (0, 1)),
        ("norm1000", "click(100, 200)", 1, (0, 1)),  # the borders are inside
        ("norm1000", "click(300, 250)", 1, (0, 1)),
        ("norm1000", "click(301, 250)", 0, (0, 1)),
        ("norm1000", "click(220, 200)", 1, (0, 1)),
        ("norm1000", "click(220, 99)", 0, (0, 1)),
        ("norm1000", "click(0, 100, 400, 340)", 1, (0, 1)),  # a box by its middle, (200, 220)
        ("norm1000", "click(250, 240, 400, 300)", 0, (0, 1)),  # a box that overlaps
        ("pixels", "click(200, 440)", 1, (0, 1)),
        ("pixels", "type('here')", 0, (0, 0)),
        ("pixels", "drag(200, 440, 200, 440)", 0, (0, 0)),
        ("browsergym", "click('12')", 0, (0, 0)),  # names an element and no point
        ("norm1000", "it is at (200, 220)", 0, (1, 0)),
        ("norm1000", "", 0, (1, 0)),
    ],
)
def test_clicks_in_boxes(dialect: str, reply: str, value: float, parts: tuple[float, float]) -> None:
    found = ClickInBox().score([outcome(ClickTarget(BOX, dialect, SIZE), "click(0, 0)", reply)])[0]
    assert (found.value, found.parts) == (value, dict(zip(("unparsable", "type"), parts, strict=True)))


def test_a_click_says_why_and_nothing_parsed_is_no_click_in_the_corner() -> None:
    corner = ClickTarget((0, 0, 0.1, 0.1), "pixels", SIZE)
    assert ClickInBox().score([outcome(corner, "nothing to see")])[0].value == 0
    assert ClickInBox().score([outcome(corner)])[0].parts["unparsable"] == 1
    why = ClickInBox().score([outcome(corner, "click(0, 0)")])[0].why
    assert why == "clicked (0.001, 0.000), expected left, top, right, bottom 0.000, 0.000, 0.100, 0.100"
    assert ClickInBox().score([outcome((0, 0, 1, 1), "click(0, 0)")])[0].value is None
