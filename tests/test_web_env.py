"""Pages in a real browser: what actions do, what pictures and rewards depend on, and what pages are kept from."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from web_pages import Json, do, middle, sample, seen, start, told, write_page

from pe_rlhf_mm.envs.web.browser import Browser
from pe_rlhf_mm.envs.web.chromium import miniwob_folder
from pe_rlhf_mm.envs.web.environment import WebEnv
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing import check_env

pytestmark = pytest.mark.browser

LOGGING = """
  var log;
  begin = () => { log = []; document.getElementById('box').value = ''; document.getElementById('list').scrollTop = 0; };
  for (const kind of ['mousedown', 'mouseup', 'click', 'dblclick'])
    document.addEventListener(kind, event => log.push([kind, Math.round(event.clientX), Math.round(event.clientY)]));
  for (const kind of ['keydown', 'keyup']) document.addEventListener(kind, event => log.push([kind, event.key]));
"""
PARTS = """
  <input id="box" style="position: absolute; left: 10px; top: 20px; width: 100px; height: 20px">
  <div id="list" style="position: absolute; left: 0; top: 100px; width: 160px; height: 60px; overflow: auto">
    <div style="width: 400px; height: 600px; background: linear-gradient(red, blue)"></div></div>
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages below a folder whose name must be quoted in an address."""
    folder = tmp_path_factory.mktemp("web") / "pages for Zoë's tests (50%)"
    write_page(folder, "log.html", LOGGING, PARTS)
    return folder


@pytest.fixture(scope="module")
def env(browser: Browser, folder: Path) -> Iterator[WebEnv]:
    env = WebEnv(folder, Json(), browser=browser)
    yield env
    env.close()


@pytest.fixture(scope="module")
def pair(browser: Browser) -> Iterator[tuple[WebEnv, WebEnv]]:
    """Two environments on the pages of miniwob; the second poses new problems in the loaded page."""
    every = [f"miniwob/{name}.html" for name in ("click-test-2", "login-user", "use-autocomplete")]
    first = WebEnv(miniwob_folder(), Json(), browser=browser)
    second = WebEnv(miniwob_folder(), Json(), in_place=every, browser=browser)
    yield first, second
    first.close()
    second.close()


# --- problems and rewards -------------------------------------------------------------------------------------------


def test_a_problem_is_its_seed(pair: tuple[WebEnv, WebEnv]) -> None:
    first, second = (start(env, "miniwob/login-user.html", 7) for env in pair)
    other = start(pair[0], "miniwob/login-user.html", 8)
    assert first == second
    assert seen(first) != seen(other)
    assert told(first)[0].startswith("Enter the username")
    assert told(first) != told(other)
    picture = first.observation[0].parts[0].source
    assert picture.size == pair[0].size == (160, 210)
    assert (first.reward, first.terminated, first.truncated, first.info) == (0, False, False, {"replays": 0})


def test_the_reward_is_the_same_however_long_it_took_and_failing_costs_nothing(pair: tuple[WebEnv, WebEnv]) -> None:
    """Miniwob takes off a tenth a second from a reward of this page, ends its episodes after ten seconds, and takes one
    off for the wrong button."""
    env = pair[1]
    for target, reward in (("#subbtn", 1.0), ("#subbtn2", 0.0)):
        start(env, "miniwob/click-test-2.html", 3)
        steps = [do(env, "wait") for _ in range(9)]
        place = middle(env, target)
        last = do(env, "click", point=place)
        assert not any(step.terminated or step.truncated for step in steps)
        assert (last.reward, last.terminated, last.observation) == (reward, True, [])
        with pytest.raises(RuntimeError, match="the episode is over"):
            do(env, "wait")
    assert env.evaluate("new Date().getTime() - core.ept0") == 11_000


@pytest.mark.parametrize("page", ["click-test-2", "login-user", "use-autocomplete"])
def test_a_problem_posed_in_the_loaded_page_is_the_same(pair: tuple[WebEnv, WebEnv], page: str) -> None:
    """Although a text was left in it, the keyboard's and the mouse's place, and a timer."""
    fresh, used = pair
    page = f"miniwob/{page}.html"
    start(used, page, 2)
    used.evaluate("window.mark = 1; setTimeout(() => { window.mark = 2; }, 3500)")
    do(used, "scroll", direction="down", point=middle(used, "#subbtn"))
    do(used, "key", text="Tab")
    do(used, "type", text="left")
    loaded, posed = start(fresh, page, 2), start(used, page, 2)
    assert loaded == posed
    assert used.evaluate("[mark, performance.now()]") == [1, 1000], "it was loaded again"
    assert do(fresh, "key", text="Tab") == do(used, "key", text="Tab")
    assert (fresh.evaluate("typeof mark"), used.evaluate("mark")) == ("undefined", 1)
    start(used, "miniwob/click-button.html", 2)
    assert used.evaluate("typeof mark") == "undefined", "a page that is not on the list is loaded"


def test_pictures_are_the_same_to_the_last_pixel(pair: tuple[WebEnv, WebEnv]) -> None:
    """Rounded corners and icons, which are drawn in several goes."""
    for seed in range(4):
        first, second = (start(env, "miniwob/click-dialog.html", seed) for env in pair)
        assert first == second


def test_pictures_wait_for_pictures(env: WebEnv, folder: Path) -> None:
    """Those of style sheets and of elements, here from a disk that is slower than a screenshot."""
    page = write_page(
        folder,
        "pictures.html",
        """const area = document.getElementById('area'), image = document.querySelector('img');
        let turn = 0;
        begin = () => { area.style.background = 'url(red.png)'; };
        addEventListener('click', () => {
          area.className = turn++ ? '' : 'content';
          if (turn == 2) image.src = 'blue.png';
        });""",
        '<style>.content { content: url(green.png) }</style><img style="position: absolute; left: 0; top: 0">',
    )
    colours = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
    for name, colour in colours.items():
        Pillow.new("RGB", (160, 210), colour).save(folder / f"{name}.png")
    start(env, page)
    assert env.recording.page is not None

    async def late(route: Any) -> None:
        await asyncio.sleep(0.3)
        await route.continue_()

    env.browser.run(env.recording.page.tab.context.route("**/*.png", late))
    pictures = [seen(start(env, page)), *(seen(do(env, "click", point=(50, 50))) for _ in range(2))]
    env.close()
    assert [picture[-3:] for picture in pictures] == [bytes(colour) for colour in colours.values()]


def test_pictures_stand_still(env: WebEnv, folder: Path) -> None:
    page = write_page(
        folder,
        "motion.html",
        "",
        """<style> @keyframes turn { to { background: red } } #text { height: 20px; animation: turn 1s infinite }
        #box { transition: margin 1s } #box:focus { margin: 30px } </style><input id="box">""",
    )
    start(env, page)
    focused = do(env, "click", point=middle(env, "#box"))
    assert env.evaluate("document.activeElement.id") == "box"
    for _ in range(6):
        time.sleep(0.15)  # a caret blinks twice a second
        assert env.recording.page is not None
        picture = Pillow.open(io.BytesIO(env.browser.run(env.recording.page.picture()))).convert("RGB")
        assert picture.tobytes() == seen(focused)


