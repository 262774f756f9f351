"""Web pages: steps a second of four pages, what the environment costs over bare pages, and episodes that meet faults.

    python benchmarks/web.py [--rounds 5] [--turns 300] [--pages 4]
    python benchmarks/web.py --faults [--episodes 1000] [--every 20]

A random policy clicks on pages of miniwob, and an ended episode is followed by the next; resets are timed and not
counted. `bare` is what the same work takes without an environment: Playwright's pages side by side on one event loop,
with the same clicks, the same question after each and the same screenshot, but no time limits, no record of the
episode, no decoding of the picture and no thread but one. `environment` is `WebEnv` on a thread for each page, `pool`
the same in an `EnvPool`. In waves each page goes on when all have answered, as it must where a policy answers all of
them at once: that costs what it does without a pool too. Rounds alternate between all of these.

`--faults` plays episodes twice, once in peace and once with a fault every so many of them (a browser killed, a page
crashed, renderers killed, a page that hangs, a browser stopped), and compares all rewards and pictures. At the end it
looks for processes that were left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import importlib.metadata
import os
import platform
import random
import statistics
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pe_rlhf_mm.envs.actions import codec
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.envs.web import faults, scripts
from pe_rlhf_mm.envs.web.browser import Browser
from pe_rlhf_mm.envs.web.chromium import miniwob_folder
from pe_rlhf_mm.envs.web.environment import WebEnv
from pe_rlhf_mm.envs.web.gestures import AREA, PARKED
from pe_rlhf_mm.envs.web.page import Page, Problem
from pe_rlhf_mm.types import Image, Sample, Step

TASKS = tuple(f"miniwob/{name}.html" for name in ("click-test-2", "click-button", "click-color", "enter-text"))
TARGETS = "target: 45 steps a second on two cores, and a pool that costs less than 10 % over bare pages"
TURNS = 8
"""Clicks after which an episode is left."""
PATIENCE = 4.0
"""Seconds that a call may take where pages are made to hang."""
OVER = Step([], terminated=True)
PACKAGES = ("playwright", "miniwob", "pillow")


def sample(worker: int, number: int) -> Sample:
    page = TASKS[worker % len(TASKS)]
    return Sample(f"{page}-{number}", [], metadata={"page": page, "seed": number})


def click(rng: random.Random) -> tuple[int, int]:
    """A point below the instruction, in whole percent."""
    return rng.randint(1, 99), rng.randint(26, 99)


def environment(browser: Browser, timeout: float = 10.0) -> WebEnv:
    spoken = codec("percent")
    return WebEnv(miniwob_folder(), spoken, in_place=TASKS, max_steps=TURNS, timeout=timeout, browser=browser)


def random_reply(rng: random.Random) -> str:
    return "click {} {}".format(*click(rng))


def over(step: Step) -> bool:
    return step.terminated or step.truncated


# --- throughput: each of these makes so many turns on each page, resets or steps, and returns steps a second ----------


async def bare_page(page: Page, worker: int, turns: int, barrier: asyncio.Barrier) -> int:
    """The work of an environment and no more; returns how many of the turns were steps."""
    rng, number, left, made = random.Random(worker), 0, 0, 0
    for _ in range(turns):
        if not left:
            number, left = number + 1, TURNS
            await page.tab.mouse.move(*PARKED)
            await page.tab.evaluate(scripts.BEGIN, [number, "train", False])
            await page.tab.evaluate(scripts.READY)
            await page.tab.evaluate(scripts.STATE)
            await page.tab.evaluate(scripts.GOAL)
            await screenshot(page)
        else:
            x, y = click(rng)
            await page.tab.mouse.click(x / 100 * AREA[0], y / 100 * AREA[1])
            done = (await page.tab.evaluate(scripts.STATE))[0]
            left, made = 0 if done else left - 1, made + 1
            if not done:
                await screenshot(page)
        await barrier.wait()
    return made


async def screenshot(page: Page) -> bytes:
    clip = {"x": 0, "y": 0, "width": AREA[0], "height": AREA[1], "scale": 1}
    asked = {"format": "png", "clip": clip, "optimizeForSpeed": True}
    return base64.b64decode((await page.session.send("Page.captureScreenshot", asked))["data"])


def bare(browser: Browser, pages: int, turns: int, *, waves: bool = False) -> float:
    """Pages side by side on the browser's event loop."""

    async def all_pages() -> float:
        opened = [await Page.open(browser, miniwob_folder(), scale=1, timeout=60) for _ in range(pages)]
        for worker, page in enumerate(opened):
            await page.begin(Problem(miniwob_folder() / TASKS[worker % len(TASKS)], 0, "train"), in_place=False)
        together = asyncio.Barrier(pages)
        barriers = [together if waves else asyncio.Barrier(1) for _ in opened]
        start = time.perf_counter()
        made = await asyncio.gather(*(bare_page(opened[k], k, turns, barriers[k]) for k in range(pages)))
        rate = sum(made) / (time.perf_counter() - start)
        await asyncio.gather(*(page.close() for page in opened))
        return rate

    return browser.run(all_pages())


