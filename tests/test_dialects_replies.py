"""What counts of a reply, and replies that are meant to do harm: nothing is executed, and nothing else is raised."""

from __future__ import annotations

import ast
import builtins
import json
import math
import os
import random
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from pe_rlhf_mm.envs import dialects
from pe_rlhf_mm.envs.actions import ActionError, Dialect, Kind, UIAction, codec

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
CALLS = ("pixels", "norm1000", "resized")
SIZE = (100, 200)
VALID = [
    "click(3, 4)",
    "drag(1, 2, 3, 4)",
    'scroll("down")',
    'type("a\\nb")',
    'key(text="Enter")',
    "done()",
    "mouse_click(3, 4)",
    "click('a51')",
    "fill('1', 'b')",
    "click 50 20",
    "type hello",
    "scroll down",
    "drag 1 2 3 4",
    '{"action_type": "click", "x": 3, "y": 4}',
    '{"action_type": "TYPE", "typed_text": "a"}',
    '{"action_type": "DUAL_POINT", "touch_point": [0.1, 0.2], "lift_point": [0.5, 0.2]}',
]


def read(name: str, reply: str) -> UIAction | None:
    """The action of a reply, None if it is none; whatever else it raises fails the test."""
    try:
        action = codec(name).parse(reply, SIZE)
    except ActionError as error:
        message = str(error)
    else:
        _check(action)
        return action
    assert 0 < len(message) < 500  # it is shown to the agent
    return None


def _check(action: UIAction) -> None:
    assert action.kind in get_args(Kind)
    for point in (action.point, action.to):
        assert point is None or all(math.isfinite(x) and 0 <= x <= 1 for x in point)
    action.text.encode()
    assert "\x00" not in action.text + action.element


# --- what counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        "click(3, 4)",
        "  click(3, 4) \r\n",
        "I see a button.\nclick(3, 4)",
        "click(1, 1)\nNo, the other one:\nclick(3, 4)",
        "click(3, 4)\nThis should open the menu (the one above).",
        "Thought: it is at (9, 9).\nAction: click(3, 4)",
        "Thought: below. Action: click(3,4)",
        "**Action:** nothing yet\nfinal action: `click(3, 4)`",
        "```python\nclick(3, 4)\n```",
        "`click(3, 4)`.",
        "click(3, 4);",
        "click(x=3, y=4)",
        "click(+3.0, 4e0,)",
        "click([3, 4])",
    ],
)
def test_the_last_line_that_is_a_call_counts(reply: str) -> None:
    assert codec("pixels").parse(reply, SIZE) == UIAction("click", point=(0.035, 0.0225))


@pytest.mark.parametrize(
    "reply",
    [
        '{"action_type": "click", "x": 3, "y": 4}',
        'Reason: it says {"x": 9}.\nAction: {"action_type": "click", "x": 3, "y": 4}. Done {soon}',
        '{"action_type": "wait"} or not\n```json\n{\n"action_type": "click",\n "x": 3, "y": 4.0, "index": null}\n```',
        '{{"action_type": "click", "x": 3, "y": 4}',
    ],
)
def test_the_last_object_counts(reply: str) -> None:
    assert codec("android_world").parse(reply, SIZE) == UIAction("click", point=(0.035, 0.0225))


def test_percent_is_the_whole_reply() -> None:
    assert codec("percent").parse(" click 3 4\n", SIZE) == UIAction("click", point=(0.03, 0.04))
    assert codec("percent").parse("type click 3 4", SIZE) == UIAction("type", text="click 3 4")
    for reply in [
        "I click 3 4",
        "click 3 4 now",
        "click 3 4\nclick 5 6",
        "Click 3 4",
        "click 3,4",
        "click 3",
        "back 3",
    ]:
        assert read("percent", reply) is None
    for reply in ["click 0003 4", "click -3 4", "click 3.5 4", "click ٣ 4", "click 3% 4%", "scroll", "back 3"]:
        assert read("percent", reply) is None


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('"a\\nb\\t\\"c\\""', 'a\nb\t"c"'),
        ("'it\\'s'", "it's"),
        ('"C:\\\\dir"', "C:\\dir"),
        ('"\\d\\q"', "\\d\\q"),  # no escapes: they stand for themselves
        ('"\\u00e9\\x41"', "éA"),
        ('"Action: click(1, 2)"', "Action: click(1, 2)"),
        ('"a) , (b"', "a) , (b"),
        ("text=''", ""),
    ],
)
def test_texts_are_unquoted(written: str, text: str) -> None:
    for reply in (f"type({written})", f"Action: type({written})"):
        assert codec("pixels").parse(reply, SIZE) == UIAction("type", text=text)


