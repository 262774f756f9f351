"""Batches in a seeded order that can be continued from any point, by Grain."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pe_rlhf_mm.errors import UserError

Example = TypeVar("Example")
Batch = TypeVar("Batch")


def batches(
    examples: Sequence[Example],
    collate: Callable[[list[Example]], Batch],
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    what: str = "examples",
) -> Iterator[Batch]:
    """Endless batches; every epoch is shuffled anew from the seed, and `start` skips batches already consumed.

    Raises UserError if there is nothing to draw from.
    """
    if not examples:
        raise UserError(f"there are no {what} to train on. Does the task's split have samples?")
    import grain

    source: grain.MapDataset = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    source = source.batch(batch_size, batch_fn=lambda group: collate(list(group)))
    return iter(source[start:].to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def pick(examples: Sequence[Example], count: int, *, seed: int) -> list[Example]:
    """`count` examples drawn from the seed, in their original order; all of them for 0, or if there are no more."""
    if not 0 < count < len(examples):
        return list(examples)
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]
