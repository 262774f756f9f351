"""One Chromium for all pages of a process: started at first need, again when it dies or hangs, and ended at exit."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import os
import signal
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pe_rlhf_mm.envs.web.chromium import FLAGS, find_browser
from pe_rlhf_mm.errors import UserError

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import Playwright

T = TypeVar("T")

START, END = 60.0, 5.0
"""Seconds in which a browser must have started, and in which it and its pages must have ended."""


@dataclass
class Counters:
    """What went wrong since the process began: browsers started again, episodes played again, episodes lost, and
    calls that took too long."""

    restarts: int = 0
    replays: int = 0
    lost: int = 0
    timeouts: int = 0


class Browser:
    """A Chromium and the thread whose event loop speaks to it; any thread may hand it work by `run`."""

    def __init__(self, executable: str | None = None):
        if importlib.util.find_spec("playwright") is None:
            raise UserError("web pages need Playwright; run `pip install 'pe-rlhf-mm[web]'`")
        self.executable = find_browser(executable)
        self.counters = Counters()
        self.pid: int | None = None
        """The process of the browser, which leads the process group of all its children."""
        self._loop = asyncio.new_event_loop()
        self._lock = asyncio.Lock()
        self._driver: Playwright | None = None
        self._chromium: Chromium | None = None
        self._begun = False
        threading.Thread(target=self._loop.run_forever, name="browser", daemon=True).start()
        atexit.register(self.close)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives, run on the browser's thread; the thread that asks waits for it."""
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result()
        finally:
            asked.cancel()  # where the wait was interrupted; otherwise it is done

    def close(self) -> None:
        """Ends the browser and all its processes; the next page starts another one."""
        self.run(self._closed())

    async def _closed(self) -> None:
        async with self._lock:
            await self._end()
            self._begun = False

    async def started(self) -> Chromium:
        """The browser, running. Raises UserError if it cannot be started at all."""
        async with self._lock:
            if self._chromium is None or not self._chromium.is_connected():
                await self._end()
                self.counters.restarts += self._begun
                try:
                    async with asyncio.timeout(START):
                        await self._start()
                except Exception as error:
                    await self._end()
                    if self._begun:
                        raise
                    raise UserError(f"{self.executable} does not start: {error or type(error).__name__}") from error
                self._begun = True
            assert self._chromium is not None
            return self._chromium

    async def examine(self, timeout: float) -> None:
        """Ends a browser that cannot show a blank page in so many seconds; the next page then starts another one."""
        async with self._lock:
            if self._chromium is not None:
                try:
                    async with asyncio.timeout(timeout):
                        page = await self._chromium.new_page()
                        await page.screenshot()
                        await page.close()
                except Exception:
                    await self._end()

    async def _start(self) -> None:
        from playwright.async_api import async_playwright

        self._driver = await async_playwright().start()
        self._chromium = await self._driver.chromium.launch(
            executable_path=self.executable,
            args=list(FLAGS),
            handle_sigint=False,  # Ctrl-C is for the program, which may still have episodes to end
            handle_sigterm=False,
            handle_sighup=False,
        )
        session = await self._chromium.new_browser_cdp_session()
        processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
        pid = self.pid = next(int(process["id"]) for process in processes if process["type"] == "browser")
        self._chromium.on("disconnected", lambda chromium: _kill(pid))

    async def _end(self) -> None:
        """Ends the browser's processes and the driver, whatever state they are in."""
        driver, chromium, pid = self._driver, self._chromium, self.pid
        self._driver = self._chromium = self.pid = None
        if pid is not None and chromium is not None and chromium.is_connected():
            _kill(pid)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(END):
                if driver is not None:
                    await driver.stop()


def _kill(pid: int) -> None:
    """Ends all processes of a browser, also those that are stopped."""
    with contextlib.suppress(OSError):  # it has ended already
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