@pytest.mark.parametrize(
    ("name", "reply", "says"),
    [
        ("pixels", "", "no line of the reply is an action"),
        ("pixels", "I would click at 3, 4.", "no line of the reply is an action"),
        ("pixels", "click(3, 4)\nfly(1)", "there is no action 'fly'; there are click, double_click"),  # its last word
        ("pixels", "click(3)", r"click takes \(x, y\)"),
        ("pixels", "click(3, 4, 5)", r"click takes \(x, y\)"),
        ("pixels", "click(3, y=4, x=3)", r"click takes \(x, y\)"),
        ("pixels", "click(3, 4, speed=9)", r"click takes \(x, y\)"),
        ("pixels", "click(3, '4')", "y must be a number, not '4'"),
        ("pixels", "click(3, True)", "y must be a number, not True"),
        ("pixels", "scroll('sideways')", "up, down, left or right"),
        ("pixels", "scroll('down', 3)", "y must be a number, not nothing"),
        ("pixels", "type(3)", "text must be a text in quotes"),
        ("pixels", "key(' ')", "key needs a name"),
        ("pixels", "click(3, 4) and click(5, 6)", "cannot be read"),
        ("pixels", "click(a, b)", "cannot be read"),
        ("pixels", "click(3 4)", "cannot be read"),
        ("pixels", "click(nan, inf)", "cannot be read"),
        ("pixels", "click(1 + 2, 4)", "cannot be read"),
        ("pixels", "click([[3, 4]])", "cannot be read"),
        ("pixels", "click((3, 4)", "cannot be read"),
        ("pixels", "click(x=3, 4)", "cannot be read"),
        ("pixels", "type(f'{1}')", "cannot be read"),
        ("pixels", "type('a' 'b')", "cannot be read"),
        ("pixels", "type('\\u0000')", "cannot be typed"),
        ("pixels", "type('\\ud83d')", "cannot be typed"),
        ("browsergym", "click('a51', button='right')", "left button"),
        ("browsergym", "click('a51', modifiers=['Shift'])", "left button"),
        ("browsergym", "mouse_click(3, 4, 'middle')", "left button"),
        ("browsergym", "hover('a51')", "there is no action 'hover'"),
        ("browsergym", "click(13)", "bid must be a text"),
        ("browsergym", "scroll(0, 0)", "goes nowhere"),
        ("browsergym", "scroll(1e999, 0)", "goes nowhere"),
        ("browsergym", "noop('long')", "wait_ms must be a number"),
        ("android_world", "click 3 4", "no JSON object"),
        ("android_world", "{}", "action_type must be a text"),
        ("android_world", '{"action_type": "swipe", "direction": "up"}', "no action_type 'swipe'"),
        ("android_world", '{"action_type": "click"}', "click needs a place"),
        ("android_world", '{"action_type": "click", "x": 3}', "y must be a number"),
        ("android_world", '{"action_type": "click", "x": true, "y": 4}', "x must be a number, not True"),
        ("android_world", '{"action_type": "click", "x": [3], "y": 4}', "x must be a number"),
        ("android_world", '{"action_type": "click", "x": NaN, "y": 4}', "outside the screen"),
        ("android_world", '{"action_type": "click", "x": Infinity, "y": 4}', "outside the screen"),
        ("android_world", '{"action_type": "click", "x": 3, "y": 4, "index": 5}', "then without"),
        ("android_world", '{"action_type": "click", "index": -1}', "a whole number from 0"),
        ("android_world", '{"action_type": "click", "index": 1e400}', "a whole number from 0"),
        ("android_world", '{"action_type": "wait", "x": 3}', "wait has no field 'x'; it has none"),
        ("android_world", '{"action_type": "input_text", "text": "a", "clear_text": true}', "no field 'clear_text'"),
        ("android_world", '{"action_type": "status", "goal_status": "fine"}', "goal_status is"),
        ("android_world", '{"action_type": "open_app", "app_name": ""}', "an app needs a name"),
        ("aitw", '{"action_type": "DUAL_POINT", "touch_point": [0.1, 0.2]}', "lift_point must be"),
        ("aitw", '{"action_type": "DUAL_POINT", "touch_point": "[1, 1]", "lift_point": 3}', "touch_point must be"),
        ("aitw", '{"action_type": "DUAL_POINT", "touch_point": [[], {}], "lift_point": [0, 0]}', "must be a number"),
        ("aitw", '{"action_type": "CLICK"}', "there is no action_type 'CLICK'"),
        ("aitw", '{"action_type": "TYPE", "text": "a"}', "no field 'text'"),
        ("percent", "", "'' is no action; write only: click 50 20"),
        ("percent", "type ", "type needs a text"),
        ("percent", "scroll across", "up, down, left or right"),
        ("percent", "drag 1 2 3", "numbers after drag: 3; write: drag X Y X Y"),
        ("percent", "click a b", "'a' is no whole number 0 to 100; write: click X Y"),
    ],
)
def test_a_reply_that_is_no_action_says_why(name: str, reply: str, says: str) -> None:
    with pytest.raises(ActionError, match=says):
        codec(name).parse(reply, SIZE)


