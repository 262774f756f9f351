"""A request to end (SIGTERM, as a machine that is preempted gets it): answered at once, but never within a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pe_rlhf_mm import hosts
from pe_rlhf_mm.errors import Terminated

_asked: list[int] = []
"""Requests that wait for the other hosts."""


@contextmanager
def held() -> Iterator[None]:
    """Keeps a request to end back until what is done within is done.

    What answers it raises, and a step that is left in its middle has given its weights away. Nothing is held where
    nothing answers, as in a program of one's own, or outside the main thread, which alone is told. On several hosts all
    of them end here, whoever was asked.
    """
    if hosts.several():
        yield
        if hosts.anyone(bool(_asked)):
            raise Terminated
        return
    answer = signal.getsignal(signal.SIGTERM)
    if not callable(answer) or threading.current_thread() is not threading.main_thread():
        yield
        return
    if getattr(answer, "asked", False):  # before, in vain
        raise Terminated
    asked = []
    signal.signal(signal.SIGTERM, lambda *request: asked.append(request))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, answer)
    if asked:
        answer(*asked[0])


@contextmanager
def together() -> Iterator[None]:
    """On several hosts a request to end waits for the end of a step, wherever it comes: `held` answers it."""
    answer = signal.getsignal(signal.SIGTERM)
    if not hosts.several() or not callable(answer) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: _asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, answer)
        _asked.clear()
