"""What recipes train on: streams of batches with one example a row, in few lengths, or with several packed into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from pe_rlhf_mm.data.order import Batch, BucketedOrder, Buckets, Order, PackedOrder, choose_buckets, padding_share
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.pipeline import Stream, ordered_batches
from pe_rlhf_mm.models.sharding import parts_of

Example = TypeVar("Example")
Item = TypeVar("Item")
Made = TypeVar("Made")


class Fed(NamedTuple, Generic[Made]):
    """Batches without end, from the k-th on for any k, and the share of their tokens that is padding, if it is known.

    `batches`: makes the stream that begins with batch k. A training that goes on asks for those it has not met.
    """

    batches: Callable[[int], Stream[Made]]
    padding_share: float | None = None


def bucketed(
    examples: Sequence[Example],
    sizes: Int[np.ndarray, "n k"],
    collate: Callable[[list[Example], Sequence[int]], Made],
    *,
    batch_size: int,
    seed: int,
    what: str,
    weights: Sequence[float] | None = None,
    saving: float = 0.05,
) -> Fed[Made]:
    """One example a row; `collate` is told to what shape, one of a few. `sizes`, `weights`, `saving`: see
    `choose_buckets`. Raises UserError if there are no examples."""
    buckets, order = _buckets(sizes, batch_size, seed, what, weights, saving)
    shapes = buckets.shapes.tolist()

    def gather(batch: Batch) -> Made:
        return collate([examples[i] for i in batch.indices], shapes[batch.bucket])

    return Fed(_stream_of(order, gather), padding_share(sizes, *buckets, weights=weights))


def bucketed_for_each(
    learners: int,
    examples: Sequence[Example],
    sizes: Int[np.ndarray, "n k"],
    collate: Callable[[list[Example], Sequence[int]], Made],
    *,
    batch_size: int,
    seed: int,
    what: str,
    weights: Sequence[float] | None = None,
    saving: float = 0.05,
) -> Fed[tuple[Made, ...]]:
    """The same for several learners at once, each of which meets the examples in an order of its own.

    Batches of one step have one shape: an example changes places with another of its bucket. The first learner meets
    what `bucketed` feeds.
    """
    buckets, order = _buckets(sizes, batch_size, seed, what, weights, saving)
    shapes, places = buckets.shapes.tolist(), [_exchanged(buckets.assignment, seed, n) for n in range(learners)]

    def gather(batch: Batch) -> tuple[Made, ...]:
        shape = shapes[batch.bucket]
        return tuple(collate([examples[i] for i in place[batch.indices]], shape) for place in places)

    return Fed(_stream_of(order, gather), padding_share(sizes, *buckets, weights=weights))


def _buckets(
    sizes: Int[np.ndarray, "n k"],
    batch_size: int,
    seed: int,
    what: str,
    weights: Sequence[float] | None,
    saving: float,
) -> tuple[Buckets, BucketedOrder]:
    buckets = choose_buckets(sizes, weights=weights, saving=saving, least=batch_size)
    return buckets, BucketedOrder(buckets.assignment, batch_size, seed=seed, what=what)


def _exchanged(assignment: Int[np.ndarray, " n"], seed: int, number: int) -> Int[np.ndarray, " n"]:
    """For every example the one that stands in its place, out of the same bucket: of number 0, itself."""
    place, rng = np.arange(len(assignment)), np.random.default_rng((seed, number))
    for bucket in np.unique(assignment) if number else ():
        own = np.flatnonzero(assignment == bucket)
        place[own] = rng.permutation(own)
    return place


def packed(
    examples: Sequence[Example],
    lengths: Sequence[int],
    collate: Callable[[list[list[Example]]], Made],
    *,
    capacity: int,
    batch_size: int,
    seed: int,
    what: str,
) -> Fed[Made]:
    """Rows of `capacity` tokens, `batch_size` a batch; `collate` gets a list of examples for each.

    Raises UserError for an example that is longer than a row, and if there are none.
    """
    order = PackedOrder(lengths, capacity, batch_size, seed=seed, what=what)

    def gather(bins: list[list[int]]) -> Made:
        return collate([[examples[i] for i in chosen] for chosen in bins])

    return Fed(_stream_of(order, gather), order.padding_share)


def _stream_of(order: Order[Item], collate: Callable[[Item], Made]) -> Callable[[int], Stream[Made]]:
    return lambda start: ordered_batches(order, collate, start=start)


class Block(NamedTuple):
    """Examples to be computed at once, padded to `shape`; the last ones of a bucket are fewer than the `rows` it takes.

    `filled` repeats the first of them until there are as many, so that few programs are compiled.
    """

    indices: list[int]
    rows: int
    shape: list[int]

    @property
    def filled(self) -> list[int]:
        return self.indices + self.indices[:1] * (self.rows - len(self.indices))


def blocks(
    sizes: Int[np.ndarray, "n k"], *, weights: Sequence[float] | None = None, rows: int = 128, tokens: int = 16384
) -> list[Block]:
    """All examples once, in blocks of few shapes: what is scored or answered, and not trained on.

    A block has at most `rows` examples and, where each of them is shorter, at most `tokens` tokens: that bounds memory,
    however long the longest is. On a mesh each device gets as many. Raises UserError if there are no examples.
    """
    buckets, found = choose_buckets(sizes, weights=weights, saving=0.15), []
    for bucket, shape in enumerate(buckets.shapes.tolist()):
        own = np.flatnonzero(buckets.assignment == bucket).tolist()
        length = int(np.dot(shape, weights or [1] * len(shape)))
        at_once = rounded(max(1, min(rows, rounded(len(own)), tokens // length)), parts_of("rows"))
        found += [Block(own[i : i + at_once], at_once, shape) for i in range(0, len(own), at_once)]
    return found
