"""Episodes on a page: what is kept of them, and strips of screens with the chosen points where they belong."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from playwright.sync_api import Browser
from report_pages import HANDLER, SCRIPT, Page, make_run, png, read, row

from pe_rlhf_mm.envs.actions import UIAction
from pe_rlhf_mm.envs.episode import play
from pe_rlhf_mm.reports.episodes import episode_record, goal_of
from pe_rlhf_mm.reports.gallery import LIMIT_OF_EPISODES, choose_samples
from pe_rlhf_mm.reports.page import write_report
from pe_rlhf_mm.reports.strips import FIRST, LAST
from pe_rlhf_mm.testing import ToyEnvironment
from pe_rlhf_mm.types import Image, Message, Outcome, Sample, Step, Text

RED, GREEN = (200, 30, 30), (30, 160, 60)


def seen(color: tuple[int, int, int], *texts: str) -> list[Message]:
    return [Message("user", [Image(Pillow.new("RGB", (32, 48), color)), *map(Text, texts)])]


class Kept:
    """A run folder's pictures, by the hash of what they are."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def __call__(self, content: bytes) -> str:
        name = f"images/{hashlib.sha256(content).hexdigest()}.png"
        self.files[name] = content
        return name

    @property
    def colors(self) -> dict[tuple[int, ...], str]:
        return {Pillow.open(io.BytesIO(content)).getpixel((0, 0)): name for name, content in self.files.items()}


CLICK = UIAction("click", (0.25, 0.75))
EPISODE = Outcome(
    Sample("pressed", (Message("system", "You see a screen."),)),
    ["clack 25", "click 25 75"],
    [
        Step(seen(RED, "Press the button.")),
        Step(seen(RED, "clack?"), info={"action_error": "clack?"}),
        Step(seen(GREEN), reward=1.0, terminated=True, info={"action": CLICK}),
    ],
)


# --- what is kept -----------------------------------------------------------------------------------------------


def test_a_record_has_a_step_for_every_reply_and_what_was_left_to_be_seen() -> None:
    kept = Kept()
    record = episode_record(EPISODE, kept)
    red, green = kept.colors[RED], kept.colors[GREEN]
    common = {"text": None, "to": None}
    assert record == {
        "end": "terminated",
        "why": None,
        "steps": [
            {**common, "image": red, "reply": "clack 25", "point": None, "error": "clack?", "reward": 0.0},
            {**common, "image": red, "reply": "click 25 75", "point": (0.25, 0.75), "error": None, "reward": 1.0},
            {**common, "image": green, "reply": None, "point": None, "error": None, "reward": 0.0},
        ],
    }
    assert len(kept.files) == 2
    assert goal_of(EPISODE) == "Press the button."


def test_a_drag_has_two_ends() -> None:
    drag = UIAction("drag", (0.1, 0.2), (0.9, 0.8))
    steps = [Step(seen(RED)), Step([], truncated=True, info={"action": drag})]
    (step,) = episode_record(Outcome(EPISODE.sample, ["drag 10 20 90 80"], steps), Kept())["steps"]
    assert (step["point"], step["to"]) == ((0.1, 0.2), (0.9, 0.8))


def test_a_lost_episode_says_why_and_shows_nothing_after() -> None:
    steps = [Step(seen(RED)), Step([], truncated=True, info={"lost": "no page"})]
    record = episode_record(Outcome(EPISODE.sample, ["click 1 1"], steps), Kept())
    assert (record["end"], record["why"], len(record["steps"])) == ("lost", "no page", 1)


def test_an_episode_without_pictures_keeps_its_texts() -> None:
    replies = iter(["up", "done"])
    outcome = play(lambda conversation: next(replies), ToyEnvironment(), Sample("one", (), target=1), seed=0)
    steps = episode_record(outcome, Kept())["steps"]
    assert [(step["image"], step["text"]) for step in steps] == [
        (None, "Bring the counter from 0 to 1."),
        (None, "The counter stands at 1."),
    ]


def test_where_nothing_new_is_shown_the_screen_is_the_one_before() -> None:
    steps = [Step(seen(RED)), Step([]), Step([], terminated=True)]
    kept = Kept()
    record = episode_record(Outcome(EPISODE.sample, ["wait", "wait"], steps), kept)
    assert [step["image"] for step in record["steps"]] == [kept.colors[RED]] * 2


# --- strips -----------------------------------------------------------------------------------------------------


def turn(**changes: Any) -> dict[str, Any]:
    step = {"image": "images/a.png", "text": None, "reply": "click 25 75", "point": [0.25, 0.75], "to": None}
    return {**step, "error": None, "reward": 0.0, **changes}


