"""Browsers that die or hang in the middle of episodes: the episodes go on, or are lost and say so; nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from web_pages import Json, do, seen, start, write_page

from pe_rlhf_mm.envs.web import faults
from pe_rlhf_mm.envs.web.browser import Browser, Counters
from pe_rlhf_mm.envs.web.environment import WebEnv
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.types import Step

pytestmark = pytest.mark.browser

PAGE = """
  let presses = 0;
  begin = () => { presses = 0; show(seed); };
  addEventListener("click", event => {
    presses += event.clientX;
    show(seed + " " + presses);
    if (presses > 99) core.end(presses / 200);
  });
"""
HANGING = (faults.hang_page, faults.stop_browser)
ENDING = (faults.kill_browser, faults.stop_browser)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    write_page(folder, "presses.html", PAGE)
    return folder


class Watched(Browser):
    """A browser of which every process group is known that it ever had, so that nothing is left unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: set[int] = set()
        self.others = {process.pid for process in drivers()}

    async def _start(self) -> None:
        await super()._start()
        assert self.pid is not None
        self.groups.add(self.pid)


@pytest.fixture(scope="module")
def browser() -> Iterator[Watched]:
    browser = Watched()
    yield browser
    browser.close()


@pytest.fixture
def env(browser: Watched, folder: Path) -> Iterator[WebEnv]:
    browser.counters = Counters()
    env = WebEnv(folder, Json(), in_place=["presses.html"], timeout=30, browser=browser)
    yield env
    env.close()


@pytest.fixture
def hasty(browser: Watched, folder: Path) -> Iterator[WebEnv]:
    """An environment that soon notices what hangs, and on a busy machine may take for that what is only slow."""
    env = WebEnv(folder, Json(), timeout=2, browser=browser)
    yield env
    env.close()


def episode(env: WebEnv, before: Callable[[int], None] = lambda turn: None) -> list[Step]:
    """Three presses, the last of which ends it; `before` each of them something may happen."""
    steps = [start(env, "presses.html", 5)]
    for turn, x in enumerate((30, 40, 50)):
        before(turn)
        steps.append(do(env, "click", point=(x, 100)))
    return steps


def outcome(steps: list[Step]) -> list[tuple[bytes, float, bool]]:
    return [(seen(step) if step.observation else b"", step.reward, step.terminated) for step in steps]


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.__name__)
def test_an_episode_survives(env: WebEnv, hasty: WebEnv, fault: Callable[[WebEnv], None]) -> None:
    calm, meets = episode(env), hasty if fault in HANGING else env
    hurt = episode(meets, lambda turn: fault(meets) if turn == 2 else None)
    assert outcome(hurt) == outcome(calm)
    assert calm[-1].reward == 0.6
    assert hurt[-1].info["replays"] >= 1
    if fault in HANGING:
        assert env.browser.counters.timeouts >= 1
    else:
        assert [step.info["replays"] for step in hurt] == [0, 0, 0, 1]
        assert env.browser.counters == Counters(restarts=fault in ENDING, replays=1)


def test_a_fault_between_episodes_and_at_a_reset(env: WebEnv) -> None:
    calm = episode(env)
    faults.crash_page(env)
    again = episode(env, lambda turn: faults.crash_page(env) if turn == 0 else None)
    assert outcome(again) == outcome(calm)
    assert [step.info["replays"] for step in again] == [1, 2, 2, 2]


def test_one_environment_starts_the_browser_again_and_all_go_on(browser: Watched, env: WebEnv, folder: Path) -> None:
    others = [WebEnv(folder, Json(), timeout=30, browser=browser) for _ in range(2)]
    calm, together = outcome(episode(env)), threading.Barrier(3)

    def play(which: WebEnv) -> list[tuple[bytes, float, bool]]:
        def before(turn: int) -> None:
            together.wait()
            if turn == 1 and which is env:
                faults.kill_browser(env)

        return outcome(episode(which, before))

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(play, [env, *others])) == [calm] * 3
    assert browser.counters.restarts == 1
    assert browser.counters.replays >= 3
    for other in others:
        other.close()


