"""Oracles of pages of miniwob, played in the real browser: they win, and what they rate is as right as they say."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from pe_rlhf_mm.envs.actions import ActionError, Dialect, UIAction
from pe_rlhf_mm.envs.web.environment import WebEnv
from pe_rlhf_mm.tasks.miniwob.pages import CLICK_MIX, TYPE_MIX
from pe_rlhf_mm.tasks.miniwob.playing import Look, Right, look
from pe_rlhf_mm.tasks.miniwob.task import MiniWob
from pe_rlhf_mm.tasks.miniwob.wrong_actions import right_action, wrong_action
from pe_rlhf_mm.types import Image, Rated, Sample, Step

pytestmark = pytest.mark.browser

MORE = """
    bisect-angle choose-date-easy click-button click-checkboxes click-pie-nodelay click-shades click-shape
    click-tab-2-hard click-widget count-shape enter-time login-user-popup navigate-tree odd-or-even read-table
    search-engine simple-algebra
""".split()
MIXED = [*CLICK_MIX, *TYPE_MIX]
PLAYED = MIXED + MORE


@pytest.fixture(scope="module")
def stage() -> Iterator[MiniWob]:
    """One task, and so one page of the browser, for whatever sample is played."""
    made = MiniWob(*PLAYED)
    yield made
    made.close()


@pytest.fixture(scope="module")
def environment() -> Iterator[WebEnv]:
    made = MiniWob(*PLAYED).environment()
    yield made
    made.close()


def some(page: str, count: int, split: str = "train") -> list[Sample]:
    return list(itertools.islice(MiniWob(page).samples(split), count))


def reward(environment: WebEnv, sample: Sample, replies: Sequence[str]) -> float:
    """Of an episode that these replies end; 0 for one that goes on."""
    step = environment.reset(sample, seed=0)
    for reply in replies:
        if not (step.terminated or step.truncated):
            step = environment.step(reply)
    return step.reward if step.terminated else 0.0


def ended(step: Step) -> float:
    """The reward of a step that ended its episode."""
    assert step.terminated
    return step.reward


def episodes_of(ratings: Iterator[Rated], count: int) -> list[list[Rated]]:
    """The ratings of the first samples."""
    groups = itertools.groupby(ratings, lambda rated: rated.cluster)
    return [list(group) for _, group in itertools.islice(groups, count)]


@pytest.mark.parametrize("page", PLAYED)
def test_an_oracle_wins(page: str, stage: MiniWob) -> None:
    samples = some(page, 2 if page in MIXED else 1)
    outcomes = list(stage.demonstrations(samples))
    assert [outcome.sample for outcome in outcomes] == samples
    for outcome in outcomes:
        assert outcome.steps[-1].terminated
        assert outcome.steps[-1].reward > 0
        assert len(outcome.steps) == len(outcome.replies) + 1
        assert not any("action_error" in step.info for step in outcome.steps)


@pytest.mark.parametrize("dialect", ["pixels", "norm1000"])
def test_an_oracle_speaks_every_dialect(dialect: Dialect) -> None:
    made = MiniWob("enter-text", "grid-coordinate", dialect=dialect)
    environment = made.environment()
    for sample in itertools.islice(made.samples("train"), 2):
        replies = made.solve(sample)
        assert replies is not None
        assert reward(environment, sample, replies) > 0
    environment.close()
    made.close()


def test_where_one_element_covers_another_it_is_clicked_where_it_is_seen(environment: WebEnv) -> None:
    """The middle of button ONE is under button TWO in this problem: a click there loses."""
    (sample,) = (sample for sample in some("click-test-2", 9) if sample.id == "click-test-2-100008")
    environment.reset(sample, seed=0)
    assert ended(environment.step("click 31 44")) == 0
    environment.reset(sample, seed=0)
    seen = look(environment, "click-test-2")
    (right,), (other,) = seen.right, seen.others
    for points, worth in ((right.points, 1), (other, 0)):
        for point in (points[0], points[-1]):
            environment.reset(sample, seed=0)
            said = environment.codec.render(UIAction("click", point), environment.size)
            assert ended(environment.step(said)) == worth


def test_points_hit_what_they_are_of_even_when_they_are_rounded(environment: WebEnv) -> None:
    """Circles of 8 pixels, on a grid of whole percents which are 1.6 and 2.1 pixels apart."""
    (sample,) = some("grid-coordinate", 1)
    environment.reset(sample, seed=0)
    seen = look(environment, "grid-coordinate")
    assert len(seen.others) == 24
    rounded = [
        [
            environment.codec.parse(environment.codec.render(UIAction("click", point), (160, 210)), (160, 210)).point
            for point in points
        ]
        for points in (seen.right[0].points, *seen.others, seen.ground)
    ]
    names = (
        "all => all.map(points => [...new Set(points.map(([x, y]) => document.elementFromPoint(160 * x, 210 * y).id))])"
    )
    right, *others, ground = environment.evaluate(names, rounded)
    wanted = environment.evaluate("core.getUtterance()").removeprefix("Click on the grid coordinate ").rstrip(".")
    assert right == [wanted]
    assert sorted(name for (name,) in others) == sorted(
        {f"({x},{y})" for x in range(-2, 3) for y in range(-2, 3)} - {wanted}
    )
    assert not any("," in name for name in ground)


def test_the_first_point_is_in_the_middle(environment: WebEnv) -> None:
    (sample,) = some("click-test", 1)
    environment.reset(sample, seed=0)
    seen = look(environment, "click-test")
    ((left, top, right, bottom),) = seen.boxes
    assert seen.right[0].action.point == pytest.approx(((left + right) / 2, (top + bottom) / 2))
    assert seen.others == []


def test_what_may_come_in_any_order_is_right_in_any(environment: WebEnv) -> None:
    """Of a form with two fields both are right at first, then the text and the other field, then the button."""
    (sample,) = some("enter-password", 1)
    environment.reset(sample, seed=0)
    kinds = []
    for _ in range(5):
        seen = look(environment, "enter-password")
        kinds.append([right.action.kind for right in seen.right])
        environment.step(environment.codec.render(seen.right[0].action, environment.size))
    assert kinds == [["click", "click"], ["type", "click"], ["click"], ["type"], ["click"]]


def test_a_page_without_an_oracle_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebEnv, "reset", None)
    made = MiniWob("book-flight")
    assert made.solve(next(made.samples("train"))) is None
    assert not list(made.demonstrations(itertools.islice(made.samples("train"), 3)))
    made.close()


def test_solutions_and_demonstrations_come_from_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    made, envs = MiniWob("click-test", "enter-text"), []
    monkeypatch.setattr(made, "environment", lambda: envs.append(MiniWob.environment(made)) or envs[-1])
    samples = list(itertools.islice(made.samples("train"), 4))
    solutions = [made.solve(sample) for sample in samples]
    assert solutions == [list(outcome.replies) for outcome in made.demonstrations(samples)]
    assert len(episodes_of(made.ratings("train"), 2)) == 2
    assert len(envs) == 1
    made.close()


# --- ratings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", ["click-test-2", "click-shape", "click-widget", "click-collapsible", "enter-text", "login-user"]
)
def test_ratings_are_true(page: str, environment: WebEnv) -> None:
    """The right replies win together; with one of the wrong ones in its turn's place they do not."""
    made, count = MiniWob(page), 1 if page in TYPE_MIX else 2
    for ratings, sample in zip(episodes_of(made.ratings("train"), count), some(page, count), strict=True):
        right = [str(rated.reply) for rated in ratings if rated.label == 1]
        assert [rated.label for rated in ratings] == [1, 0] * len(right)
        assert reward(environment, sample, right) > 0
        for rated in ratings[1::2]:
            turn = rated.metadata["step"]
            replies = [*right[:turn], str(rated.reply), *right[turn + 1 :]]
            assert reward(environment, sample, replies) <= 0, (rated.metadata, replies)
    made.close()