def test_an_environment_conforms(browser: Browser, folder: Path) -> None:
    page = write_page(
        folder, "seeded.html", "begin = () => show(seed); addEventListener('click', () => core.end(0.5));"
    )
    env = WebEnv(folder, Json(), in_place=[page], browser=browser)
    reply = json.dumps({"kind": "click", "point": [0.5, 0.5]})
    assert check_env(env, [sample(page, 1), sample(page, 2)], solve=lambda problem: [reply]) == []


def test_the_scale_changes_the_picture_and_not_the_page(browser: Browser, folder: Path) -> None:
    env = WebEnv(folder, Json(), scale=2, browser=browser)
    picture = start(env, "log.html").observation[0].parts[0].source
    assert picture.size == env.size == (320, 420)
    do(env, "click", point=(40, 90))
    assert env.evaluate("log.at(-1)") == ["click", 40, 90]
    env.close()


def test_a_page_that_is_not_there(env: WebEnv) -> None:
    with pytest.raises(UserError, match=r"there is no page .*nothing.html"):
        start(env, "nothing.html")


# --- time -----------------------------------------------------------------------------------------------------------


def test_time_is_a_second_a_step(env: WebEnv, folder: Path) -> None:
    page = write_page(
        folder,
        "time.html",
        """var born = Date.now(), beats = 0, frames = 0;
        const frame = () => { frames++; requestAnimationFrame(frame); };
        begin = () => {
          show('');
          setInterval(() => { beats++; }, 400);
          setTimeout("show('late')", 1500);
          clearTimeout(setTimeout(show, 1, 'no'));
          frame();
        };""",
    )
    first = start(env, page)
    assert env.evaluate("[Date.now() - born, performance.now(), beats, frames]") == [1000, 1000, 2, 63]
    assert env.evaluate("[Date(), new Date(0).getTime(), new Date().toISOString(), new Date() instanceof Date]") == [
        "Wed Jan 01 2020 12:00:01 GMT+0000 (Coordinated Universal Time)",
        0,
        "2020-01-01T12:00:01.000Z",
        True,
    ]
    assert seen(do(env, "wait")) != seen(first)
    assert env.evaluate("[Date.now() - born, beats, document.getElementById('text').textContent]") == [2000, 5, "late"]
    again = start(env, page)
    assert seen(again) == seen(first)


