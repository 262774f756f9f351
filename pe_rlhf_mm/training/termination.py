"""A request to end (SIGTERM, as a machine that is preempted gets it): answered at once, but never within a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[None]:
    """Keeps a request to end back until what is done within is done.

    What answers it raises, and a step that is left in its middle has given its weights away. Nothing is held where
    nothing answers, as in a program of one's own, or outside the main thread, which alone is told.
    """
    answer = signal.getsignal(signal.SIGTERM)
    if not callable(answer) or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = []
    signal.signal(signal.SIGTERM, lambda *request: asked.append(request))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, answer)
    if asked:
        answer(*asked[0])