def bare_waves(browser: Browser, pages: int, turns: int) -> float:
    """Pages each of which goes on when all have answered."""
    return bare(browser, pages, turns, waves=True)


def environments(browser: Browser, pages: int, turns: int) -> float:
    """Environments on threads that do not wait for one another."""
    played = [environment(browser) for _ in range(pages)]

    def play(worker: int) -> int:
        env, rng, made, last = played[worker], random.Random(worker), 0, OVER
        for number in range(1, turns + 1):
            made += not over(last)
            last = env.reset(sample(worker, number), seed=0) if over(last) else env.step(random_reply(rng))
        return made

    with ThreadPoolExecutor(pages) as threads:
        list(threads.map(lambda worker: played[worker].reset(sample(worker, 0), seed=0), range(pages)))
        start = time.perf_counter()
        rate = sum(threads.map(play, range(pages))) / (time.perf_counter() - start)
    for env in played:
        env.close()
    return rate


def pool(browser: Browser, pages: int, turns: int) -> float:
    """Environments in a pool, each asked again as soon as it has answered."""
    with EnvPool(lambda: environment(browser), pages) as slots:
        for worker in range(pages):
            slots.reset(worker, sample(worker, 0), 0).result()

        def play(worker: int) -> int:
            rng, made, last = random.Random(worker), 0, OVER
            for number in range(1, turns + 1):
                made += not over(last)
                last = asked(slots, worker, number, rng, last).result()
            return made

        with ThreadPoolExecutor(pages) as threads:
            start = time.perf_counter()
            return sum(threads.map(play, range(pages))) / (time.perf_counter() - start)


def pool_waves(browser: Browser, pages: int, turns: int) -> float:
    """Environments in a pool, each of which goes on when all have answered."""
    with EnvPool(lambda: environment(browser), pages) as slots:
        rngs, last, made = [random.Random(worker) for worker in range(pages)], [OVER] * pages, 0
        for worker in range(pages):
            slots.reset(worker, sample(worker, 0), 0).result()
        start = time.perf_counter()
        for number in range(1, turns + 1):
            made += sum(not over(step) for step in last)
            wave = [asked(slots, worker, number, rngs[worker], last[worker]) for worker in range(pages)]
            last = [future.result() for future in wave]
        return made / (time.perf_counter() - start)


def asked(slots: EnvPool, worker: int, number: int, rng: random.Random, last: Step) -> Future[Step]:
    if over(last):
        return slots.reset(worker, sample(worker, number), 0)
    return slots.step(worker, random_reply(rng))


COMPARED: dict[str, tuple[Callable[[Browser, int, int], float], str]] = {
    "bare": (bare, "bare"),
    "environment": (environments, "bare"),
    "pool": (pool, "bare"),
    "bare, in waves": (bare_waves, "bare"),
    "pool, in waves": (pool_waves, "bare, in waves"),
}
"""What is measured, and what it is compared with."""


def throughput(pages: int, turns: int, rounds: int) -> None:
    """Prints a table."""
    browser, before = Browser(), os.getloadavg()[0]
    found: dict[str, list[float]] = {name: [] for name in COMPARED}
    for number in range(rounds):
        for name, (measure, _) in COMPARED.items():
            found[name].append(measure(browser, pages, turns))
            print(f"round {number + 1}, {name}: {found[name][-1]:.1f} steps a second", file=sys.stderr)
    browser.close()
    print(f"| {pages} pages | steps a second, median | slowest .. fastest | costs, median | least .. most | over |")
    print("|---|---|---|---|---|---|")
    for name, (_, base) in COMPARED.items():
        rates = found[name]
        costs = [100 * (1 - rate / free) for rate, free in zip(rates, found[base], strict=True)]
        print(
            f"| {name} | {statistics.median(rates):.1f} | {min(rates):.1f} .. {max(rates):.1f} "
            f"| {statistics.median(costs):.0f} % | {min(costs):.0f} .. {max(costs):.0f} % | {base} |"
        )
    print(f"\n{TARGETS}; {turns} turns a page, {rounds} rounds; {machine(before)}")