def test_an_episode_that_cannot_be_played_again_is_lost(env: WebEnv, folder: Path) -> None:
    """A page that does not keep to its seed; were it played on, the actions would belong to another screen."""
    page = write_page(folder, "fickle.html", "begin = () => show(crypto.getRandomValues(new Uint32Array(1))[0]);")
    start(env, page)
    do(env, "wait")
    faults.crash_page(env)
    lost = do(env, "wait")
    assert lost.info == {"lost": "played again, it does not look as it did", "replays": 1}
    assert (lost.observation, lost.reward, lost.terminated, lost.truncated) == ([], 0, False, True)
    with pytest.raises(RuntimeError, match="the episode is over"):
        do(env, "wait")
    assert outcome(episode(env))[-1] == (b"", 0.6, True)
    assert env.browser.counters == Counters(replays=1, lost=1)


def test_a_page_that_always_hangs_is_given_up(env: WebEnv, hasty: WebEnv, folder: Path) -> None:
    page = write_page(folder, "endless.html", "addEventListener('click', () => { while (true); });")
    start(hasty, page)
    lost = do(hasty, "click", point=(80, 100))
    assert lost.truncated
    assert re.fullmatch(r"3 pages failed, the last one with: .* took more than 2 s", lost.info["lost"])
    assert lost.info["replays"] == 3
    assert env.browser.counters.lost == 1
    assert env.browser.counters.timeouts >= 3


def test_nothing_is_left_after_all_these_faults(browser: Watched, env: WebEnv) -> None:
    """PE_RLHF_FAULTS says how many more there are to be."""
    calm = outcome(episode(env))
    for number in range(int(os.environ.get("PE_RLHF_FAULTS", "0"))):
        turn, fault = number % 3, faults.FAULTS[number % 3]  # none that hangs, which takes a timeout each
        hurt = episode(env, lambda now, turn=turn, fault=fault: fault(env) if now == turn else None)
        assert outcome(hurt) == calm, f"fault {number}, {fault.__name__}"
    env.close()
    there = [process for process in faults.processes() if process.group in browser.groups]
    assert {process.group for process in there} == {browser.pid}
    pages = [process for process in there if "--type=renderer" in process.command]
    assert len(pages) <= 3, "pages that hung or crashed are still there"
    browser.close()
    assert living(lambda process: process.group in browser.groups) == []
    assert living(lambda process: process in drivers() and process.pid not in browser.others) == []


def drivers() -> list[faults.Process]:
    """Playwright's processes below this one; other tests in it may have theirs."""
    return [p for p in faults.processes() if p.parent == os.getpid() and "run-driver" in p.command]


def living(chosen: Callable[[faults.Process], bool]) -> list[faults.Process]:
    """Processes that are chosen, once those that are on their way out have had time to go."""
    left: list[faults.Process] = []
    for _ in range(100):
        left = [process for process in faults.processes() if chosen(process)]
        if not left:
            break
        time.sleep(0.1)
    return left


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from web_pages import Json, start
from pe_rlhf_mm.envs.web.environment import WebEnv

env = WebEnv(Path({folder!r}), Json())
start(env, "presses.html", 1)
print(env.browser.pid, flush=True)
input()
"""


@pytest.mark.parametrize("end", ["interrupt", "kill"])
def test_nothing_is_left_of_a_program_that_ends(folder: Path, end: str) -> None:
    """Even of a browser that hangs, if the program has the time to see to that."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        group = int(running.stdout.readline())
        assert [process for process in faults.processes() if process.group == group]
        if end == "interrupt":
            os.kill(group, signal.SIGSTOP)
        running.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGKILL)
        running.wait(60)
        assert living(lambda process: process.group == group) == []
        complaints = running.communicate(timeout=60)[1].strip().splitlines()
    assert complaints[-1:] == (["KeyboardInterrupt"] if end == "interrupt" else [])


def test_a_browser_that_does_not_start(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no display >&2; exit 1\n")
    broken.chmod(0o755)
    browser = Browser(str(broken))
    env = WebEnv(folder, Json(), browser=browser)
    with pytest.raises(UserError, match=r"chromium does not start: .*"):
        start(env, "presses.html")
    browser.close()