def test_delayed_suggestions_are_seen_and_all_pictures_are_the_same(pair: tuple[WebEnv, WebEnv]) -> None:
    """jQuery UI suggests after 300 ms of quiet."""
    for env in pair:
        start(env, "miniwob/use-autocomplete.html", 4)
    click = [do(env, "click", point=middle(env, "#tags")) for env in pair]
    typed = [do(env, "type", text="Sa") for env in pair]
    assert pair[0].evaluate("document.querySelectorAll('.ui-menu-item').length") > 0
    assert click[0] == click[1]
    assert typed[0] == typed[1]


def test_what_moves_by_itself_moves_alike(browser: Browser) -> None:
    page, env = "miniwob/moving-items.html", WebEnv(miniwob_folder(), Json(), browser=browser)
    films = [[seen(start(env, page, 5)), *(seen(do(env, "wait")) for _ in range(3))] for _ in range(2)]
    env.close()
    assert films[0] == films[1]
    assert len(set(films[0])) == 4


# --- actions --------------------------------------------------------------------------------------------------------


def test_the_mouse(env: WebEnv) -> None:
    start(env, "log.html")
    do(env, "click", point=(160, 210))
    assert env.evaluate("log") == [["mousedown", 159, 209], ["mouseup", 159, 209], ["click", 159, 209]]
    env.evaluate("log = []")
    do(env, "double_click", point=(33, 80))
    assert [kind for kind, _, _ in env.evaluate("log")] == [*["mousedown", "mouseup", "click"] * 2, "dblclick"]
    env.evaluate("log = []")
    do(env, "drag", point=(20, 80), to=(90, 95))
    assert [event for event in env.evaluate("log") if event[0] != "click"] == [
        ["mousedown", 20, 80],
        ["mouseup", 90, 95],
    ]


def test_scrolling_shows_what_lies_in_that_direction(env: WebEnv) -> None:
    first = start(env, "log.html")
    where = "(list => [list.scrollLeft, list.scrollTop])(document.getElementById('list'))"
    places = []
    for direction in ("down", "right", "up", "left"):
        moved = do(env, "scroll", direction=direction, point=(80, 130))
        places.append(env.evaluate(where))
        assert (seen(moved) == seen(first)) == (direction == "left")
    assert places == [[0, 100], [100, 100], [100, 0], [0, 0]]
    do(env, "scroll", direction="down")
    assert env.evaluate(where) == [0, 100], "without a point it is below the instruction"


