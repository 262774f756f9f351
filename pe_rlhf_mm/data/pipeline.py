"""Batches in a given order that can be continued from any point, made ahead of time by Grain.

The k-th batch is `collate(order[k])` and nothing else, so the stream does not depend on who makes it (a thread, or any
number of worker processes) nor on where it starts: a run that was killed goes on after the batches it has consumed.
"""

from __future__ import annotations

import copy
import functools
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import UInt8

from pe_rlhf_mm.data.order import Order
from pe_rlhf_mm.errors import UserError

Example = TypeVar("Example")
Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 4
"""Batches that a thread makes ahead; of each worker process, half as many."""


def ordered_batches(
    order: Order[Item], collate: Callable[[Item], Made], *, start: int = 0, workers: int = 0
) -> Stream[Made]:
    """collate(order[start]), collate(order[start + 1]), .. without end, made ahead by a thread or by worker processes.

    Worker processes get copies of `order` and `collate`, and send batches back: all three must be picklable, and
    `collate` must leave JAX alone, since the accelerator belongs to the training process. A script that asks for
    workers needs `if __name__ == "__main__":`, since they import it. What `collate` raises comes out of `next` at its
    batch. Raises UserError for what cannot be pickled, and if a worker process ends before its time.
    """
    import grain

    numbers = grain.MapDataset.range(start, sys.maxsize)
    if not workers:
        order = copy.copy(order)  # the thread has a place of its own in it
        made = numbers.map(lambda k: collate(order[k]))
        return Stream(iter(made.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD))))
    _parse_absl_flags()
    posted = numbers.map(_Post(order, collate)).to_iter_dataset(grain.ReadOptions(num_threads=0))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD // 2)
    return Stream(iter(posted.mp_prefetch(options, worker_init_fn=_begin_worker)), unpack=_unpack)


class Stream(Generic[Made]):
    """Batches without end. `close`, or leaving the `with` block, ends what makes them; so does the program's end."""

    def __init__(self, source: Any, unpack: Callable[[Any], Made] = lambda made: made):
        self._source, self._unpack = source, unpack
        self._finalize = weakref.finalize(self, source.close)

    def __iter__(self) -> Stream[Made]:
        return self

    def __next__(self) -> Made:
        try:
            return self._unpack(next(self._source))
        except RuntimeError as error:
            self.close()
            if "Worker process was terminated" not in str(error):
                raise
            raise UserError(
                f"a worker process that makes batches has ended: {error} A script that asks for workers needs "
                "`if __name__ == '__main__':` around what it does, since they import it; and one that was killed may "
                "have run out of memory: ask for fewer, or none."
            ) from error
        except Exception:
            self.close()
            raise

    def __enter__(self) -> Stream[Made]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread or the worker processes; nothing comes afterwards."""
        self._finalize()


# --- worker processes -------------------------------------------------------------------------------------------


class _Post:
    """Makes a batch in a worker process, and pickles it or the error into one array, which Grain shares between them.

    Traps: what cannot be pickled would be lost in the queue of processes, and the next batch come in its place; a
    process that has put more than a few kilobytes into its queue cannot end before they are read; and the classes of a
    script are known again by cloudpickle only.
    """

    def __init__(self, order: Order[Item], collate: Callable[[Item], Any]):
        try:
            self._parts = _pickled((order, collate))
        except Exception as error:  # what cannot be pickled raises what it likes
            raise UserError(
                f"what makes batches cannot be sent to worker processes: {error}. Ask for none, or keep locks, open "
                "files and the like out of the data."
            ) from error

    def __call__(self, k: int) -> UInt8[np.ndarray, " N"]:
        try:
            order, collate = self._unpacked
            posted = _pickled((collate(order[k]), None))
        except Exception as error:  # whatever it is belongs to the main process
            error.add_note(f"In a worker process, at batch {k}:\n{traceback.format_exc()}")
            posted = _pickled((None, _sendable(error)))
        return np.frombuffer(posted, np.uint8)

    @functools.cached_property
    def _unpacked(self) -> Any:
        return pickle.loads(self._parts)


def _unpack(posted: UInt8[np.ndarray, " N"]) -> Any:
    batch, error = pickle.loads(posted.data)
    if error is not None:
        raise error
    return batch


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(_pickled(error))
    except Exception:
        return RuntimeError("\n".join([f"{type(error).__name__}: {error}", *error.__notes__]))
    return error


def _pickled(value: Any) -> bytes:
    import cloudpickle

    pickled: bytes = cloudpickle.dumps(value)
    return pickled


def _begin_worker(index: int, count: int) -> None:
    """Leaves Ctrl-C and the accelerator to the main process, and ends when that does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def _parse_absl_flags() -> None:
    """Grain's processes read absl's flags, which a program that absl did not start has never parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def pick(examples: Sequence[Example], count: int, *, seed: int) -> list[Example]:
    """`count` examples drawn from the seed, in their original order; all of them for 0, or if there are no more."""
    if not 0 < count < len(examples):
        return list(examples)
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]
