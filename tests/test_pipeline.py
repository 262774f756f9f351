"""Batches: today's stream, and the same one from threads and processes, from any start, after any death."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from pe_rlhf_mm.data.order import Batch, BucketedOrder, PackedOrder
from pe_rlhf_mm.data.pipeline import ordered_batches, pick
from pe_rlhf_mm.errors import UserError


def drawn(count: int, *, size: int, seed: int = 0, start: int = 0, items: int) -> list[list[int]]:
    order = BucketedOrder(np.zeros(items, int), size, seed=seed)
    with ordered_batches(order, lambda batch: batch.indices.tolist(), start=start) as stream:
        return list(islice(stream, count))


@pytest.mark.parametrize(("items", "size"), [(12, 4), (10, 4), (3, 8), (1, 5), (7, 7)])
def test_every_epoch_visits_everything_once(items: int, size: int) -> None:
    """Batches are always full: where `size` does not divide `items`, a batch ends one epoch and begins the next."""
    found = drawn(3 * items, size=size, items=items)
    assert all(len(batch) == size for batch in found)
    stream = [item for batch in found for item in batch]
    epochs = [stream[i : i + items] for i in range(0, 3 * items, items)]
    assert all(sorted(epoch) == list(range(items)) for epoch in epochs)


def test_every_epoch_has_an_order_of_its_own() -> None:
    stream = [item for batch in drawn(15, size=20, items=100) for item in batch]
    orders = {tuple(stream[i : i + 100]) for i in (0, 100, 200)}
    assert len(orders) == 3
    assert tuple(range(100)) not in orders


def test_the_seed_decides_the_order() -> None:
    assert drawn(9, size=8, seed=5, items=20) == drawn(9, size=8, seed=5, items=20)
    assert drawn(9, size=8, seed=5, items=20) != drawn(9, size=8, seed=6, items=20)


def test_a_stream_can_be_continued_from_any_batch() -> None:
    assert drawn(6, size=8, seed=5, items=20)[4:] == drawn(2, size=8, seed=5, start=4, items=20)


def test_the_stream_is_the_one_that_runs_have_always_had() -> None:
    """Written down from the version before orders: a run that goes on under a new one sees the same batches."""
    assert drawn(3, size=8, seed=1, items=3) == [
        [1, 0, 2, 2, 1, 0, 2, 1], [0, 1, 0, 2, 2, 1, 0, 2], [1, 0, 0, 1, 2, 0, 2, 1],
    ]  # fmt: skip
    letters = [["abcdefg"[i] for i in batch] for batch in drawn(5, size=3, start=2, items=7)]
    assert list(map("".join, letters)) == ["afg", "bec", "adg", "fce", "bad"]


def test_nothing_to_draw_from_is_said_at_once() -> None:
    with pytest.raises(UserError, match="there are no demonstrations to train on"):
        BucketedOrder(np.zeros(0, int), 4, seed=0, what="demonstrations")


def test_pick_is_seeded_keeps_the_order_and_takes_nothing_twice() -> None:
    words = [f"word {i}" for i in range(1000)]
    picked = pick(words, 300, seed=1)
    assert picked == pick(words, 300, seed=1) != pick(words, 300, seed=2)
    assert len(set(picked)) == 300
    assert [words.index(w) for w in picked] == sorted(words.index(w) for w in picked)


@pytest.mark.parametrize("count", [0, 5, 6])
def test_pick_takes_all_for_zero_or_where_there_are_no_more(count: int) -> None:
    assert pick("abcde", count, seed=0) == list("abcde")


# --- any order, by threads and processes ------------------------------------------------------------------------

BUCKETS = [i % 7 % 3 for i in range(100)]


def bucketed() -> BucketedOrder:
    return BucketedOrder(np.array(BUCKETS), 8, seed=3)


def made(batch: Batch) -> dict[str, np.ndarray]:
    """What a batch is made into: arrays whose shape depends on the bucket, and large ones among them."""
    return {"ids": batch.indices, "noise": np.tile(batch.indices, (1 << 14, 1 + batch.bucket))}


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize(("workers", "start"), [(0, 0), (0, 17), (2, 0), (3, 17)])
def test_batch_k_is_what_collate_makes_of_entry_k(workers: int, start: int) -> None:
    order = bucketed()
    with ordered_batches(order, made, start=start, workers=workers) as stream:
        assert all(equal(next(stream), made(order[k])) for k in range(start, start + 20))


def test_an_order_is_anything_with_entries_and_two_streams_share_one() -> None:
    order = PackedOrder([3, 4, 5] * 40, 16, 4, seed=0)
    one, other = ordered_batches(order, tuple), ordered_batches(order, tuple, start=2)
    for k in range(60):
        assert next(one) == tuple(order[k])
        assert next(other) == tuple(order[k + 2])
    assert list(islice(ordered_batches("abc", str.upper), 3)) == ["A", "B", "C"]


class Remembers:
    """An order that has a place in it, as those that replay have."""

    place = -1

    def __getitem__(self, k: int) -> int:
        self.place = k
        return k


def test_a_stream_has_a_place_of_its_own_in_its_order() -> None:
    order = Remembers()
    assert list(islice(ordered_batches(order, int), 3)) == [0, 1, 2]
    assert order.place == -1


def fails_at_three(k: int) -> object:
    if k == 3:
        raise UserError("number 3 cannot be read.")
    return k


def is_a_lock_at_three(k: int) -> object:
    return threading.Lock() if k == 3 else k


class Picky(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one} and {two}")


def is_picky_at_three(k: int) -> object:
    if k == 3:
        raise Picky(1, 2)
    return k


def test_closing_does_not_wait_for_batches_that_nobody_takes() -> None:
    """Grain waits 25 seconds for a worker to end before it kills it: one that hands on a full queue never does."""
    with ordered_batches(bucketed(), made, workers=1) as stream:
        next(stream)
        time.sleep(0.5)  # until it has made all that it may make ahead
        (worker,) = multiprocessing.active_children()
        stream.close()
    assert worker.exitcode == 0  # -9 if it was killed


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_out_as_itself_and_at_its_batch(workers: int) -> None:
    with ordered_batches(range(100), fails_at_three, workers=workers) as stream:
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError) as caught:
            next(stream)
        assert str(caught.value) == "number 3 cannot be read."


@pytest.mark.parametrize(
    ("collate", "error", "says"),
    [(is_a_lock_at_three, TypeError, "cannot pickle '_thread.lock'"), (is_picky_at_three, RuntimeError, "1 and 2")],
)
def test_what_cannot_come_back_is_an_error_and_not_a_batch_left_out(
    collate: object, error: type[Exception], says: str
) -> None:
    with ordered_batches(range(100), collate, workers=1) as stream:
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(error, match=says):
            next(stream)


def test_what_cannot_be_sent_is_said_at_once() -> None:
    lock = threading.Lock()
    with pytest.raises(UserError, match=r"cannot be sent to worker processes: cannot pickle '_thread\.lock'"):
        ordered_batches(range(100), lambda k: (k, lock), workers=2)


def dies_at_three(k: int) -> int:
    if k == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return k


def test_a_worker_that_was_killed_is_said() -> None:
    with (
        ordered_batches(range(100), dies_at_three, workers=1) as stream,
        pytest.raises(UserError, match=r"has ended: .* exit code -9.*memory"),
    ):
        list(islice(stream, 5))


def backend(k: int) -> str:
    import jax

    return f"{os.environ['JAX_PLATFORMS']} {jax.config.jax_platforms} {signal.getsignal(signal.SIGINT).name}"


def test_workers_keep_off_the_accelerator_and_leave_ctrl_c_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    with ordered_batches(range(9), backend, workers=1) as stream:
        assert next(stream) == "cpu cpu SIG_IGN"


# --- real programs ----------------------------------------------------------------------------------------------

CONSUMER = """
import multiprocessing, os, sys, time
from pathlib import Path
from typing import NamedTuple
import numpy as np
from pe_rlhf_mm.data.order import BucketedOrder
from pe_rlhf_mm.data.pipeline import ordered_batches