def line(
    *steps: Any, id: str = "1", end: str = "terminated", why: str | None = None, scores: tuple[Any, Any] = (0, 1)
) -> dict[str, Any]:
    """A sample whose SFT policy and tuned policy played the same episode."""
    episode = {"end": end, "why": why, "steps": list(steps)}
    said = {name: {"reward": 0.5, "score": score} for name, score in zip(("sft", "rl"), scores, strict=True)}
    return {"id": id, "question": "Press the button.", "episodes": {"sft": episode, "rl": episode}, **said}


def page_of(folder: Path, *lines: dict[str, Any]) -> Page:
    return read(make_run(folder / "run", samples=lines))


def classes(page: Page, tag: str, name: str) -> list[dict[str, str | None]]:
    return [attributes for attributes in page.all(tag) if name in (attributes.get("class") or "").split()]


def test_a_strip_tells_replies_errors_rewards_and_the_end(tmp_path: Path) -> None:
    steps = [
        turn(reply="clack", point=None, error="no such action"),
        turn(reward=0.75),
        turn(reply="", point=None, reward=-0.25),
        turn(reply=None, point=None),
    ]
    text = page_of(tmp_path, line(*steps)).text
    told = "reward 0.500, 3 replies, ended by the task"
    played = "clack ⚠ not carried out: no such action click 25 75 reward 0.750 empty reward −0.250 at the end"
    assert f"SFT ✗ wrong {told} {played}" in text
    assert f"RL ✓ right {told} {played}" in text
    assert "Press the button." in text


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("out_of_steps", "ended: the environment allows no more replies"),
        ("out_of_turns", "cut off: out of turns"),
        ("out_of_context", "cut off: longer than the model's context"),
        ("lost", "lost, and not counted no page"),
        ("something else", "reward 0.000, 1 reply"),
    ],
)
def test_every_end_is_told(tmp_path: Path, end: str, said: str) -> None:
    page = page_of(tmp_path, line(turn(), end=end, why="no page" if end == "lost" else None, scores=(None, None)))
    assert said in page.text
    assert "SFT ? not scored" in page.text


def test_an_error_marks_its_screen(tmp_path: Path) -> None:
    page = page_of(tmp_path, line(turn(), turn(error="no")))
    assert [tile.get("class") for tile in page.all("li") if tile.get("class") in (None, "failed")][-4:] == [
        None,
        "failed",
    ] * 2


def test_points_are_told_to_those_who_cannot_see_them(tmp_path: Path) -> None:
    page = page_of(tmp_path, line(turn(to=[1, 0.5]), turn(point=None)))
    assert [screen["aria-label"] for screen in classes(page, "div", "screen")][:2] == [
        "Screen 1, pointed at 25.0 % from the left, 75.0 % from the top, dragged to 100.0 % from the left, "
        "50.0 % from the top",
        "Screen 2",
    ]


@pytest.mark.parametrize("point", [[1.01, 0.5], [-0.1, 0.5], [0.5], [0.5, None], "ab", [0.5, "x"], 7, {"x": 0.5}])
def test_a_point_outside_the_picture_is_not_drawn(tmp_path: Path, point: Any) -> None:
    assert not classes(page_of(tmp_path, line(turn(point=point))), "svg", "aim")


def test_a_long_episode_shows_its_beginning_and_its_end(tmp_path: Path) -> None:
    text = page_of(tmp_path, line(*[turn(reply=f"say {i}.") for i in range(30)])).text
    shown = [int(i) for i in re.findall(r"say (\d+)\.", text)]
    assert shown == [*range(FIRST), *range(30 - LAST, 30)] * 2
    assert f"say {FIRST - 1}. {30 - FIRST - LAST} more say {30 - LAST}." in text
    assert "30 replies" in text
    whole = page_of(tmp_path / "whole", line(*[turn(reply=f"say {i}.") for i in range(FIRST + LAST)])).text
    assert " more say" not in whole
    assert whole.count("say ") == 2 * (FIRST + LAST)


def test_every_picture_is_embedded_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", samples=[line(*[turn()] * 3, id=str(i)) for i in range(5)])
    html = write_report(folder)[0].read_text(encoding="utf-8")
    (uri,) = re.findall(r"url\((.*?)\)", html)
    picture = Pillow.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert picture.convert("RGB").getpixel((0, 0)) == RED
    assert len(classes(Page(html), "div", "screen-0")) == 30


