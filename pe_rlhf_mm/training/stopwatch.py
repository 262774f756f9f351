"""How long each stage of a run took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds of each stage, those of earlier attempts at it included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: tuple[str, float] | None = None

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Times what is done within it."""
        self._running = (stage, time.monotonic())
        yield
        self.seconds, self._running = self.so_far(), None

    def so_far(self) -> dict[str, float]:
        """Seconds of each stage, the one that is under way included."""
        if self._running is None:
            return dict(self.seconds)
        stage, start = self._running
        return {**self.seconds, stage: round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 1)}
