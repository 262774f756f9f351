"""One page of the browser, in a context of its own: nothing is shared with other pages and nothing gets out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from pe_rlhf_mm.envs.actions import UIAction
from pe_rlhf_mm.envs.web import scripts
from pe_rlhf_mm.envs.web.browser import END, Browser
from pe_rlhf_mm.envs.web.gestures import AREA, PARKED, perform

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, CDPSession, Route
    from playwright.async_api import Page as Tab

WINDOW = (500, 320)
"""MiniWoB's own: dialogs are placed relative to it."""


class Problem(NamedTuple):
    """The file of a page, and which of its problems is posed."""

    page: Path
    seed: int
    mode: str


class Look(NamedTuple):
    """What a page is like after an action: `picture` is a PNG, empty when the episode is done."""

    picture: bytes
    done: bool = False
    reward: float = 0.0


class Page:
    """A tab that shows the pages below a folder. Every call ends within `timeout` seconds or raises TimeoutError."""

    def __init__(self, tab: Tab, session: CDPSession, timeout: float):
        self.tab = tab
        self.session = session
        self._timeout = timeout
        self._wanted = ""
        """The only address that the tab may go to."""

    @classmethod
    async def open(cls, browser: Browser, folder: Path, *, scale: float, timeout: float) -> Page:
        """A new tab, blank as yet."""
        chromium = await browser.started()
        # Told to our session and not to Playwright's: a screenshot ends with the size that its own session knows.
        screen = {"width": WINDOW[0], "height": WINDOW[1], "deviceScaleFactor": scale, "mobile": False}
        async with _within(timeout, "opening a page"):
            context = await chromium.new_context(
                no_viewport=True,
                locale="en-US",
                timezone_id="UTC",
                color_scheme="light",
                service_workers="block",
                accept_downloads=False,
            )
            try:
                context.set_default_timeout(0)  # ours hold, and hold for every call
                for script in (scripts.CLOCK, scripts.CLIPBOARD, scripts.STEADY, scripts.DRAWN):
                    await context.add_init_script(script)
                tab = await context.new_page()
                session = await context.new_cdp_session(tab)
                await session.send("Emulation.setDeviceMetricsOverride", screen)
                page = cls(tab, session, timeout)
                files = re.escape(folder.as_uri())
                await context.route(re.compile(rf"^(?!(data|blob):|{files}/[^?]*\.(?!html)\w+$)"), page._answer)
            except BaseException:
                await _closed(context)
                raise
            context.on("page", _refused)  # dialogs need no such care: Playwright dismisses them if nobody listens
            return page

    async def _answer(self, route: Route) -> None:
        """Lets through what the episode needs. Whatever else asks for an address gets none, and stays where it is."""
        with contextlib.suppress(Exception):  # the page may be gone by now, and whoever waits for it hears of that
            if unquote(route.request.url) == self._wanted:
                await route.continue_()
            elif route.request.is_navigation_request():
                await route.fulfill(status=204)
            else:
                await route.abort()

    async def begin(self, problem: Problem, *, in_place: bool) -> str:
        """Starts an episode and returns its goal; `in_place`: without loading the page again, if it is there."""
        async with _within(self._timeout, f"getting {problem.page.name} ready"):
            await self.tab.mouse.move(*PARKED)
            address = problem.page.as_uri()
            load = not in_place or unquote(self.tab.url.partition("#")[0]) != unquote(address)
            if load:
                self._wanted = unquote(address)
                await self.tab.goto(address)
                self._wanted = ""
                await self._until(scripts.LOADED)
            await self.tab.evaluate(scripts.BEGIN, [problem.seed, problem.mode, load])
            await self._until(scripts.READY)
            await self.tab.evaluate(scripts.STATE)
            goal: str = await self.tab.evaluate(scripts.GOAL)
            return goal

    async def _until(self, condition: str) -> None:
        while not await self.tab.evaluate(condition):
            await asyncio.sleep(0.02)

    async def act(self, action: UIAction) -> Look:
        """Carries out an action, lets the page's time go on, and looks."""
        async with _within(self._timeout, action.kind):
            await perform(self.tab, action)
            done, reward = await self.tab.evaluate(scripts.STATE)
            return Look(b"", True, float(reward)) if done else Look(await self.picture())

    async def picture(self) -> bytes:
        """The task area as a PNG. It takes two frames of the browser, 33 ms, whatever the format or size."""
        clip = {"x": 0, "y": 0, "width": AREA[0], "height": AREA[1], "scale": 1}
        asked = {"format": "png", "clip": clip, "optimizeForSpeed": True}
        async with _within(self._timeout, "a screenshot"):
            answer = await self.session.send("Page.captureScreenshot", asked)
        return base64.b64decode(answer["data"])

    async def evaluate(self, script: str, argument: Any) -> Any:
        """The value of a JavaScript expression or function."""
        async with _within(self._timeout, "a script"):
            return await self.tab.evaluate(script, argument)

    async def close(self) -> None:
        """Closes the tab and its context, as far as the browser still can."""
        await _closed(self.tab.context)


@contextlib.asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    """The limit of a call; Playwright's own do not cover all of them."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimeoutError(f"{what} took more than {seconds:g} s") from None


async def _refused(window: Tab) -> None:
    with contextlib.suppress(Exception):
        await window.close()


async def _closed(context: BrowserContext) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(END):
            await context.close()