def test_large_screens_are_made_smaller_and_keep_their_shape(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", samples=[line(turn())])
    Pillow.new("RGB", (1080, 2400), RED).save(folder / "images/a.png")
    screen = classes(read(folder), "div", "screen")[0]
    assert (screen["style"], screen["class"]) == ("aspect-ratio:189/420", "screen screen-0")
    Pillow.new("RGB", (1280, 720), RED).save(folder / "images/a.png")
    screen = classes(read(folder), "div", "screen")[0]
    assert (screen["style"], screen["class"]) == ("aspect-ratio:420/236", "screen screen-0 broad")


def test_fewer_episodes_are_shown_than_answers(tmp_path: Path) -> None:
    lines = [line(turn(), id=str(i), scores=(i % 2, 1)) for i in range(100)]
    assert len(choose_samples(make_run(tmp_path / "run"), lines).cards) == LIMIT_OF_EPISODES


def test_episodes_are_called_episodes(tmp_path: Path) -> None:
    page = page_of(tmp_path, line(turn()))
    assert "Accuracy on 1,500 test episodes was" in page.text
    assert "1 test episodes were played before RL" in page.text
    assert "test episodes that succeeded" in row(page, "SFT")
    assert "nats per episode" in row(page, "RL")
    assert "questions" not in page.text


def test_the_same_episodes_give_the_same_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", samples=[line(turn(), id=str(i)) for i in range(50)])
    assert write_report(folder)[0].read_bytes() == write_report(folder)[0].read_bytes()


# --- what comes from models and data is never alive -------------------------------------------------------------


def test_hostile_episodes_stay_text(tmp_path: Path) -> None:
    words = SCRIPT + HANDLER + "</style></li>" + "javascript:alert(1)"
    folder = make_run(tmp_path / "run")
    (folder / "images/evil.png").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" onload="x">{SCRIPT}</svg>')
    (tmp_path / "secret.png").write_bytes(png((1, 2, 3)))
    steps = [
        turn(reply=words, error=words, text=words, reward=words, point=words, to=words),
        turn(reply={words: words}, error=[words], image=None, text=words),
        *(turn(image=image) for image in ("../secret.png", "images/evil.png", "https://example.com/a.png", {"a": 1})),
    ]
    lines = [line(*steps, id=words, why=words, end=words) | {"question": words}]
    (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    page = read(folder)
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 2
    assert "alert(1)" in page.text
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"src", "href"} & set(attributes)
        assert "alert" not in (attributes.get("style") or "") + (attributes.get("class") or ""), tag
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert [uri[:22] for uri in re.findall(r"url\((.*?)\)", html)] == ["data:image/png;base64,"]
    assert len(page.all("li")) >= 2 * len(steps)


def test_a_very_long_reply_is_cut_and_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, line(turn(reply="x" * 100_000, error="y" * 100_000)))
    assert page.text.count("(99,880 more characters)") == 4


@pytest.mark.parametrize(
    "episodes", [7, [], {}, {"sft": 7}, {"sft": {"steps": 7}}, {"sft": {"steps": [7, None, [], {}]}, "rl": []}]
)
def test_broken_records_break_no_page(tmp_path: Path, episodes: Any) -> None:
    text = page_of(tmp_path, line(turn()) | {"episodes": episodes}, {"id": "2"}).text
    assert "no episode recorded" in text
    assert "2 test episodes" in text


# --- in a browser -----------------------------------------------------------------------------------------------


def places(browser: Browser, path: Path, *, width: int = 1200, dark: bool = False) -> dict[str, Any]:
    """Where a browser puts the marks (as fractions of their screens), and what else is to be seen of a page."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.goto(path.as_uri())
    found: dict[str, Any] = page.evaluate(
        """() => ({
          aims: [...document.querySelectorAll('.aim')].map(aim => {
            const mark = aim.getBoundingClientRect(), screen = aim.parentElement.getBoundingClientRect();
            return [(mark.x + mark.width / 2 - screen.x) / screen.width,
                    (mark.y + mark.height / 2 - screen.y) / screen.height];
          }),
          shapes: [...document.querySelectorAll('.screen')].map(e => e.clientHeight / e.clientWidth),
          wider: document.documentElement.scrollWidth - innerWidth,
          ground: getComputedStyle(document.body).backgroundColor,
        })"""
    )
    found["errors"] = errors
    shot = page.locator(".screen").first.screenshot()
    found["corner"] = Pillow.open(io.BytesIO(shot)).convert("RGB").getpixel((3, 3))
    page.close()
    return found


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (360, True)])
def test_marks_lie_where_the_policy_pointed(tmp_path: Path, browser: Browser, width: int, dark: bool) -> None:
    points: Sequence[tuple[float, float]] = [(0.25, 0.75), (0, 0), (1, 1), (0.9, 0.1)]
    steps = [turn(point=point) for point in points] + [turn(point=[0.2, 0.2], to=[0.6, 0.4])]
    folder = make_run(tmp_path / "run", samples=[line(*steps)])
    Pillow.new("RGB", (160, 210), RED).save(folder / "images/a.png")
    found = places(browser, write_report(folder)[0], width=width, dark=dark)
    expected = [part for point in (*points, (0.6, 0.4), (0.2, 0.2)) for part in point] * 2
    assert [part for aim in found["aims"] for part in aim] == pytest.approx(expected, abs=0.01)
    assert found["shapes"] == pytest.approx([210 / 160] * 10, rel=0.01)
    assert found["corner"] == RED
    assert found["wider"] <= 0
    assert found["errors"] == []
    assert (found["ground"] == "rgb(18, 20, 24)") is dark