class Line(NamedTuple):
    text: str

def line(batch):
    return Line(f"{batch.bucket} {batch.indices.tolist()}")

def main(out, start, workers, count):
    order = BucketedOrder(np.array([i % 7 % 3 for i in range(100)]), 8, seed=3)
    stream = ordered_batches(order, line, start=start, workers=workers)
    with open(out, "a") as file:
        for i in range(count):
            batch = next(stream)
            assert type(batch) is Line
            if i == 0:
                pids = [str(child.pid) for child in multiprocessing.active_children()]
                Path(out + ".workers").write_text(" ".join(pids))
            file.write(batch.text + "\\n")
            file.flush()
            time.sleep(0.02)
"""
GUARD = 'if __name__ == "__main__":\n    main(sys.argv[1], *map(int, sys.argv[2:]))\n'


def consumer(folder: Path, tail: str = GUARD) -> list[str]:
    script = folder / "consumer.py"
    script.write_text(CONSUMER + tail)
    return [sys.executable, str(script), str(folder / "out")]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_run_that_is_killed_goes_on_where_it_was_with_any_number_of_workers(tmp_path: Path) -> None:
    """SIGKILL at random batches, with 2, 3 and 0 workers; what is in the file has been consumed."""
    command, out, rng = consumer(tmp_path), tmp_path / "out", random.Random(0)
    for workers in (2, 3, 0):
        done = len(lines(out))
        enough = done + rng.randint(1, 20)
        run = subprocess.Popen([*command, str(done), str(workers), "1000"])
        wait_until(lambda least=enough: len(lines(out)) >= least)
        run.send_signal(signal.SIGKILL)
        run.wait()
        pids = [int(pid) for pid in (tmp_path / "out.workers").read_text().split()]
        assert len(pids) == workers
        wait_until(lambda pids=pids: not any(alive(pid) for pid in pids), 20)
    done = len(lines(out))
    subprocess.run([*command, str(done), "2", "10"], check=True)
    order = bucketed()
    expected = [f"{order[k].bucket} {order[k].indices.tolist()}" for k in range(done + 10)]
    assert lines(out) == expected


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_program_that_does_not_close_its_stream_ends_without_a_word(workers: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [*consumer(tmp_path), "0", workers, "3"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    pids = [int(pid) for pid in (tmp_path / "out.workers").read_text().split()]
    assert not any(alive(pid) for pid in pids)


def test_a_script_without_its_guard_is_told_so(tmp_path: Path) -> None:
    command = consumer(tmp_path, "main(sys.argv[1], *map(int, sys.argv[2:]))\n")
    ran = subprocess.run([*command, "0", "2", "3"], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode != 0
    assert ran.stderr.splitlines()[-1].startswith("pe_rlhf_mm.errors.UserError: a worker process that makes batches")
    assert "`if __name__ == '__main__':`" in ran.stderr