def test_a_rating_asks_after_the_conversation_so_far() -> None:
    made = MiniWob("enter-text")
    (ratings,) = episodes_of(made.ratings("train"), 1)
    sample = next(made.samples("train"))
    for rated in ratings:
        step = rated.metadata["step"]
        assert [m.role for m in rated.messages] == ["system", "user", *["assistant", "user"] * step]
        assert list(rated.messages[:1]) == list(sample.messages)
        assert sum(isinstance(part, Image) for message in rated.messages for part in message.parts) == step + 1
        assert (rated.cluster, rated.metadata["page"]) == (sample.id, "miniwob/enter-text.html")
    made.close()


def test_ratings_are_drawn_from_the_seed() -> None:
    made = MiniWob("click-test-2")
    first, again, other = (
        [rated.reply for rated in itertools.islice(made.ratings("train", seed=seed), 8)] for seed in (0, 0, 1)
    )
    assert first == again != other
    made.close()


def test_ratings_play_only_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made, played = MiniWob("click-test"), []
    play = made._play
    monkeypatch.setattr(made, "_play", lambda sample: played.append(sample.id) or play(sample))
    next(made.ratings("test"))
    assert played == ["click-test-0"]
    made.close()


CLICK = Look(
    [Right(UIAction("click", (0.5, 0.5)), [(0.5, 0.5), (0.55, 0.5)])],
    boxes=[(0.4, 0.4, 0.6, 0.6)],
    others=[[(0.1, 0.1), (0.1, 0.2)], [(0.9, 0.9)]],
    ground=[(0.2, 0.8)],
)
"""One thing to be clicked, two others, and bare ground."""
TYPE = Look(
    [Right(UIAction("type", text="Ann"), []), Right(UIAction("click", (0.5, 0.5)), [(0.5, 0.5)])],
    boxes=[(0.4, 0.4, 0.6, 0.6)],
    others=[[(0.1, 0.1)]],
    ground=[],
)
"""A text is to be typed, or another field may be clicked first."""


