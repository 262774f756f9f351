"""An episode that outlives its page: what was done is recorded, and done again on a new page after a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from pe_rlhf_mm.envs.actions import UIAction
from pe_rlhf_mm.envs.web.browser import Browser
from pe_rlhf_mm.envs.web.page import Look, Page, Problem

T = TypeVar("T")

ATTEMPTS = 3
"""Pages that are tried for one call, the first included."""


class Lost(Exception):
    """An episode that could not be brought back; the message says what happened last."""


class Recording:
    """The episode of one environment. All its coroutines run on the browser's thread.

    An action is never chosen again: the recorded ones are carried out again, so that what a policy said, and how likely
    that was, still holds. The new page must look exactly as the old one did, or the episode is lost.
    """

    def __init__(self, browser: Browser, folder: Path, *, scale: float, timeout: float):
        self.replays = 0
        """How often the running episode was played again."""
        self._browser, self._folder, self._scale, self._timeout = browser, folder, scale, timeout
        self.page: Page | None = None
        """Where it takes place, unless that was given up."""
        self._problem: Problem | None = None
        self._actions: list[UIAction] = []
        self._seen: bytes | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def begin(self, problem: Problem, *, in_place: bool) -> tuple[str, Look]:
        """Starts an episode and returns its goal and how it looks."""
        self.replays, self._problem, self._actions, self._seen = 0, None, [], None

        async def start(page: Page) -> tuple[str, Look]:
            goal = await page.begin(problem, in_place=in_place)
            return goal, Look(await page.picture())

        goal, look = await self._surviving(start)
        self._problem, self._seen = problem, look.picture
        return goal, look

    async def act(self, action: UIAction) -> Look:
        """Carries out an action and returns how the page looks."""
        look = await self._surviving(lambda page: page.act(action))
        self._actions.append(action)
        self._seen = look.picture
        return look

    async def evaluate(self, script: str, argument: Any) -> Any:
        """The value of a JavaScript expression or function in the page."""
        return await self._surviving(lambda page: page.evaluate(script, argument))

    async def close(self) -> None:
        """Closes the page."""
        self._drop()
        await asyncio.gather(*self._closing)

    async def _surviving(self, work: Callable[[Page], Awaitable[T]]) -> T:
        """What `work` gives, on this page or on the one that takes its place."""
        from playwright.async_api import Error

        for _ in range(ATTEMPTS):
            try:
                if self.page is None:
                    self.page = await self._replayed()
                return await work(self.page)
            except (Error, TimeoutError) as error:
                self._drop()
                self.replays += 1
                self._browser.counters.replays += 1
                problem = str(error).strip().partition("\n")[0]
                self._browser.counters.timeouts += isinstance(error, TimeoutError)
                await self._browser.examine(self._timeout)
            except BaseException:  # the program is interrupted, or it is lost: nobody knows what the page is like
                self._drop()
                raise
        raise self._lost(f"{ATTEMPTS} pages failed, the last one with: {problem}")

    async def _replayed(self) -> Page:
        """A new page on which all was done that is recorded."""
        page = await Page.open(self._browser, self._folder, scale=self._scale, timeout=self._timeout)
        self.page = page
        if self._problem is not None:
            await page.begin(self._problem, in_place=False)
            done = [(await page.act(action)).done for action in self._actions]
            if any(done) or await page.picture() != self._seen:
                raise self._lost("played again, it does not look as it did")
        return page

    def _lost(self, why: str) -> Lost:
        self._browser.counters.lost += 1
        return Lost(why)

    def _drop(self) -> None:
        """Gives up the page; it is closed while the episode goes on."""
        page, self.page = self.page, None
        if page is not None:
            task = asyncio.get_running_loop().create_task(page.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
