"""Streams and blocks: every example in its place, in few shapes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pe_rlhf_mm.data.streams import blocks, bucketed, packed
from pe_rlhf_mm.errors import UserError


def test_blocks_hold_every_example_once_and_fit_them() -> None:
    rng = np.random.default_rng(0)
    sizes = np.stack([rng.integers(1, 900, 700), rng.integers(1, 60, 700)], axis=1)
    found = blocks(sizes, weights=(1, 2), rows=32, tokens=8000)
    assert sorted(i for block in found for i in block.indices) == list(range(700))
    for block in found:
        assert (sizes[block.indices] <= block.shape).all()
        assert len(block.filled) == block.rows <= 32
        assert block.rows * (block.shape[0] + 2 * block.shape[1]) <= 8000
    assert 1 < len({tuple(block.shape) for block in found}) <= 4


def test_a_few_short_examples_are_one_block_in_their_order() -> None:
    (block,) = blocks(np.array([[5], [3], [7]]))
    assert (block.indices, block.rows, block.shape, block.filled) == ([0, 1, 2], 8, [8], [0, 1, 2, 0, 0, 0, 0, 0])


def test_one_example_longer_than_all_tokens_is_a_block_by_itself() -> None:
    found = blocks(np.array([[90], [90]]), tokens=10)
    assert [block.indices for block in found] == [[0], [1]]
    assert {block.rows for block in found} == {1}


def test_no_examples_are_refused() -> None:
    with pytest.raises(UserError, match="no examples"):
        blocks(np.zeros((0, 2), int))


def test_every_batch_is_collated_to_a_shape_that_holds_its_examples() -> None:
    sizes = np.array([[n % 100 + 1, 3] for n in range(500)])
    fed = bucketed(range(500), sizes, lambda group, shape: (group, shape), batch_size=16, seed=0, what="numbers")
    shapes = set()
    for group, shape in itertools.islice(fed.batches(0), 100):
        assert len(group) == 16
        assert (sizes[group] <= shape).all()
        shapes.add(tuple(shape))
    assert 1 < len(shapes) <= 4
    assert 0 < fed.padding_share < 0.4


def test_a_stream_goes_on_from_any_batch() -> None:
    def stream(start: int) -> list:
        fed = packed(
            "abcdefghij", [1, 2, 3, 4, 1, 2, 3, 4, 1, 2], lambda rows: rows, capacity=6, batch_size=2, seed=3,
            what="letters",
        )  # fmt: skip
        return list(itertools.islice(fed.batches(start), 6))

    assert stream(4) == list(itertools.islice(itertools.chain(stream(0)[4:], stream(6)), 6))
