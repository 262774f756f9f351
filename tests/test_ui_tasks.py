"""The tasks of recorded screens, on tiny sets in the published formats that went through the real readers."""

from __future__ import annotations

import importlib
import math
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pe_rlhf_mm.data.preparation.building import prepare
from pe_rlhf_mm.data.published.catalogue import published
from pe_rlhf_mm.envs.actions import UIAction, codec
from pe_rlhf_mm.envs.matching import ClickTarget, StepTarget, holds
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluators.click_in_box import ClickInBox
from pe_rlhf_mm.evaluators.ui_step import UIStep
from pe_rlhf_mm.tasks.android.aitw import AndroidInTheWild
from pe_rlhf_mm.tasks.android.control import AndroidControl, AndroidControlLow
from pe_rlhf_mm.tasks.android.recorded import PREVIOUS
from pe_rlhf_mm.tasks.android.wrong_actions import Scene, wrong_reply
from pe_rlhf_mm.tasks.ui.replies import written
from pe_rlhf_mm.tasks.ui.screenspot import ScreenSpot
from pe_rlhf_mm.tasks.ui.uibert_refexp import UIBertRefExp
from pe_rlhf_mm.testing import check_task
from pe_rlhf_mm.types import Image, Outcome, Rated, Sample, Task, Text
from tests import published_ui_files as files

Ready = Callable[[str], None]
SPLITS = ("train", "validation", "test")
DIALECTS = ("norm1000", "pixels", "resized", "percent", "android_world", "aitw", "browsergym")


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ready:
    """Prepares what the folder `published` holds, for this test."""
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path / "home"))
    return lambda name: prepare(published(name), str(tmp_path / "published"), tmp_path / "home") and None


def divided(names: list[Any]) -> dict[str, list[Any]]:
    """Names over splits: six in ten, two, two."""
    return {
        split: [name for i, name in enumerate(names) if some(i % 10)]
        for split, some in zip(SPLITS, (lambda i: i < 6, lambda i: i in (6, 7), lambda i: i > 7), strict=True)
    }


def write_control(folder: Path) -> None:
    numbers = list(range(1, 11))
    episodes = [files.control_episode(n) for n in numbers]
    files.write_android_control(folder, episodes, splits=divided(numbers), subsplits={"IDD": [9], "app_unseen": [9]})


def write_aitw(folder: Path) -> None:
    names, steps = [f"e{n}" for n in range(10)], []
    for n, name in enumerate(names):
        some = {"length": 4, "episode": name, "image/encoded": bytes([n * 20, 7, 9]) * 1800}
        drag = {"results/yx_touch": [0.8, 0.5], "results/yx_lift": [0.2, 0.5]}
        changes = ({}, files.unused(3, "tea"), drag, files.unused(10))
        steps += [files.aitw_step(step, **(some | change)) for step, change in enumerate(changes)]
    files.write_aitw(folder, steps, splits=divided(names))


def write_uibert(folder: Path) -> None:
    for i, split in enumerate(("train", "dev", "test")):
        files.write_uibert(folder, [files.uibert_row(10 * i + n) for n in range(6)], split=split)


