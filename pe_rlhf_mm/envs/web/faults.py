"""Faults made on purpose, to see that episodes survive them, and what is left of a browser afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.envs.web.environment import WebEnv
from pe_rlhf_mm.envs.web.page import Page


class Process(NamedTuple):
    """A line of the process table."""

    pid: int
    parent: int
    group: int
    command: str


def processes() -> list[Process]:
    """The living processes of this machine, as /proc shows them; those that only wait to be collected are dead."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state not in "ZX":
                found.append(Process(int(folder.name), int(parent), int(group), command))
    return found


def kill_browser(env: WebEnv) -> None:
    """The browser of an environment dies, and with it all of its pages."""
    os.kill(_browser(env), signal.SIGKILL)


def stop_browser(env: WebEnv) -> None:
    """The browser hangs: it is there, and does nothing any more."""
    os.kill(_browser(env), signal.SIGSTOP)


def kill_renderers(env: WebEnv) -> None:
    """The processes that draw pages die; the browser lives."""
    for process in processes():
        if process.group == _browser(env) and "--type=renderer" in process.command:
            os.kill(process.pid, signal.SIGKILL)


def crash_page(env: WebEnv) -> None:
    """The page of an environment crashes."""
    env.browser.run(_left(env, "Page.crash", {}))


def hang_page(env: WebEnv) -> None:
    """The page of an environment runs a loop without an end."""
    env.browser.run(_left(env, "Runtime.evaluate", {"expression": "while (true);"}))


FAULTS: tuple[Callable[[WebEnv], None], ...] = (kill_browser, crash_page, kill_renderers, hang_page, stop_browser)


def _browser(env: WebEnv) -> int:
    assert env.browser.pid is not None, "the browser does not run"
    return env.browser.pid


async def _left(env: WebEnv, method: str, parameters: dict[str, str]) -> None:
    """Asks the browser for what it will never answer."""
    page = env.recording.page
    assert isinstance(page, Page), "the environment has no page; reset it first"
    asked = asyncio.ensure_future(page.session.send(method, parameters))
    asked.add_done_callback(lambda future: future.cancelled() or future.exception())
    await asyncio.sleep(0.05)
