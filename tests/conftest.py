"""One CPU device whatever the machine has, so that every number is the same everywhere."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ["JAX_PLATFORMS"] = "cpu"

# A shell makes what it starts in the background deaf to Ctrl-C, and so would be the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs are small here and run a few times, so most of the time would go into making them fast.
QUICKLY_COMPILED = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("XLA_FLAGS", QUICKLY_COMPILED)

# Many tests and the processes they start compile the same programs: each is compiled once a session.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# What is tokenized is kept for the next run: not in the folder of whoever runs the tests.
os.environ["PE_RLHF_CACHE"] = tempfile.mkdtemp(prefix="encoded-")
atexit.register(shutil.rmtree, os.environ["PE_RLHF_CACHE"], ignore_errors=True)


MOST_MAPPINGS = 16_000
"""A quarter of what Linux allows a process (vm.max_map_count); one test adds up to 8,000."""


@pytest.fixture(autouse=True)
def _environment_is_left_alone() -> Iterator[None]:
    """What a test, or a command that it runs in this process, sets or drops is as before for the next."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def _programs_are_let_go() -> Iterator[None]:
    """Every program that XLA compiles for the CPU is mapped into memory, and a process that runs out of mappings dies
    in the compiler: programs go before there are too many."""
    yield
    if "jax" in sys.modules and _mappings() > MOST_MAPPINGS:
        sys.modules["jax"].clear_caches()
        gc.collect()


def _mappings() -> int:
    """Memory mappings of this process; 0 where the system does not tell."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that shows pages to tests."""
    from playwright.sync_api import sync_playwright

    from pe_rlhf_mm.envs.web.chromium import find_browser

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_browser())
        yield chromium
        chromium.close()


LONGEST = ("test_tune", "test_docs", "test_data_families", "test_families", "test_turns", "test_quantize")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes go first: one that begins last would run alone, beside an idle worker."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    marked = [item for item in items if item.get_closest_marker("browser")]
    why = _no_browser() if marked else None
    for item in marked if why else ():
        item.add_marker(pytest.mark.skip(reason=why))


def _no_browser() -> str | None:
    """Why tests marked `browser` cannot run; None where there is a Chromium."""
    from pe_rlhf_mm.envs.web.chromium import find_browser
    from pe_rlhf_mm.errors import UserError

    try:
        find_browser()
    except UserError as error:
        return str(error)
    return None
