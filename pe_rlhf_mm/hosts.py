"""Several processes that run the same command, each with devices of its own: what they agree on, and how they end.

All of them do the same, step by step, and meet in every program over the devices of all. The first one alone writes.
Where there is one process, which is the rule, nothing here does anything at all.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from pe_rlhf_mm.errors import UserError

Thing = TypeVar("Thing")

LOST = 69
"""The exit code (EX_UNAVAILABLE of sysexits.h) of a process whose peer has ended before its time."""
SAYING_GOODBYE = 60
"""Seconds that a process which has failed waits for the others to fail as well, before it ends all of them."""
COMING = 300
"""Seconds that the others have to come."""
SILENT = 10
"""Seconds of waiting for them after which it is said what is waited for."""
AT_ONCE = 2**29
"""Bytes that are put together on every device at once to be fetched."""
AUTO = "auto"
"""The coordinator of processes that whoever starts them tells of each other."""


def several() -> bool:
    """Whether there are other processes. Asks no device of a process that has joined none."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return not several() or jax.process_index() == 0


# --- joining and leaving ----------------------------------------------------------------------------------------


@contextmanager
def joined(coordinator: str = "", count: int = 0, index: int = -1) -> Iterator[None]:
    """Within it, this process works with others, where any of that is given; their end is waited for.

    `coordinator`: address of the first process, or "auto"; then, and where it is left out, JAX finds what it needs: on
    slices of TPUs, under Slurm, Open MPI and Kubernetes. If a peer dies, or has not come after COMING seconds, this
    process ends with the exit code LOST. Raises UserError if it is not known where the others are, if the port of the
    first is taken, or if devices are in use already.
    """
    if not coordinator and not count and index < 0:
        yield
        return
    _join(coordinator, count, index)
    try:
        yield
    except BaseException as error:
        if "Gloo" in str(error):  # how a CPU says that a peer does not answer; elsewhere XLA ends the process
            _end(str(error).strip().partition("\n")[0][:300])
        signal.signal(signal.SIGABRT, signal.SIG_DFL)  # whoever fails by itself has said why
        raise
    multihost_utils.sync_global_devices("the end")


def _join(coordinator: str, count: int, index: int) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM to itself
    known = coordinator not in ("", AUTO)
    if known and index == 0:
        _refuse_taken(int(coordinator.rpartition(":")[2]))
    ctypes.CDLL(None).signal(signal.SIGABRT, _ALONE)
    try:
        with _waiting(f"the other hosts{f' at {coordinator}' * known}{f', {count} in all' * (count > 0)}"):
            jax.distributed.initialize(
                coordinator if known else None,
                count or None,
                index if index >= 0 else None,
                initialization_timeout=COMING,
                shutdown_timeout_seconds=SAYING_GOODBYE,
            )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the other hosts cannot be joined: {error} Give --hosts.coordinator HOST:PORT (of the first), "
            "--hosts.count and --hosts.index, or --hosts.coordinator auto on a slice of TPUs or under Slurm."
        ) from error
    ctypes.CDLL(None).signal(signal.SIGABRT, _ABORTED)


def _refuse_taken(port: int) -> None:
    """XLA would share the port with another process, or crash."""
    both = socket.has_dualstack_ipv6()
    try:
        socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        ).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} cannot be had on this machine, the first of the hosts: {error}. Each process needs an "
            "--hosts.index of its own; where another program has the port, give all of them another "
            "--hosts.coordinator."
        ) from error


@contextmanager
def _waiting(whom: str) -> Iterator[None]:
    """Says after a while what is waited for. C code waits, so Ctrl-C and SIGTERM end the process as they do by
    themselves: a handler in Python would not be asked."""
    note = threading.Timer(SILENT, print, (f"waiting for {whom}: {COMING} seconds at most",), {"file": sys.stderr})
    note.daemon = True
    alone = threading.current_thread() is threading.main_thread()
    answers = {s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM) if alone}
    note.start()
    try:
        yield
    finally:
        note.cancel()
        for number, answer in answers.items():
            signal.signal(number, answer)


def _nobody_came(number: int) -> NoReturn:
    said = (
        f"error: not all hosts have come within {COMING} seconds (XLA has said above what it knows). Give the same "
        "command on every machine, with an --hosts.index of its own on each, from 0 to --hosts.count less one; all of "
        "them must reach the first at --hosts.coordinator.\n"
    )
    os.write(2, said.encode())
    os._exit(LOST)


_ALONE = ctypes.CFUNCTYPE(None, ctypes.c_int)(_nobody_came)


def _aborted(number: int) -> NoReturn:
    """XLA ends a process whose peer is gone by abort(), out of a thread of its own: nobody else is told."""
    _end("XLA has said above what it knows")


_ABORTED = ctypes.CFUNCTYPE(None, ctypes.c_int)(_aborted)


def _end(why: str) -> NoReturn:
    """At once: what usually comes at the end of a program waits for the others."""
    said = (
        f"error: another host has ended, or cannot be reached ({why}). This one ({socket.gethostname()}) cannot go on "
        "alone. Give the same command with --resume, on all of them.\n"
    )
    os.write(2, said.encode())
    os._exit(LOST)


# --- agreeing ---------------------------------------------------------------------------------------------------


def led(action: Callable[[], Thing], by: int = 0) -> Thing:
    """What an action of one process comes to, on every process: its value, or the UserError that it raises."""
    if not several():
        return action()
    told: tuple[Any, UserError | None] = (None, None)
    if jax.process_index() == by:
        try:
            told = (action(), None)
        except UserError as error:
            told = (None, error)
    value, failed = _told(told, by)
    if failed is not None:
        raise failed
    found: Thing = value
    return found


def _told(told: Any, by: int) -> Any:
    said, speaks = np.frombuffer(pickle.dumps(told), np.uint8), jax.process_index() == by
    room = int(multihost_utils.broadcast_one_to_all(np.int32(2 ** len(said).bit_length()), speaks))
    padded = np.zeros(room, np.uint8)  # to a power of two: each size compiles a program
    if speaks:
        padded[: len(said)] = said
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded, speaks)).tobytes())


def anyone(here: bool) -> bool:
    """Whether it is so on any process."""
    return here if not several() else bool(multihost_utils.process_allgather(np.array(here)).any())


# --- arrays -----------------------------------------------------------------------------------------------------


def placed(x: Any, at: Sharding, *, may_alias: bool | None = None) -> jax.Array:
    """An array in its place. Of one that lies on several hosts each puts the parts of its own, out of the whole."""
    if at.is_fully_addressable or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return jax.device_put(x, at, may_alias=may_alias)
    whole = np.asarray(x)
    own = at.addressable_devices_indices_map(whole.shape).items()
    parts = [jax.device_put(whole[index], device, may_alias=False) for device, index in own]
    return jax.make_array_from_single_device_arrays(whole.shape, at, parts)


def fetched(tree: object) -> Any:
    """The arrays of a tree as NumPy arrays, whole, on every process: all of them must ask."""
    return jax.tree.map(_fetched, tree)


def _fetched(x: Any) -> np.ndarray:
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    rows = max(1, len(x) * AT_ONCE // max(x.nbytes, 1))
    parts = [multihost_utils.process_allgather(x[i : i + rows], tiled=True) for i in range(0, len(x), rows)]
    return np.concatenate(parts)
