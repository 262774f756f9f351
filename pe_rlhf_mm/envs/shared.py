"""Environments that several hosts share out: each plays its own, and tells the others what they show."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import jax

from pe_rlhf_mm import hosts
from pe_rlhf_mm.envs.pool import Counts, EnvPool
from pe_rlhf_mm.types import Sample, Step


class SharedPool(EnvPool):
    """A pool whose slots are dealt to all hosts, each of which plays its own in the pool that it has.

    Every host must make the same calls, and ask for the same results in the same order: they meet there.
    """

    def __init__(self, here: EnvPool):
        self._here = here

    @property
    def here(self) -> EnvPool:
        return self._here

    @property
    def size(self) -> int:
        return self._here.size

    @property
    def counts(self) -> Counts:
        return self._here.counts

    def prepare(self, slot: int, sample: Sample, seed: int) -> None:
        """As of one's own pool, where the slot is this host's."""
        if _owner(slot) == jax.process_index():
            self._here.prepare(slot, sample, seed)

    def reset(self, slot: int, sample: Sample, seed: int) -> Future[Step]:
        """The same; the others are told by the one that has it."""
        return _Told(slot, lambda: self._here.reset(slot, sample, seed))

    def step(self, slot: int, reply: str) -> Future[Step]:
        """The same."""
        return _Told(slot, lambda: self._here.step(slot, reply))

    def close(self) -> None:
        """Closes the environments of this host."""
        self._here.close()


class _Told(Future):
    """What the host that has a slot has begun there; the others wait for its word."""

    def __init__(self, slot: int, begin: Callable[[], Future[Step]]):
        super().__init__()
        self._owner = _owner(slot)
        self._begun = begin() if self._owner == jax.process_index() else None

    def result(self, timeout: float | None = None) -> Step:
        def told() -> Step:
            assert self._begun is not None  # it is the owner that is asked
            return self._begun.result(timeout)

        return hosts.led(told, by=self._owner)


def _owner(slot: int) -> int:
    return slot % jax.process_count()
