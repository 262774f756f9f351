"""Which examples make which batch: seeded orders on lengths alone, each with few static shapes and little padding.

An order is endless, and a pure function of its seed and of the number of the batch: `order[k]` is the k-th batch as
indices of examples, whatever was asked for before. So all processes of a run have the same batches.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Float, Int

from pe_rlhf_mm.data.padding import ROUND_TO
from pe_rlhf_mm.errors import UserError

CUTS = 512
"""Lengths between which buckets may be cut: where there are more, every so many."""

Item_co = TypeVar("Item_co", covariant=True)


class Order(Protocol[Item_co]):
    """What gives the content of the k-th batch; copies of it replay for themselves."""

    def __getitem__(self, k: int) -> Item_co: ...


class Batch(NamedTuple):
    """A batch of one bucket: the indices of its rows."""

    bucket: int
    indices: Int[np.ndarray, " B"]


# --- the shuffled stream ----------------------------------------------------------------------------------------


def shuffled(n: int, seed: int) -> Any:
    """The endless stream of the indices below n, every epoch in another order, as a Grain data set: `[i]` is the i-th.

    Grain counts out some 100,000 indices a second.
    """
    import grain

    return grain.MapDataset.range(n).seed(seed).shuffle().repeat()


def _refuse_nothing(examples: Any, what: str) -> None:
    if not len(examples):
        raise UserError(f"there are no {what} to train on. Does the task's split have samples?")


# --- buckets ----------------------------------------------------------------------------------------------------


class Buckets(NamedTuple):
    """Static shapes, the shortest first, and the one that each example is padded to."""

    shapes: Int[np.ndarray, "b k"]
    assignment: Int[np.ndarray, " n"]


def choose_buckets(
    sizes: Int[np.ndarray, "n k"],
    *,
    weights: Sequence[float] | None = None,
    most: int = 4,
    saving: float = 0.03,
    least: int = 1,
) -> Buckets:
    """The static shapes that waste least, for examples of k sizes each (of prompt, reply, ..), in tokens.

    Sizes are rounded up to ROUND_TO. An example's work is the sum over the sizes of weight · size; a bucket pads each
    size to its largest. Among all ways to cut the examples, sorted by their work, into at most `most` buckets, a
    dynamic programme finds the cheapest, where each bucket also costs the share `saving` of the work in a single one:
    it is compiled once, and must pay for that. Then an example may go into a cheaper bucket that it fits. No bucket has
    fewer than `least` examples (a batch, so that no batch holds one example over and over). Raises UserError if there
    are no examples.
    """
    _refuse_nothing(sizes, "examples")
    padded = -(-np.asarray(sizes) // ROUND_TO) * ROUND_TO
    weighted = np.ones(padded.shape[1]) if weights is None else np.asarray(weights, float)
    work = padded @ weighted
    cuts = np.unique(work)
    cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, CUTS).round().astype(int))]
    group = np.searchsorted(cuts, work)
    least = min(least, len(padded))
    cut = np.searchsorted(_cheapest(_costs(padded, group, weighted, least), most, saving), group)
    shapes = _shapes(padded, cut)
    fits = (padded[:, None] <= shapes).all(axis=-1)
    moved = np.where(fits, shapes @ weighted, np.inf).argmin(axis=1)
    if np.bincount(moved, minlength=len(shapes)).min() < least:
        return Buckets(shapes, cut)
    return Buckets(_shapes(padded, moved), moved)


def _shapes(padded: Int[np.ndarray, "n k"], assignment: Int[np.ndarray, " n"]) -> Int[np.ndarray, "b k"]:
    return np.stack([padded[assignment == bucket].max(axis=0) for bucket in range(assignment.max() + 1)])


def _costs(
    padded: Int[np.ndarray, "n k"], group: Int[np.ndarray, " n"], weights: Float[np.ndarray, " k"], least: int
) -> Float[np.ndarray, "g g"]:
    """The work of one bucket of the groups i to j, at (i, j); infinite where it would have too few examples."""
    groups = int(group.max()) + 1
    largest = np.zeros((groups, padded.shape[1]), padded.dtype)
    np.maximum.at(largest, group, padded)
    counts, costs = np.bincount(group, minlength=groups), np.full((groups, groups), np.inf)
    for i in range(groups):
        rows, shapes = np.cumsum(counts[i:]), np.maximum.accumulate(largest[i:])
        costs[i, i:] = np.where(rows >= least, rows * (shapes @ weights), np.inf)
    return costs


def _cheapest(costs: Float[np.ndarray, "g g"], most: int, saving: float) -> list[int]:
    """The last group of every bucket."""
    totals, before = [costs[0]], []
    for _ in range(min(most, len(costs)) - 1):
        ways = totals[-1][:-1, None] + costs[1:]  # (i, j): the last bucket is the groups i + 1 to j
        before.append(ways.argmin(axis=0))
        totals.append(ways.min(axis=0))
    prices = [total[-1] + saving * costs[0, -1] * number for number, total in enumerate(totals)]
    ends = [len(costs) - 1]
    for choice in reversed(before[: int(np.argmin(prices))]):
        ends.insert(0, int(choice[ends[0]]))
    return ends


def padding_share(
    sizes: Int[np.ndarray, "n k"],
    shapes: Int[np.ndarray, "b k"],
    assignment: Int[np.ndarray, " n"],
    *,
    weights: Sequence[float] | None = None,
) -> float:
    """1 - (work of the examples) / (work of the shapes that they are padded to): in [0, 1), less is better."""
    weighted = np.ones(np.shape(sizes)[1]) if weights is None else np.asarray(weights, float)
    return float(1 - (np.asarray(sizes) @ weighted).sum() / (np.asarray(shapes)[assignment] @ weighted).sum())


class BucketedOrder:
    """Full batches of one bucket each, drawn from the shuffled stream.

    An index waits in the queue of its bucket, and a batch comes out whenever a queue is full. Nothing is dropped: what
    waits at the end of an epoch is in the batches of the next. With one bucket this is the stream cut into batches.
    How many batches come before an epoch follows from the sizes of the buckets alone, so that at most one epoch is
    replayed to get anywhere. Raises UserError if there are no examples.
    """

    def __init__(
        self,
        assignment: Int[np.ndarray, " n"],
        batch_size: int,
        *,
        seed: int,
        what: str = "examples",
    ):
        _refuse_nothing(assignment, what)
        self._assignment, self._batch_size = assignment, batch_size
        self._counts = np.bincount(assignment)
        self._stream = shuffled(len(assignment), seed)
        self._epoch, self._known = -1, list[Batch]()
        self._rest: Iterator[Batch] = iter(())

    def __getitem__(self, k: int) -> Batch:
        latest = (k + 1 + len(self._counts)) * self._batch_size // len(self._assignment) + 2
        epoch = bisect.bisect_right(range(latest), k, key=self._batches_before) - 1
        if epoch != self._epoch:
            self._epoch, self._known, self._rest = epoch, [], self._fill(epoch)
        place = k - self._batches_before(epoch)
        self._known += itertools.islice(self._rest, max(0, place + 1 - len(self._known)))
        return self._known[place]

    def __getstate__(self) -> dict[str, Any]:
        """Copies replay for themselves: they may be in another thread or process."""
        return self.__dict__ | {"_epoch": -1, "_known": [], "_rest": iter(())}

    def _batches_before(self, epoch: int) -> int:
        return int((epoch * self._counts // self._batch_size).sum())

    def _fill(self, epoch: int) -> Iterator[Batch]:
        """The batches that fill up in an epoch, in the order in which they do."""
        n, queues = len(self._assignment), self._waiting(epoch)
        for i in range(epoch * n, (epoch + 1) * n):
            index = self._stream[i]
            bucket = int(self._assignment[index])
            queues[bucket].append(index)
            if len(queues[bucket]) == self._batch_size:
                yield Batch(bucket, np.array(queues[bucket]))
                queues[bucket].clear()

    def _waiting(self, epoch: int) -> list[list[int]]:
        """What waits in each queue when an epoch begins: the last of its bucket to come, oldest first."""
        missing = epoch * self._counts % self._batch_size
        queues: list[list[int]] = [[] for _ in missing]
        last = epoch * len(self._assignment)
        while missing.any():
            last -= 1
            index = self._stream[last]
            bucket = self._assignment[index]
            if missing[bucket]:
                queues[bucket].insert(0, index)
                missing[bucket] -= 1
        return queues


# --- packing ----------------------------------------------------------------------------------------------------


class PackedOrder:
    """Batches of bins, each a list of examples that fill `capacity` tokens together, drawn from the shuffled stream.

    First fit: an example goes into the first of up to `window` open bins that has room for it; where none has, the
    fullest is closed and a new one opened. At the end of an epoch all are closed, so every epoch has each example once.
    Getting to an epoch means packing those before it, at some 100,000 examples a second.

    Raises UserError for an example longer than `capacity`, and if there are none.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        capacity: int,
        batch_size: int,
        *,
        seed: int,
        window: int = 64,
        what: str = "examples",
    ):
        _refuse_nothing(lengths, what)
        self._lengths = [int(length) for length in lengths]
        longest = int(np.argmax(self._lengths))
        if self._lengths[longest] > capacity:
            raise UserError(
                f"number {longest} of the {what} has {self._lengths[longest]} tokens, and a row holds {capacity}. "
                "Shorten it, leave it out, or pack into longer rows."
            )
        self._capacity, self._batch_size, self._window = capacity, batch_size, window
        self._stream = shuffled(len(lengths), seed)
        self._ends = [0]  # the bins of all epochs up to each
        self._packed: tuple[int, list[list[int]]] = (-1, [])

    def __getitem__(self, k: int) -> list[list[int]]:
        return [self._bin(k * self._batch_size + row) for row in range(self._batch_size)]

    def __getstate__(self) -> dict[str, Any]:
        """Copies pack for themselves: they may be in another thread or process."""
        return self.__dict__ | {"_ends": [0], "_packed": (-1, [])}

    @property
    def padding_share(self) -> float:
        """The share of the first epoch's bins that no example fills."""
        return 1 - sum(self._lengths) / (self._capacity * len(self._bins(0)))

    def _bin(self, number: int) -> list[int]:
        while self._ends[-1] <= number:
            self._ends.append(self._ends[-1] + len(self._bins(len(self._ends) - 1)))
        epoch = bisect.bisect_right(self._ends, number) - 1
        return self._bins(epoch)[number - self._ends[epoch]]

    def _bins(self, epoch: int) -> list[list[int]]:
        known, bins = self._packed
        if known != epoch:
            n = len(self._lengths)
            stream = (self._stream[i] for i in range(epoch * n, (epoch + 1) * n))
            bins = first_fit(stream, self._lengths, self._capacity, self._window)
            self._packed = (epoch, bins)
        return bins


def first_fit(stream: Iterable[int], lengths: Sequence[int], capacity: int, window: int) -> list[list[int]]:
    """What goes into which bin of `capacity` tokens, the bins in the order in which they are closed."""
    closed: list[list[int]] = []
    bins: list[list[int]] = []
    rooms: list[int] = []
    for index in stream:
        length = lengths[index]
        for i, room in enumerate(rooms):
            if room >= length:
                bins[i].append(index)
                rooms[i] = room - length
                break
        else:
            if len(bins) == window:
                fullest = rooms.index(min(rooms))
                closed.append(bins.pop(fullest))
                rooms.pop(fullest)
            bins.append([index])
            rooms.append(capacity - length)
    return closed + bins
