"""Arrays kept in memory up to a number of bytes: what was used longest ago goes first."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

SHARE = 0.25
"""Of the machine's memory, for one store."""
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container's limit is written."""


def memory_share() -> int:
    """SHARE of the machine's memory, or of the container's, in bytes."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, CGROUPS):
        written = path.read_text().strip() if path.is_file() else "max"
        limits += [int(written)] if written != "max" else []
    return int(SHARE * min(limits))


class Store:
    """Arrays by number, of at most `budget` bytes together. Several threads may use it."""

    def __init__(self, budget: int):
        self._budget, self._size = budget, 0
        self._kept: dict[int, np.ndarray] = {}  # the one used last stands last
        self._lock = threading.Lock()

    def get(self, number: int) -> np.ndarray | None:
        """An array, if it is still there."""
        with self._lock:
            array = self._kept.pop(number, None)
            if array is not None:
                self._kept[number] = array
            return array

    def put(self, number: int, array: np.ndarray) -> None:
        """Keeps an array, and forgets others until all fit; one that is too large by itself is not kept."""
        with self._lock:
            self._remove(number)
            if array.nbytes > self._budget:
                return
            self._kept[number] = array
            self._size += array.nbytes
            while self._size > self._budget:
                self._remove(next(iter(self._kept)))

    def drop(self, number: int) -> None:
        """Forgets an array, if it is there."""
        with self._lock:
            self._remove(number)

    def _remove(self, number: int) -> None:
        array = self._kept.pop(number, None)
        self._size -= 0 if array is None else array.nbytes

    def numbers(self) -> list[int]:
        """Of what is there, in increasing order."""
        with self._lock:
            return sorted(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