def test_what_browsergym_and_aitw_write_in_other_words() -> None:
    for reply, action in [
        ("click('a51')", UIAction("click", element="a51")),
        ("dblclick('a51', button='left', modifiers=[])", UIAction("double_click", element="a51")),
        ("fill('237', 'example')", UIAction("type", text="example", element="237")),
        ("press('88', 'Control+a')", UIAction("key", text="Control+a", element="88")),
        ("keyboard_insert_text('x')", UIAction("type", text="x")),
        ("scroll(-50.2, -100.5)", UIAction("scroll", direction="up")),
        ("scroll(-200, 100)", UIAction("scroll", direction="left")),
        ("noop(500)", UIAction("wait")),
        ("report_infeasible('no field')", UIAction("infeasible", text="no field")),
    ]:
        assert codec("browsergym").parse(reply, SIZE) == action
    filled = '{"action_type": "PRESS_BACK", "touch_point": [-1.0, -1.0], "lift_point": [-1.0, -1.0], "typed_text": ""}'
    assert codec("aitw").parse(filled, SIZE) == UIAction("back")


# --- harm -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder where planted code would leave a file; every way to run it fails the test at once."""

    def caught(*given: Any, **named: Any) -> None:
        raise AssertionError(f"something was executed: {given!r:.200}")

    for dialect in DIALECTS:  # loading a module runs it
        codec(dialect).render(UIAction("click", point=(0.5, 0.5)), SIZE)
    for owner, name in [(os, "system"), (os, "popen"), (subprocess, "Popen"), (builtins, "eval"), (builtins, "exec")]:
        monkeypatch.setattr(owner, name, caught)
    return tmp_path


def planted(folder: Path) -> list[str]:
    code = f"__import__('os').system('touch {folder}/ran')"
    return [
        code,
        f"click({code}, 4)",
        f"click(x={code}, y=4)",
        f"type({code})",
        f'type(f"{{{code}}}")',
        f"click(*{code})",
        f"(lambda: {code})()",
        f"[{code} for _ in (1,)]",
        f"click.__class__.__base__({code})",
        f"os.system('touch {folder}/ran')",
        f'{{"action_type": {code}}}',
        f'{{"action_type": "click", "x": "{code}", "y": 4}}',
        f'!!python/object/apply:os.system ["touch {folder}/ran"]',
        f"click {code} 4",
        f"```python\nimport os\nos.system('touch {folder}/ran')\n```",
        f"click(3, 4) if {code} else click(5, 6)",
        f"click(3, 4) # {code}",
    ]