def write_screenspot(folder: Path) -> None:
    rows = [files.screenspot_row(n // 2, bbox=[8 + 40 * (n % 2), 4, 16, 8], instruction=f"open {n}") for n in range(8)]
    files.write_screenspot(folder, rows)


WRITERS = {
    "android-control": write_control,
    "aitw": write_aitw,
    "uibert": write_uibert,
    "screenspot": write_screenspot,
}
TASKS: dict[str, tuple[str, Callable[..., Task]]] = {
    "android/control": ("android-control", AndroidControl),
    "android/control-low": ("android-control", AndroidControlLow),
    "android/aitw": ("aitw", AndroidInTheWild),
    "ui/uibert-refexp": ("uibert", UIBertRefExp),
    "ui/screenspot": ("screenspot", ScreenSpot),
}


@pytest.fixture
def prepared_for(tmp_path: Path, ready: Ready) -> Callable[[str], Callable[..., Any]]:
    """A task's class, its data prepared."""

    def make(name: str) -> Callable[..., Any]:
        data, task = TASKS[name]
        WRITERS[data](tmp_path / "published")
        ready(data)
        return task

    return make


def judged(sample: Sample, reply: str) -> float | None:
    """The score of a reply by the evaluator of its target."""
    evaluator = UIStep() if isinstance(sample.target, StepTarget) else ClickInBox()
    return evaluator.score([Outcome(sample, [reply])])[0].value


def text_of(item: Sample | Rated, message: int = 1) -> str:
    """What a message says in words."""
    return "\n".join(part.text for part in item.messages[message].parts if isinstance(part, Text))


def by_prompt(task: Any, split: str) -> dict[tuple[Any, ...], Sample]:
    return {key_of(sample): sample for sample in task.samples(split)}


def key_of(item: Sample | Rated) -> tuple[Any, ...]:
    image = next((str(p.source) for p in item.messages[-1].parts if isinstance(p, Image)), "")
    return item.cluster, image, text_of(item, -1)


# --- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TASKS if name != "ui/screenspot"])
def test_they_pass_the_conformance_checks(name: str, prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    assert check_task(prepared_for(name)()) == []


def test_screenspot_lacks_nothing_but_training_data(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    problems = check_task(prepared_for("ui/screenspot")())
    assert {p.split(" raised ")[0] for p in problems} == {
        f"{method}({split!r})" for method in ("samples", "ratings") for split in ("train", "validation")
    }
    assert all("has no split" in problem for problem in problems)


@pytest.mark.parametrize("name", TASKS)
def test_docstrings_name_the_command_that_prepares_the_data(name: str) -> None:
    data, task = TASKS[name]
    module = importlib.import_module(task.__module__)
    assert f"pe-rlhf data prepare {data} --from FOLDER" in str(module.__doc__)


@pytest.mark.parametrize("name", TASKS)
def test_ratings_say_what_the_evaluator_says(name: str, prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    task = prepared_for(name)()
    split = "test" if name == "ui/screenspot" else "train"
    samples, ratings = by_prompt(task, split), list(task.ratings(split, seed=3))
    assert len(ratings) == 2 * len(samples)
    for rating in ratings:
        sample = samples[key_of(rating)]
        if isinstance(sample.target, str):
            assert rating.label == (rating.reply == sample.target)
        else:
            assert rating.label == judged(sample, str(rating.reply))
    assert [rating.label for rating in ratings] == [1, 0] * len(samples)
    again, other = (list(task.ratings(split, seed=seed)) for seed in (3, 4))
    assert again == ratings != other


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["android/control", "android/aitw", "ui/screenspot"])
def test_solutions_are_right_in_every_dialect(
    name: str, dialect: str, prepared_for: Callable[[str], Callable[..., Any]]
) -> None:
    task = prepared_for(name)(dialect=dialect)
    for sample in task.samples("test"):
        assert sample.target.dialect == dialect
        assert text_of(sample, 0).endswith(task.codec.describe())
        solution = task.solve(sample)
        if solution is not None:
            assert judged(sample, solution[0]) == 1
        else:  # AndroidControl opens apps, AitW ends with a button: not every dialect has words for that
            assert sample.target.action.kind not in ("click", "type")


def test_unknown_dialects_are_refused() -> None:
    with pytest.raises(UserError, match="no dialect of actions is called 'metres'"):
        AndroidControl(dialect="metres")  # type: ignore[arg-type]


# --- AndroidControl -----------------------------------------------------------------------------------------------


def test_android_control_asks_for_the_next_action(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    high = prepared_for("android/control")()
    for task, step in ((high, ""), (AndroidControlLow(), "This step: Instruction 2\n")):
        sample = next(sample for sample in task.samples("test") if sample.id == "9-2")
        assert [message.role for message in sample.messages] == ["system", "user"]
        assert text_of(sample) == (
            f'Goal: Set alarm 9\n{step}Done so far:\nopen_app("Clock")\nclick(250, 300)'  # 30 of 120 pixels, 60 of 200
        )
        assert sample.target.action == UIAction("type", text="Tea")
        assert sample.target.size == (140, 200)
        assert (sample.cluster, sample.metadata) == ("9", {"action": "type", "domain": "IDD, app_unseen"})
    assert text_of(next(iter(high.samples("test")))) == "Goal: Set alarm 9"
    assert next(iter(high.samples("train"))).metadata == {"action": "open_app"}


def test_only_the_kinds_of_the_data_are_told(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    told = text_of(next(iter(prepared_for("android/control")().samples("test"))), 0)
    assert "open_app(" in told
    assert not {"drag(", "double_click(", "infeasible("} & set(told.replace("(", "( ").split())


def test_a_click_is_right_on_the_smallest_element_there(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    """The label of the button, from 25 to 35 of 120 pixels and 55 to 65 of 200; the button around it is another."""
    task = prepared_for("android/control")()
    sample = next(sample for sample in task.samples("test") if sample.id == "9-1")
    assert sample.target.boxes == [pytest.approx((25 / 120, 55 / 200, 35 / 120, 65 / 200), abs=1e-6)]
    assert [judged(sample, reply) for reply in ("click(210, 280)", "click(290, 324)")] == [1, 1]
    assert [judged(sample, reply) for reply in ("click(170, 255)", "click(300, 300)", "long_press(250, 300)")] == [
        0
    ] * 3
    others = [sample for sample in task.samples("test") if sample.target.action.point is None]
    assert all(not sample.target.boxes for sample in others)


def test_where_no_element_is_a_click_is_right_nearby(tmp_path: Path, ready: Ready) -> None:
    trees = [files.forest([files.node((0, 0, 10, 10), "corner")]), b""]
    one = files.control_episode(actions=[{"action_type": "click", "x": 50, "y": 100}], accessibility_trees=trees)
    files.write_android_control(tmp_path / "published", [one])
    ready("android-control")
    sample = next(iter(AndroidControl().samples("train")))
    assert sample.target.boxes == []
    assert [judged(sample, reply) for reply in ("click(600, 500)", "click(640, 500)", "click(641, 500)")] == [1, 1, 0]


def test_an_element_too_thin_for_the_dialect(tmp_path: Path, ready: Ready) -> None:
    """Of 100 pixels one is 33.0 to 33.4 hundredths wide: no whole percent lies in it, but a thousandth does."""
    nodes = [files.node((330, 0, 334, 200), "thin")]
    one = files.control_episode(
        actions=[{"action_type": "click", "x": 333, "y": 100}],
        screenshot_widths=[1000, 1000],
        accessibility_trees=[files.forest(nodes), b""],
    )
    two = one | {"episode_id": [8], "accessibility_trees": [files.forest([files.node((332, 0, 334, 200))]), b""]}
    files.write_android_control(tmp_path / "published", [one, two | {"goal": "two"}], splits={"train": [7, 8]})
    ready("android-control")
    for dialect, solutions in (("norm1000", [["click(333, 500)"]] * 2), ("percent", [["click 33 50"], None])):
        task = AndroidControl(dialect=dialect)  # type: ignore[arg-type]
        assert [task.solve(sample) for sample in task.samples("train")] == solutions
    assert len(list(AndroidControl(dialect="percent").ratings("train"))) == 2  # the other one has no right reply


def test_a_place_that_rounding_leaves_is_put_into_the_middle(tmp_path: Path, ready: Ready) -> None:
    """The point is at the left edge, 326 of 1,000, which is 33 percent; the element ends before, at 32.9."""
    one = files.control_episode(
        actions=[{"action_type": "click", "x": 326, "y": 100}],
        screenshot_widths=[1000, 1000],
        accessibility_trees=[files.forest([files.node((310, 0, 329, 200))]), b""],
    )
    files.write_android_control(tmp_path / "published", [one])
    ready("android-control")
    task = AndroidControl(dialect="percent")
    assert [task.solve(sample) for sample in task.samples("train")] == [["click 32 50"]]


def test_long_episodes_tell_their_last_actions(tmp_path: Path, ready: Ready) -> None:
    actions = [{"action_type": "input_text", "text": str(n)} for n in range(PREVIOUS + 3)]
    actions[-2] = {"action_type": "teleport"}
    files.write_android_control(tmp_path / "published", [files.control_episode(1, actions)])
    ready("android-control")
    lines = text_of(list(AndroidControl().samples("train"))[-1]).split("\n")
    assert lines[2:] == [*(f'type("{n}")' for n in range(2, PREVIOUS + 1)), "something that is not known"]


# --- wrong actions ------------------------------------------------------------------------------------------------

BOXES = [(0.0, 0.0, 0.2, 0.2), (0.4, 0.4, 0.6, 0.6), (0.8, 0.8, 1.0, 1.0)]


def draws(right: UIAction, target: StepTarget, count: int = 2000, **scene: Any) -> Counter[UIAction]:
    """What wrong actions are drawn, as they are read again."""
    given: dict[str, Any] = {"touched": None, "boxes": BOXES, "words": ["Save"], "others": []} | scene
    rng, norm = random.Random(0), codec("norm1000")
    sample = Sample("", (), target)
    found: Counter[UIAction] = Counter()
    for _ in range(count):
        reply = wrong_reply(
            Scene(right=right, **given), lambda a: written(a, norm, (1, 1)), lambda r: judged(sample, r) == 1, rng
        )
        assert reply is not None
        assert judged(sample, reply) == 0
        found[norm.parse(reply, (1, 1))] += 1
    return found


def target_of(action: UIAction, *boxes: tuple[float, float, float, float], rule: Any = "android_control") -> StepTarget:
    return StepTarget(action, rule, boxes, "norm1000", (1, 1))


def test_wrong_clicks_come_in_all_sorts() -> None:
    """Another element .4, of which one in three is the right one and is drawn again; of each other sort .2."""
    right, other = UIAction("click", point=(0.5, 0.5)), UIAction("back")
    found = draws(
        right, target_of(right, BOXES[1]), touched=BOXES[1], others=[other, UIAction("click", point=(0.1, 0.9))]
    )
    elements = found[UIAction("click", point=(0.1, 0.1))] + found[UIAction("click", point=(0.9, 0.9))]
    steps = found[UIAction("click", point=(0.1, 0.9))]
    types = sum(number for action, number in found.items() if action.kind != "click")
    total = sum(found.values())
    assert abs(elements / total - 0.4 * 2 / 3 / (1 - 0.4 / 3 - 0.2 * 0.04)) < 0.05
    assert abs(steps / total - 0.1 / (1 - 0.4 / 3 - 0.2 * 0.04)) < 0.03
    assert abs((types - found[other]) / total - 0.2 * 7 / 8 / (1 - 0.4 / 3 - 0.2 * 0.04)) < 0.04
    assert {action.kind for action in found} == {
        *("click", "long_press", "scroll", "type", "open_app", "back", "home", "wait", "done")
    }


def test_wrong_arguments_of_actions_without_a_place() -> None:
    scroll = draws(right := UIAction("scroll", direction="down"), target_of(right))
    assert {action.direction for action in scroll if action.kind == "scroll"} == {"up", "left", "right"}
    typed = draws(right := UIAction("type", text="tea time"), target_of(right))
    texts = {action.text for action in typed if action.kind == "type"}
    assert "Save" in texts
    assert "tea" in texts
    assert "tea time" not in {" ".join(text.casefold().split()) for text in texts}
    apps = draws(right := UIAction("open_app", text="Clock"), target_of(right))
    assert {"Save", "Clo"} <= {action.text for action in apps if action.kind == "open_app"}
    back = draws(right := UIAction("back"), target_of(right))
    assert "back" not in {action.kind for action in back}


def test_wrong_swipes_by_the_rule_of_aitw_go_across() -> None:
    right = UIAction("drag", point=(0.5, 0.8), to=(0.5, 0.2))
    found = draws(right, target_of(right, rule="aitw"))
    ways = [(a.to[0] - a.point[0], a.to[1] - a.point[1]) for a in found if a.point and a.to]
    assert len(ways) > 100
    assert all(abs(x) > abs(y) or math.hypot(x, y) <= 0.04 for x, y in ways)  # or so short that it is a tap
    assert {action.direction for action in found if action.kind == "scroll"} == {"left", "right"}


def test_where_everything_is_right_there_is_no_wrong_action() -> None:
    scene = Scene(UIAction("back"), None, [], [], [])
    assert wrong_reply(scene, str, lambda reply: True, random.Random(0)) is None
    assert wrong_reply(scene, lambda action: None, lambda reply: False, random.Random(0)) is None


def test_wrong_elements_are_touched_where_the_right_one_is() -> None:
    """At a quarter of its width and three quarters of its height, so that the place tells nothing; or anywhere."""
    right = UIAction("click", point=(0.45, 0.55))
    known = draws(right, target_of(right, BOXES[1]), touched=BOXES[1])
    assert known[UIAction("click", point=(0.05, 0.15))] > 200
    assert known[UIAction("click", point=(0.85, 0.95))] > 200
    unknown = draws(right, target_of(right, BOXES[1]))
    first = [a for a in unknown if a.kind == "click" and a.point and holds(BOXES[0], a.point)]
    assert len({action.point for action in first}) > 100


def test_wrong_elements_are_those_that_can_be_acted_on(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    """These are the button, in whose middle the right label is, and the field: .2 of those that are not drawn again."""
    task = prepared_for("android/control")()
    wrong = [
        task.codec.parse(rating.reply, (120, 200))
        for seed in range(60)
        for rating in task.ratings("test", seed=seed)
        if rating.metadata["action"] == "click" and rating.label == 0
    ]
    places = Counter(action.point for action in wrong if action.kind == "click")
    field = places[0.5, 0.437] + places[0.5, 0.438]  # its middle, 87.5 of 200; the right label is touched there too
    assert abs(field / len(wrong) - 0.25) < 0.15
    assert (0.5, 0.5) not in places  # the middle of the screen, which cannot be acted on


def clicks_called_wrong(folder: Path, ready: Ready, *nodes: dict[str, Any]) -> Counter[str]:
    """Clicks on a screen of 100 x 200 where (50, 100) was clicked, by forty seeds."""
    click = {"action_type": "click", "x": 50, "y": 100}
    one = files.control_episode(actions=[click], accessibility_trees=[files.forest(nodes), b""])
    files.write_android_control(folder / "published", [one])
    ready("android-control")
    ratings = [rating for seed in range(40) for rating in AndroidControl().ratings("train", seed=seed)]
    return Counter(str(r.reply) for r in ratings if r.label == 0 and str(r.reply).startswith("click("))


def test_beside_the_label_of_a_button_nothing_is_wrong_without_doubt(tmp_path: Path, ready: Ready) -> None:
    """The rule denies a click in the middle of the row, (25, 100), but the row does the same wherever it is clicked."""
    row = files.node((0, 80, 50, 120), is_clickable=True)
    label, other = files.node((40, 90, 60, 110), "Go"), files.node((0, 0, 100, 40), is_clickable=True)
    found = clicks_called_wrong(tmp_path, ready, row, label, other)
    assert found["click(500, 100)"] > 0
    assert found["click(250, 500)"] == 0


def test_what_fills_the_screen_is_no_button(tmp_path: Path, ready: Ready) -> None:
    """All of it can be clicked; the label is what was meant, and a click beside it is wrong."""
    whole, label = files.node((0, 0, 100, 200), is_clickable=True), files.node((40, 90, 60, 110), "Go")
    assert clicks_called_wrong(tmp_path, ready, whole, label).total() > 3


# --- the others ---------------------------------------------------------------------------------------------------


def test_aitw_steps(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    tap, typed, swipe, end = list(prepared_for("android/aitw")().samples("test"))[:4]
    assert (tap.id, tap.cluster, tap.metadata) == ("e8-0", "e8", {"action": "click", "domain": "general"})
    assert text_of(end).split("\n") == [
        "Goal: open clock for e8",
        "Done so far:",
        "click(300, 120)",
        'type("tea")',
        "drag(500, 800, 500, 200)",
    ]
    assert tap.target.boxes == [(0.2, 0.1, 0.5, 0.15), (0.5, 0.5, 1, 0.6)]
    assert judged(tap, "click(490, 149)") == 1  # far away, in one box
    assert judged(tap, "click(950, 400)") == 0
    assert judged(typed, 'type("coffee")') == 1  # texts are not compared
    assert judged(swipe, 'scroll("up")') == judged(swipe, 'scroll("down")') == 1
    assert judged(swipe, 'scroll("left")') == 0
    assert judged(end, "done()") == 1


def test_screenspot(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    task = prepared_for("ui/screenspot")()
    first, second = list(task.samples("test"))[:2]
    assert isinstance(first.target, ClickTarget)
    assert first.target.box == pytest.approx((0.1, 0.1, 0.3, 0.3))
    assert task.solve(first) == ["click(200, 200)"]
    assert [judged(first, reply) for reply in ("click(150, 290)", "click(310, 200)", "somewhere")] == [1, 0, 0]
    assert first.metadata == {"domain": "mobile/icon"}
    assert first.cluster == second.cluster  # two elements of one screen
    assert text_of(first) == "open 0"
    assert "click(x, y)" in text_of(first, 0)
    assert "scroll" not in text_of(first, 0)


def test_wrong_clicks_of_screenspot_hit_another_element_half_of_the_time(
    prepared_for: Callable[[str], Callable[..., Any]],
) -> None:
    task = prepared_for("ui/screenspot")()
    samples = by_prompt(task, "test")
    wrong = [rating for seed in range(20) for rating in task.ratings("test", seed=seed) if rating.label == 0]
    other = sum(str(rating.reply) in ("click(200, 200)", "click(700, 200)") for rating in wrong)
    assert 0.4 < other / len(wrong) < 0.65
    assert not any(holds(samples[key_of(r)].target.box, task.codec.parse(r.reply, (80, 40)).point) for r in wrong)


def test_uibert_lists_elements_from_top_to_bottom(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    """The node that fills the screen tells of none of them, and no box of a node is told."""
    sample = next(iter(prepared_for("ui/uibert-refexp")().samples("validation")))
    assert text_of(sample, 0).split("\n") == [
        "Elements of a screen, each with its left, top, right and bottom edge in percent of the screen:",
        "1. [10 10 40 20] TEXT_VIEW web search item",
        "2. [50 10 90 20]",
        "3. [10 50 40 60] IMAGE_BUTTON play",
        "Which element is meant by: click the play button 10",
        "Answer with its number only.",
    ]
    assert sample.target == "3"
    assert sample.cluster == "61664"


def test_wrong_replies_of_uibert_are_mostly_other_numbers(prepared_for: Callable[[str], Callable[..., Any]]) -> None:
    task = prepared_for("ui/uibert-refexp")()
    wrong = Counter(r.reply for seed in range(40) for r in task.ratings("train", seed=seed) if r.label == 0)
    assert abs((wrong["1"] + wrong["2"]) / sum(wrong.values()) - 0.8) < 0.1
    assert set(wrong) == {"0", "1", "2", "4", "TEXT_VIEW web search item", "IMAGE_BUTTON play"}


@pytest.mark.skipif("PE_RLHF_REAL_DATA" not in os.environ, reason="PE_RLHF_REAL_DATA names no folder of real data")
def test_the_real_uibert_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every expression has a solution among numbers from 1 on; a third of the elements have words."""
    monkeypatch.setenv("PE_RLHF_DATA", str(tmp_path))
    prepare(published("uibert"), str(Path(os.environ["PE_RLHF_REAL_DATA"]) / "uibert"), tmp_path)
    task = UIBertRefExp()
    samples = list(task.samples("test"))
    assert len(samples) == len({sample.id for sample in samples}) == 616
    lines = [line for sample in samples for line in text_of(sample, 0).split("\n")[1:-2]]
    assert 0.3 < sum(not line.endswith("]") for line in lines) / len(lines) < 0.5
    assert all(f"\n{sample.target}. [" in text_of(sample, 0) for sample in samples)
    assert len(list(task.ratings("test"))) == 2 * 616