# --- faults -----------------------------------------------------------------------------------------------------------


class Episode(NamedTuple):
    """What came of an episode: the reward of each step and a checksum of each picture."""

    rewards: list[float]
    pictures: list[int]
    lost: str


Plan = dict[int, tuple[int, Callable[[WebEnv], None]]]
"""Of some episodes, before which of their steps which fault is made."""


def play_all(browser: Browser, episodes: int, pages: int, plan: Plan, groups: set[int]) -> dict[int, Episode]:
    """Plays episodes in threads; `groups` gets the process groups of the browsers that were seen."""
    numbers, lock, played = iter(range(episodes)), threading.Lock(), dict[int, Episode]()

    def play(_: int) -> None:
        env = environment(browser, PATIENCE)
        while (number := take(numbers, lock)) is not None:
            played[number] = play_one(env, number, *plan.get(number, (-1, faults.crash_page)))
            groups.add(browser.pid or 0)
        env.close()

    with ThreadPoolExecutor(pages) as threads:
        list(threads.map(play, range(pages)))
    return played


def play_one(env: WebEnv, number: int, turn: int, fault: Callable[[WebEnv], None]) -> Episode:
    """Plays an episode and makes a fault before one of its steps."""
    rng, steps = random.Random(number), [env.reset(sample(number, number), seed=0)]
    while not over(steps[-1]):
        if len(steps) == turn:
            while env.browser.pid is None:  # after another fault
                time.sleep(0.05)
            with contextlib.suppress(ProcessLookupError):
                fault(env)
        steps.append(env.step(random_reply(rng)))
    pictures = [zlib.crc32(part.source.tobytes()) for step in steps for part in pictures_of(step)]
    return Episode([step.reward for step in steps], pictures, steps[-1].info.get("lost", ""))


def pictures_of(step: Step) -> Iterator[Image]:
    return (part for message in step.observation for part in message.parts if isinstance(part, Image))


def take(numbers: Iterator[int], lock: threading.Lock) -> int | None:
    with lock:
        return next(numbers, None)


def with_faults(episodes: int, every: int, pages: int) -> None:
    """Prints what differs between a run in peace and one with faults."""
    browser, before, groups = Browser(), os.getloadavg()[0], set[int]()
    start = time.perf_counter()
    calm = play_all(browser, episodes, pages, {}, groups)
    middle = time.perf_counter()
    plan: Plan = {
        number: (len(calm[number].rewards) // 2, faults.FAULTS[number // every % len(faults.FAULTS)])
        for number in range(every - 1, episodes, every)
    }
    hurt = play_all(browser, episodes, pages, plan, groups)
    end = time.perf_counter()
    browser.close()
    time.sleep(1)
    left = [process for process in faults.processes() if process.group in groups or process.parent == os.getpid()]
    differ = [number for number in range(episodes) if calm[number] != hurt[number]]
    earned = [sum(sum(each.rewards) for each in run.values()) for run in (calm, hurt)]
    lost = sum(bool(each.lost) for each in hurt.values())
    print(
        f"{episodes} episodes: {earned[0]:g} of reward in {middle - start:.0f} s in peace, {earned[1]:g} in "
        f"{end - middle:.0f} s with {len(plan)} faults; {len(differ)} episodes with another reward or picture, "
        f"{lost} lost; {browser.counters}; {len(left)} processes left; {machine(before)}"
    )
    for number in differ[:10]:
        print(f"episode {number}, {plan.get(number, 'no fault')}: {calm[number]} in peace, {hurt[number]} with faults")


def machine(load: float) -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    return (
        f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()}; load {load:.1f} "
        f"before and {os.getloadavg()[0]:.1f} after; Python {platform.python_version()}, {versions}"
    )


def main() -> None:
    """Prints one table, or one paragraph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=300, help="resets and steps of each page in each round")
    parser.add_argument("--faults", action="store_true", help="compare episodes with and without faults")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--every", type=int, default=20)
    options = parser.parse_args()
    if options.faults:
        with_faults(options.episodes, options.every, options.pages)
    else:
        throughput(options.pages, options.turns, options.rounds)


if __name__ == "__main__":
    main()