def test_text_is_typed_with_keys(env: WebEnv) -> None:
    start(env, "log.html")
    do(env, "click", point=(50, 30))
    do(env, "type", text="aé")
    assert env.evaluate("box.value") == "aé"
    assert env.evaluate("log.filter(event => event[0].startsWith('key'))") == [["keydown", "a"], ["keyup", "a"]]
    do(env, "key", text="Control+a")
    do(env, "key", text="Backspace")
    step = do(env, "type", text="$(rm) \ud800 <b>")
    assert env.evaluate("box.value").startswith("$(rm) ")
    assert step.info["action"].kind == "type"
    start(env, "log.html")
    do(env, "type", text="there", point=(50, 30))
    assert env.evaluate("box.value") == "there", "a text with a point is typed there"


def test_no_clipboard_is_shared(browser: Browser, folder: Path, env: WebEnv) -> None:
    other = WebEnv(folder, Json(), browser=browser)
    for one, text in ((env, "mine"), (other, "yours")):
        start(one, "log.html")
        do(one, "type", text=text, point=(50, 30))
    for one in (env, other):
        do(one, "key", text="Control+a")
        do(one, "key", text="Control+x")
    assert env.evaluate("box.value") == ""
    for one in (env, other):
        do(one, "key", text="Control+v")
        do(one, "key", text="Control+v")
    assert [one.evaluate("box.value") for one in (env, other)] == ["minemine", "yoursyours"]
    other.close()


BAD = [
    {"kind": "click", "point": [1.01, 0.5]},
    {"kind": "click", "point": [0.5, -0.2]},
    {"kind": "click", "point": [float("nan"), 0.5]},
    {"kind": "click"},
    {"kind": "drag", "point": [0.1, 0.1]},
    {"kind": "drag", "point": [0.1, 0.1], "to": [2, 0]},
    {"kind": "scroll", "point": [0.1, 0.1]},
    {"kind": "type", "text": ""},
    {"kind": "type", "text": "x" * 201},
    *(
        {"kind": "key", "text": key}
        for key in ("", "F5", "Alt+ArrowLeft", "Control+w", "Control+Control+a", "enter", "+")
    ),
    *({"kind": kind} for kind in ("long_press", "open_app", "back", "home", "answer", "done", "infeasible")),
]


def test_what_cannot_be_done_is_told_and_changes_nothing(browser: Browser, folder: Path) -> None:
    env = WebEnv(folder, Json(), max_steps=len(BAD) + 3, browser=browser)
    first = start(env, "log.html")
    replies = [*map(json.dumps, BAD), "click it", "x" * 100_000, "[" * 9000]
    steps = [env.step(reply) for reply in replies]
    assert all(step.info["action_error"] and "action" not in step.info for step in steps)
    assert all(seen(step) == seen(first) and told(step) == [step.info["action_error"]] for step in steps)
    assert [step.terminated for step in steps] == [False] * (len(replies) - 1) + [True]
    assert not any(step.truncated or step.reward for step in steps)
    assert env.evaluate("[log, Date.now() - Date.UTC(2020, 0, 1, 12)]") == [[], 1000]
    assert "outside the screen" in steps[0].info["action_error"]
    assert "100000 characters is no action" in steps[-2].info["action_error"]
    assert max(len(step.info["action_error"]) for step in steps) < 500
    with pytest.raises(RuntimeError, match="the episode is over"):
        do(env, "wait")
    env.close()


def test_the_budget_of_steps(browser: Browser, folder: Path) -> None:
    env = WebEnv(folder, Json(), max_steps=2, browser=browser)
    start(env, "log.html")
    first, second = do(env, "wait"), do(env, "wait")
    assert [(step.terminated, step.truncated) for step in (first, second)] == [(False, False), (True, False)]
    assert (second.reward, "out_of_steps" in first.info, "out_of_steps" in second.info) == (0, False, True)
    assert seen(second), "a report shows what was reached"
    env.close()