@pytest.mark.parametrize("name", DIALECTS)
def test_planted_code_is_no_action(name: str, nothing_runs: Path) -> None:
    for reply in planted(nothing_runs):
        assert read(name, reply) is None, reply
        assert read(name, f"Action: {reply}") is None, reply
    quoted = f"type({json.dumps(planted(nothing_runs)[0])})"
    if name in CALLS:  # as a text to be typed it is one
        assert read(name, quoted) == UIAction("type", text=planted(nothing_runs)[0])
    assert not list(nothing_runs.iterdir())


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    "reply",
    [
        "(" * 9_000,
        "[" * 9_000,
        "click(" * 1_500,
        "click(" + "(" * 4_000 + "3" + ")" * 4_000 + ", 4)",
        "click(" + "-" * 9_000 + "3, 4)",
        "click(" + "9" * 9_000 + ", 4)",
        "click(1" + "e9" * 4_000 + ", 4)",
        "type('" + "\\" * 9_001 + "')",
        'type("' + 'a"' * 4_000,
        '{"a":' * 1_600,
        '{"a":' * 1_600 + "1" + "}" * 1_600,
        '{"' * 4_500,
        '{"action_type": "click", "x": ' + "9" * 5_000 + ', "y": 4}',
        '{"action_type": "click", "x": ' + "[" * 4_000 + "]" * 4_000 + ', "y": 4}',
        "click " + "9" * 9_000 + " 4",
        "click" + " " * 9_000 + "(3, 4)",
        "action:" * 1_400,
        "\n" * 9_999,
        "\x00" * 9_999,
        "click(3, 4)" + " " * 100_000,
        "a" * 100_000,
    ],
    ids=lambda reply: f"{reply[:12]!r}",
)
def test_deep_and_long_replies_are_no_action(name: str, reply: str) -> None:
    assert read(name, reply) is None
    if len(reply) > 10_000:
        with pytest.raises(ActionError, match=r"the reply has 100\d+ characters; an action has 10000 at most"):
            codec(name).parse(reply, SIZE)


@pytest.mark.parametrize("name", DIALECTS)
def test_noise_raises_nothing_else(name: str, nothing_runs: Path) -> None:
    rng, actions = random.Random(DIALECTS.index(name)), 0
    letters = "\"'\\/()[]{},:=.-+eE019 \n\r\t\x00\ud800é\u2028`" + "".join(VALID)
    pool = [*VALID, *planted(nothing_runs)]
    for _ in range(2_000):
        noise = rng.randbytes(rng.randint(0, 40)).decode("latin-1")
        scattered = "".join(rng.choices(letters, k=rng.randint(0, 40)))
        damaged = list(rng.choice(pool))
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(damaged) + 1)
            damaged[place : place + rng.randint(0, 2)] = rng.choice(letters)
        for reply in (noise, scattered, "".join(damaged)):
            actions += read(name, reply) is not None
    assert actions > 10  # some of the damaged ones are still whole
    assert not list(nothing_runs.iterdir())


def test_no_dialect_has_the_means_to_execute() -> None:
    """Names that run code, or that make names out of text, are in no module that reads replies."""
    folder = Path(dialects.__file__).parent
    modules = [*folder.glob("*.py"), folder.parent / "matching.py"]
    assert len(modules) > len(DIALECTS)
    dangerous = {"eval", "exec", "compile", "__import__", "getattr", "setattr", "globals", "locals", "vars", "open"}
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Name) and node.id in dangerous:
                assert module.name == "kinds.py", f"{module.name}: {node.id}"  # getattr of its own list of fields
                assert node.id == "getattr"
