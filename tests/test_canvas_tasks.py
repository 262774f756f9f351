"""The tasks on drawn screens: all are solved, nothing unseen is seen, and ratings are what they say."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest

from pe_rlhf_mm.data.images import open_image
from pe_rlhf_mm.envs.actions import Dialect, codec
from pe_rlhf_mm.envs.canvas.environment import SIZE
from pe_rlhf_mm.envs.canvas.layout import Box
from pe_rlhf_mm.envs.canvas.problem import Problem
from pe_rlhf_mm.envs.canvas.widgets import Button, CheckBox, Dialog, Menu, ScrollList, TextField, Widget
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.tasks.canvas.canvas_task import SAMPLES, CanvasTask
from pe_rlhf_mm.tasks.canvas.choices import SPLITS, WORDS, split_of, words_of
from pe_rlhf_mm.tasks.canvas.mix import PARTS, Mix
from pe_rlhf_mm.testing import check_task
from pe_rlhf_mm.types import Image, Message, Rated, Sample, Step

TASKS = [part() for part in PARTS]
NAMES = ("press", "fill", "tick", "menu", "dialog", "scroll")
EVERY_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def some(task: CanvasTask, count: int, split: str = "train") -> list[Sample]:
    return list(itertools.islice(task.samples(split), count))


def episode(task: CanvasTask, sample: Sample, replies: Iterable[str]) -> list[Step]:
    environment = task.environment()
    steps = [environment.reset(sample, seed=0)]
    for reply in replies:
        if not (steps[-1].terminated or steps[-1].truncated):
            steps.append(environment.step(reply))
    return steps


def solved(task: CanvasTask, sample: Sample) -> list[str]:
    replies = task.solve(sample)
    assert replies is not None
    return replies


def shown(messages: Sequence[Message]) -> list[bytes | str]:
    """Texts, and the bytes of pictures."""
    parts = [part for message in messages for part in message.parts]
    return [open_image(part).tobytes() if isinstance(part, Image) else part.text for part in parts]


def labels(widget: Widget) -> list[str]:
    """The words on a widget, those that show later included."""
    match widget:
        case Button() | CheckBox():
            return [widget.label]
        case Menu():
            return [widget.title, *widget.entries]
        case ScrollList():
            return list(widget.entries)
        case Dialog():
            return [widget.text.rstrip("?"), *widget.answers]
    return []


def words(problem: Problem) -> list[str]:
    """All words of a problem: on its widgets, and in quotes in its goal."""
    on_screen = [word for widget in problem.screen.widgets for word in labels(widget)]
    return [*on_screen, *(word for word in re.findall('"(.*?)"', problem.goal) if word not in on_screen)]


@EVERY_TASK
def test_the_oracle_solves_every_sample_of_every_split(task: CanvasTask) -> None:
    speech = codec("percent")
    for split in SPLITS:
        for number, sample in enumerate(task.samples(split)):
            problem, replies = task.problem(sample), list[str]()
            while problem.verdict is None:
                replies.append(speech.render(problem.next_action(), SIZE))
                problem.screen.act(speech.parse(replies[-1], SIZE))
            assert problem.verdict is True, sample.id
            assert len(replies) <= task.max_steps
            assert number > 50 or replies == task.solve(sample)
        assert number + 1 == SAMPLES[split]


@pytest.mark.parametrize("split", SPLITS)
@EVERY_TASK
def test_an_episode_is_the_same_whatever_was_played_before(task: CanvasTask, split: str) -> None:
    environment, (one, other) = task.environment(), some(task, 2, split)

    def played(sample: Sample) -> list[tuple[list[bytes | str], float, bool]]:
        steps = [environment.reset(sample, seed=0), *map(environment.step, solved(task, sample))]
        return [(shown(step.observation), step.reward, step.terminated) for step in steps]

    first, between, again = played(one), played(other), played(one)
    assert first == again != between
    assert first == [(shown(s.observation), s.reward, s.terminated) for s in episode(task, one, solved(task, one))]
    assert [reward for _, reward, _ in first] == [0] * (len(first) - 1) + [1]


@EVERY_TASK
def test_labels_and_layouts_of_the_test_split_are_unseen(task: CanvasTask) -> None:
    said: dict[str, set[str]] = {split: set() for split in SPLITS}
    layouts: dict[str, set[frozenset[Box]]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for sample in some(task, 512, split):
            problem = task.problem(sample)
            said[split] |= set(words(problem))
            boxes = [widget.box for widget in problem.screen.widgets]
            layouts[split].add(frozenset(boxes))
            assert split_of(boxes) == split_of(boxes[::-1]) == split
    everywhere = {"OK", "X"}
    assert not said["test"] & said["train"] - everywhere
    assert len(said["test"] - everywhere) == 57
    assert said["train"] - everywhere == said["validation"] - everywhere == set(words_of("train"))
    assert not layouts["train"] & layouts["validation"]
    assert not layouts["train"] & layouts["test"]
    assert not layouts["validation"] & layouts["test"]
    assert len(layouts["train"]) > 256


def test_a_third_of_the_words_is_kept_for_test() -> None:
    assert len(WORDS) == len(set(WORDS)) == 171
    assert {len(word) for word in WORDS} == {3}
    assert set(words_of("train")) == set(words_of("validation")) == set(WORDS) - set(words_of("test"))


@EVERY_TASK
def test_nothing_on_a_screen_has_the_name_of_something_else(task: CanvasTask) -> None:
    for sample in some(task, 200):
        problem = task.problem(sample)
        assert len(set(words(problem))) == len(words(problem)), problem.goal
        colors = [widget.color for widget in problem.screen.widgets if isinstance(widget, Button | TextField)]
        assert len(set(colors)) == len(colors)


# --- what is asked, and what goes wrong -------------------------------------------------------------------------


def clicked(box: Box) -> str:
    return codec("percent").render(box.click(), SIZE)


def ends(task: CanvasTask, sample: Sample, replies: Sequence[str]) -> tuple[float, bool]:
    last = episode(task, sample, replies)[-1]
    return last.reward, last.terminated


LOST, WON, GOES_ON = (0, True), (1, True), (0, False)


def named(problem: Problem) -> list[str]:
    return re.findall('"(.*?)"', problem.goal)


def test_press_wins_with_the_named_button_alone() -> None:
    task = TASKS[0]
    for sample in some(task, 30):
        problem = task.problem(sample)
        for button in problem.screen.widgets:
            assert isinstance(button, Button)
            called = {f"Press the {button.color} button.", f'Press the button "{button.label}".'}
            assert ends(task, sample, [clicked(button.box)]) == (WON if problem.goal in called else LOST)


def test_fill_wants_the_text_and_the_button_in_this_order() -> None:
    task = TASKS[1]
    for sample in some(task, 30):
        focus, text, press = solved(task, sample)
        assert text == f"type {named(task.problem(sample))[0]}"
        wrong = [clicked(w.box) for w in task.problem(sample).screen.widgets if isinstance(w, Button)][1]
        assert ends(task, sample, [focus, text, press]) == WON
        assert ends(task, sample, [focus, text, wrong]) == LOST
        assert ends(task, sample, [focus, text, "type s", press]) == LOST
        assert ends(task, sample, [focus, text, "type s", "key Backspace", press]) == WON
        assert ends(task, sample, [focus, press]) == ends(task, sample, [press]) == LOST
        assert ends(task, sample, [text, focus, text, press]) == WON
        for other in [w for w in task.problem(sample).screen.widgets if isinstance(w, TextField)][1:]:
            assert f"in the {other.color} field" not in task.problem(sample).goal
            assert ends(task, sample, [clicked(other.box), text, press]) == LOST
            assert ends(task, sample, [clicked(other.box), "type x", focus, text, press]) == LOST


def test_tick_wants_the_named_boxes_and_no_others() -> None:
    task = TASKS[2]
    for sample in some(task, 15):
        problem = task.problem(sample)
        *boxes, ok = problem.screen.widgets
        press = clicked(ok.box)
        for ticked in itertools.product((False, True), repeat=len(boxes)):
            ticks = [clicked(box.box) for box, tick in zip(boxes, ticked, strict=True) if tick]
            right = {word for box, tick in zip(boxes, ticked, strict=True) if tick for word in labels(box)}
            expected = WON if right == set(named(problem)) else LOST
            assert ends(task, sample, [*ticks, press]) == ends(task, sample, [*ticks[::-1], press]) == expected
            assert ends(task, sample, ticks) == GOES_ON


def test_menu_wins_with_the_named_entry_of_the_named_menu() -> None:
    task = TASKS[3]
    for sample in some(task, 30):
        *menus, button = task.problem(sample).screen.widgets
        assert ends(task, sample, [clicked(button.box)]) == LOST
        for place, menu in enumerate(menus):
            assert isinstance(menu, Menu)
            for entry in range(len(menu.entries)):
                problem = task.problem(sample)
                opened = problem.screen.widgets[place]
                problem.screen.act(opened.box.click())
                replies = [clicked(opened.box), clicked(opened.targets()[entry])]
                right = named(problem) == [menu.entries[entry], menu.title]
                assert ends(task, sample, replies[:1]) == GOES_ON
                assert ends(task, sample, replies) == (WON if right else LOST)


def test_dialog_wants_its_answer_before_anything_else() -> None:
    task, asked = TASKS[4], Counter[str]()
    for sample in some(task, 30):
        problem = task.problem(sample)
        dialog = problem.screen.widgets[-1]
        assert isinstance(dialog, Dialog)
        verb = problem.goal.split()[0]
        right = {"Accept": "OK", "Close": "X"}[verb]
        asked[verb] += 1
        answers = dict(zip(dialog.answers, map(clicked, dialog.targets()), strict=True))
        (wrong,) = set(answers) - {right}
        first, press = solved(task, sample)
        assert first == answers[right]
        assert ends(task, sample, [first, press]) == WON
        assert ends(task, sample, [answers[wrong]]) == LOST
    assert min(asked.values()) > 5


def test_scroll_wins_with_an_entry_that_is_not_in_view_at_first() -> None:
    task = TASKS[5]
    for sample in some(task, 30):
        problem = task.problem(sample)
        scrolled, button = problem.screen.widgets
        assert isinstance(scrolled, ScrollList)
        assert scrolled.entries.index(named(problem)[0]) >= 3
        *scrolls, click = solved(task, sample)
        assert set(scrolls) == {"scroll down"}
        assert ends(task, sample, [*scrolls, "scroll up", *scrolls, click]) == WON
        assert ends(task, sample, [click]) == ends(task, sample, [clicked(button.box)]) == LOST


# --- what the SDK asks of a task --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*TASKS, Mix()], ids=lambda task: task.name)
def test_the_tasks_conform(task: CanvasTask) -> None:
    assert check_task(task) == []


def test_the_mixture_has_each_kind_in_turn() -> None:
    mix = Mix()
    for split in SPLITS:
        samples = list(mix.samples(split))
        assert len(samples) == SAMPLES[split]
        assert [sample.id for sample in samples[:8]] == [
            f"{name}-{split}-{number}" for number, name in [(0, name) for name in NAMES] + [(1, "press"), (1, "fill")]
        ]
        for task, sample in zip(TASKS, samples, strict=False):
            assert sample == next(iter(task.samples(split)))
            assert mix.solve(sample) == task.solve(sample)
    with pytest.raises(UserError, match=r"canvas/mix has no split 'dev'; it has train, validation, test"):
        mix.samples("dev")


def test_the_prompt_tells_the_grammar_and_nothing_that_is_not_needed() -> None:
    (message,) = some(TASKS[0], 1)[0].messages
    assert message.role == "system"
    assert isinstance(message.content, str)
    assert message.content.splitlines() == [
        "Reach the goal on the screen.",
        "",
        "Reply with one action:",
        "click X Y",
        "type TEXT",
        "key Enter",
        "scroll down",
        "done",
        "X and Y are percent of the screen.",
    ]


@pytest.mark.parametrize("dialect", ["pixels", "norm1000", "browsergym", "android_world"])
def test_other_dialects_solve_them_too(dialect: Dialect) -> None:
    task = Mix(dialect)
    for sample in some(task, 30):
        assert ends(task, sample, solved(task, sample)) == WON


def test_what_a_dialect_cannot_say_has_no_solution_and_no_ratings() -> None:
    """That of AitW has no scroll."""
    task = Mix("aitw")
    assert [task.solve(sample) is None for sample in some(task, 6)] == [name == "scroll" for name in NAMES]
    rated = {rating.metadata["problem"] for rating in itertools.islice(task.ratings("train"), 60)}
    assert rated == set(NAMES) - {"scroll"}


def test_an_episode_is_as_long_as_the_task_is_told() -> None:
    task = Mix(max_steps=2)
    steps = episode(task, some(task, 1)[0], ["nonsense"] * 3)
    assert (steps[-1].terminated, len(steps)) == (True, 3)


# --- ratings ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ratings() -> list[Rated]:
    return list(itertools.islice(Mix().ratings("test"), 600))


def test_ratings_come_in_twos_at_each_step_of_the_oracles_episode(ratings: list[Rated]) -> None:
    mix = Mix()
    by_episode = itertools.groupby(ratings, key=lambda rating: rating.cluster)
    for sample, (cluster, group) in itertools.islice(zip(mix.samples("test"), by_episode, strict=False), 40):
        of_one, replies = list(group), solved(mix, sample)
        assert cluster == sample.id
        assert [r.label for r in of_one] == [1, 0] * len(replies)
        assert [r.metadata["step"] for r in of_one] == [n // 2 for n in range(2 * len(replies))]
        seen = [step.observation for step in episode(mix, sample, replies)]
        for place, rating in enumerate(of_one):
            turns = [[*seen[n], Message("assistant", replies[n])] for n in range(place // 2)]
            expected = [*sample.messages, *itertools.chain(*turns), *seen[place // 2]]
            assert shown(rating.messages) == shown(expected)
            assert [m.role for m in rating.messages] == [m.role for m in expected]


def test_the_right_action_wins_where_the_wrong_one_does_not(ratings: list[Rated]) -> None:
    """The rest of the oracle's episode is played after either."""
    mix = Mix()
    samples = {sample.id: sample for sample in mix.samples("test")}
    for rating in ratings:
        sample = samples[str(rating.cluster)]
        replies = solved(mix, sample)
        replies[rating.metadata["step"]] = str(rating.reply)
        reward = sum(step.reward for step in episode(mix, sample, replies))
        assert reward == rating.label, (rating.cluster, rating.metadata, rating.reply)


def test_wrong_actions_are_of_every_sort_and_right_ones_anywhere_in_their_box(ratings: list[Rated]) -> None:
    sorts = Counter(rating.metadata["sort"] for rating in ratings)
    assert sorts["right"] == len(ratings) // 2
    assert set(sorts) == {"right", "wrong element", "wrong type", "wrong argument", "another step"}
    assert min(sorts.values()) > 40
    mix = Mix()
    samples = {sample.id: sample for sample in mix.samples("test")}
    off_centre = [
        rating.reply != solved(mix, samples[str(rating.cluster)])[rating.metadata["step"]]
        for rating in ratings
        if rating.label == 1 and str(rating.reply).startswith("click")
    ]
    assert sum(off_centre) > 0.9 * len(off_centre)


def test_ratings_are_drawn_from_their_seed() -> None:
    def drawn(seed: int) -> list[str]:
        return [str(rating.reply) for rating in itertools.islice(Mix().ratings("train", seed=seed), 60)]

    assert drawn(0) == drawn(0) != drawn(1)