# --- what pages are kept from ---------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[list[int]]:
    """A server's port, followed by an entry for each connection that it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard = [server.getsockname()[1]]

        def listen() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return
                heard.append(1)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_a_page_reaches_its_own_files_only(env: WebEnv, folder: Path, port: list[int]) -> None:
    for place in (folder, folder.parent):
        Pillow.new("RGB", (3, 3)).save(place / "dot.png")
    (folder.parent / "secret.html").write_text("<body>secret</body>")
    page = write_page(
        folder,
        "out.html",
        """const found = {}, note = (name, reached) => () => { found[name] = reached; };
        const tried = name => ({onload: note(name, true), onerror: note(name, false)});
        const add = (tag, name, fields) =>
          document.body.append(Object.assign(document.createElement(tag), tried(name), fields));
        begin = () => {
          const host = '127.0.0.1:PORT';
          add('img', 'inside', {src: 'dot.png'});
          add('img', 'outside', {src: '../dot.png'});
          add('img', 'dots', {src: '%2e%2e/dot.png'});
          add('img', 'slash', {src: 'x/..%2f../dot.png'});
          add('img', 'web', {src: `http://${host}/dot.png`});
          add('script', 'script', {src: `http://localhost:PORT/x.js`});
          add('iframe', 'frame', {src: '../secret.html'});
          add('iframe', 'web frame', {src: `http://${host}/`});
          new WebSocket(`ws://${host}/`).onopen = note('socket', true);
          fetch(`http://${host}/`, {mode: 'no-cors'}).then(note('fetch', true), note('fetch', false));
          navigator.sendBeacon(`http://${host}/`, 'x');
          new EventSource(`http://${host}/`);
          open(`http://${host}/`);
          open('');
          add('form', 'form', {action: `http://${host}/`, method: 'post'});
          document.querySelector('form').submit();
          location = `http://${host}/`;
        };""".replace("PORT", str(port[0])),
        '<a href="../secret.html" style="position: absolute; top: 50px">away</a>'
        '<a href="log.html" target="_blank" style="position: absolute; top: 80px">window</a>'
        '<a href="?again" style="position: absolute; top: 110px">again</a>',
    )
    start(env, page)
    env.evaluate(
        "async () => { while (Object.keys(found).length < 7) await fetch('dot.png').catch(() => 0); window.mark = 1; }"
    )
    for height in (55, 85, 115):
        step = do(env, "click", point=(10, height))
        assert "lost" not in step.info
    env.evaluate("location.reload()")
    assert env.evaluate("mark") == 1, "the page was left"
    found = env.evaluate("found")
    assert found.pop("inside") is True
    assert not any(reached for name, reached in found.items() if "frame" not in name), found
    assert env.recording.page is not None
    tab = env.recording.page.tab
    assert [other.url for other in tab.context.pages] == [tab.url]
    for frame in tab.frames[1:]:
        assert env.browser.run(frame.evaluate("document.body ? document.body.innerText : ''")) == ""
    assert len(port) == 1, "somebody was reached"
    socket.create_connection(("127.0.0.1", port[0])).close()
    while len(port) == 1:  # the server hears what comes, and nothing came before
        pass
    assert len(port) == 2


def test_dialogs_are_dismissed(env: WebEnv, folder: Path) -> None:
    page = write_page(
        folder,
        "dialogs.html",
        """var said = [];
        addEventListener('beforeunload', event => event.preventDefault());
        addEventListener('click', () => { alert('!'); said.push(confirm('?'), prompt('name', 'x')); });""",
    )
    start(env, page)
    assert "lost" not in do(env, "click", point=(80, 100)).info
    assert env.evaluate("said") == [False, None]
    assert start(env, page).info == {"replays": 0}, "leaving the page is not asked about"


def test_a_page_that_never_becomes_ready_is_lost(browser: Browser, folder: Path) -> None:
    page = write_page(folder, "slow.html", "WOB_TASK_READY = false;")
    env = WebEnv(folder, Json(), timeout=1, browser=browser)
    lost = start(env, page)
    assert (lost.observation, lost.reward, lost.terminated, lost.truncated) == ([], 0, False, True)
    assert "getting slow.html ready took more than 1 s" in lost.info["lost"]
    env.close()


def test_a_page_that_takes_its_time_is_waited_for(env: WebEnv, folder: Path) -> None:
    soon = "WOB_TASK_READY = false; const image = new Image(); image.onerror = () => { WOB_TASK_READY = true; };"
    page = write_page(folder, "soon.html", "begin = () => { image.src = 'none.png'; }; " + soon)
    assert told(start(env, page, 3)) == ["Problem 3."]
