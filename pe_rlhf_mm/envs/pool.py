"""Environments side by side: each lives on a thread of its own, and all of them work while the policy does not."""

from __future__ import annotations

import contextlib
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from pe_rlhf_mm import hosts
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.types import Environment, Sample, Step, Task

PATIENCE = 4
"""So many lost episodes in a row for each slot, and the task is taken to be broken."""


class Counts(NamedTuple):
    """What a pool has done so far. `episodes`: begun; `remade`: environments that took the place of one that raised."""

    episodes: int
    steps: int
    lost: int
    remade: int


class _Prepared(NamedTuple):
    """An episode that has been begun ahead."""

    sample: Sample
    seed: int
    step: Future[Step]


class _Slot:
    """One environment, the thread on which it is made, played and closed, and whether an episode is going on."""

    def __init__(self, number: int):
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"environment-{number}")
        self.environment: Environment | None = None
        self.makes = 0
        self.playing = False
        self.prepared: _Prepared | None = None


class EnvPool:
    """`size` environments, numbered from 0; a number is a slot, in which one episode at a time is played.

    Calls return at once with a future, and calls for one slot are carried out in their order: the next episodes can be
    prepared before a learner runs. An environment is made when its slot is first reset. One that raises is closed and
    made anew, and its episode is lost: it ends with a truncated Step whose info says why under "lost". Too many lost
    episodes in a row (PATIENCE a slot) raise the last error, since that is no accident; a UserError is raised at once.
    """

    def __init__(self, make: Callable[[], Environment], size: int):
        if size < 1:
            raise OutOfRange(f"a pool must have 1 environment at least, not {size}")
        self._make = make
        self._slots = [_Slot(number) for number in range(size)]
        self._lock = threading.Lock()
        self._counts = Counts(0, 0, 0, 0)
        self._lost_in_a_row = 0
        self._closed = False

    @property
    def size(self) -> int:
        return len(self._slots)

    @property
    def here(self) -> EnvPool:
        """The pool without other hosts: what one of them plays by itself."""
        return self

    @property
    def counts(self) -> Counts:
        return self._counts

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self, slot: int, sample: Sample, seed: int) -> None:
        """Begins an episode that the slot's next call is expected to ask for: while a learner runs, for instance."""
        self._slots[slot].prepared = _Prepared(sample, seed, self.reset(slot, sample, seed))

    def reset(self, slot: int, sample: Sample, seed: int) -> Future[Step]:
        """Begins an episode, unless it is the one that was prepared; one that is going on in the slot is left."""
        prepared, self._slots[slot].prepared = self._slots[slot].prepared, None
        if prepared and prepared.sample is sample and prepared.seed == seed:
            return prepared.step
        return self._slots[slot].thread.submit(self._reset, self._slots[slot], sample, seed)

    def step(self, slot: int, reply: str) -> Future[Step]:
        """Goes on with the slot's episode."""
        self._slots[slot].prepared = None
        return self._slots[slot].thread.submit(self._step, self._slots[slot], reply)

    def close(self) -> None:
        """Closes all environments, each on its thread, and ends the threads. Calls under way are waited for; calls
        that have not begun are cancelled."""
        if self._closed:
            return
        self._closed = True
        closing = [slot.thread.submit(_close, slot) for slot in self._slots]
        for slot in self._slots:
            slot.thread.shutdown()
        for error in filter(None, (future.exception() for future in closing)):
            warnings.warn(f"an environment could not be closed: {error!r}", RuntimeWarning, stacklevel=2)

    def _reset(self, slot: _Slot, sample: Sample, seed: int) -> Step:
        if slot.playing:
            self._note(lost=False)
        slot.playing = True
        self._count(episodes=1)
        return self._carry_out(slot, lambda environment: environment.reset(sample, seed=seed))

    def _step(self, slot: _Slot, reply: str) -> Step:
        if not slot.playing:
            raise RuntimeError("this slot has no episode to go on with: reset it first")
        self._count(steps=1)
        return self._carry_out(slot, lambda environment: environment.step(reply))

    def _carry_out(self, slot: _Slot, call: Callable[[Environment], Step]) -> Step:
        """The answer of a slot's environment, or of a failure: a lost step."""
        if self._closed:
            raise CancelledError("the pool was closed before this call began")
        failure = None
        try:
            step = self._expect_step(call(self._environment(slot)))
        except UserError:
            raise
        except Exception as error:
            step, failure = Step([], truncated=True, info={"lost": _reason(error)}), error
            with contextlib.suppress(Exception):  # it is broken: how it takes its end says nothing
                _close(slot)
        slot.playing = not (step.terminated or step.truncated)
        if "lost" in step.info:
            self._count(lost=1)
            self._note(lost=True)
            self._refuse_endless_loss(step.info["lost"], failure)
        elif not slot.playing:
            self._note(lost=False)
        return step

    def _environment(self, slot: _Slot) -> Environment:
        if slot.environment is None:
            slot.makes += 1
            self._count(remade=int(slot.makes > 1))
            slot.environment = self._make()
        return slot.environment

    @staticmethod
    def _expect_step(answer: object) -> Step:
        if not isinstance(answer, Step):
            raise UserError(f"an environment answered with a {type(answer).__name__}; expected pe_rlhf_mm.Step")
        return answer

    def _count(self, **more: int) -> None:
        with self._lock:
            changed = {name: getattr(self._counts, name) + n for name, n in more.items()}
            self._counts = self._counts._replace(**changed)

    def _note(self, *, lost: bool) -> None:
        with self._lock:
            self._lost_in_a_row = self._lost_in_a_row + 1 if lost else 0

    def _refuse_endless_loss(self, why: str, failure: Exception | None) -> None:
        if self._lost_in_a_row < PATIENCE * self.size:
            return
        said = f"{self._lost_in_a_row} episodes in a row were lost"
        if failure is None:
            raise UserError(f"{said}, the last one because: {why}. Does the environment work on this machine?")
        failure.add_note(f"({said}; this is what the environment raised in the last one)")
        raise failure


def _close(slot: _Slot) -> None:
    environment, slot.environment = slot.environment, None
    if environment is not None:
        environment.close()


def _reason(error: Exception) -> str:
    """The error in one line, with the place that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno} of {place.filename})"


def pool_of(task: Task, size: int) -> EnvPool | None:
    """A pool of a task's environments, which several hosts share out; None for a task of one turn."""

    def make() -> Environment:
        environment = task.environment()
        if environment is None:
            raise UserError(f"{type(task).__name__}.environment() gives an environment at one time and none at another")
        return environment

    first = task.environment()
    if first is None:
        return None
    first.close()  # it was made here, and environments stay on the thread that made them
    from pe_rlhf_mm.envs.shared import SharedPool  # which is an EnvPool

    own = EnvPool(make, size)
    return SharedPool(own) if hosts.several() else own