def drawn(seen: Look, other_steps: Sequence[UIAction]) -> dict[str, set[UIAction]]:
    """What is drawn in a while, by sort."""
    rng, found = random.Random(0), defaultdict[str, set[UIAction]](set)
    for _ in range(400):
        sort, action = wrong_action(seen, other_steps, ["Enter", "Ann"], lambda action: action.text, rng)
        found[sort].add(action)
    return found


def test_wrong_actions_where_something_is_to_be_clicked() -> None:
    inside, outside, text = UIAction("click", (0.41, 0.59)), UIAction("click", (0.3, 0.5)), UIAction("type", text="Ann")
    found = drawn(CLICK, [inside, outside, text])
    assert {action.point for action in found["wrong element"]} == {(0.1, 0.1), (0.1, 0.2), (0.9, 0.9)}
    assert found["wrong argument"] == {UIAction("click", (0.2, 0.8))}
    assert {action.kind for action in found["wrong type"]} == {"type", "key", "wait", "done"}
    assert found["another step"] == {outside, text}  # not what would be right here too
    assert len(found) == 4


def test_wrong_actions_where_something_is_to_be_typed() -> None:
    again = UIAction("type", text="Ann")
    found = drawn(TYPE, [again])
    assert found["wrong argument"] == {UIAction("type", text=text) for text in ("Enter", "An", "nn", "AnnAnn")}
    assert {action.kind for action in found["wrong type"]} == {"key", "wait", "done"}  # a click may be right
    assert found.keys() == {"wrong argument", "wrong type"}


def test_wrong_actions_are_such_as_the_dialect_has() -> None:
    def say(action: UIAction) -> str:
        if action.kind not in ("click", "type"):
            raise ActionError("no such kind")
        return action.kind

    rng = random.Random(0)
    kinds = {wrong_action(CLICK, [], ["Enter"], say, rng)[1].kind for _ in range(100)}
    assert kinds == {"click", "type"}


def test_a_right_click_goes_anywhere_into_what_is_to_be_clicked() -> None:
    rng = random.Random(0)
    assert {right_action(CLICK, rng).point for _ in range(50)} == {(0.5, 0.5), (0.55, 0.5)}
    assert right_action(TYPE, rng) == UIAction("type", text="Ann")
