"""Orders: nothing lost or doubled, the same from anywhere, and shapes that waste least by trying all of them."""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
from collections import Counter

import numpy as np
import pytest

from pe_rlhf_mm.data.order import BucketedOrder, PackedOrder, choose_buckets, padding_share, shuffled
from pe_rlhf_mm.errors import UserError


def sizes(n: int, *, seed: int, top: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, top, (n, 2))


def row_by_row(order: BucketedOrder, count: int) -> list[tuple[int, list[int]]]:
    return [(order[k].bucket, order[k].indices.tolist()) for k in range(count)]


# --- the shuffled stream ----------------------------------------------------------------------------------------


def test_every_epoch_of_the_stream_has_everything_once_in_an_order_of_its_own() -> None:
    stream = shuffled(50, 3)
    epochs = [[stream[i] for i in range(50 * e, 50 * e + 50)] for e in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_stream_is_the_one_that_runs_have_always_had() -> None:
    """Written down from the version before orders: a run that goes on under a new one sees the same examples."""
    order = BucketedOrder(np.zeros(11, int), 4, seed=7)
    assert [order[k].indices.tolist() for k in range(5)] == [
        [7, 9, 0, 8], [4, 2, 5, 6], [10, 1, 3, 6], [0, 4, 2, 7], [9, 1, 10, 8],
    ]  # fmt: skip
    order = BucketedOrder(np.zeros(100_000, int), 5, seed=1234)
    assert order[39_999].indices.tolist() == [12695, 29936, 62687, 51845, 23932]


# --- buckets ----------------------------------------------------------------------------------------------------


def work(row: tuple[int, int]) -> int:
    return row[0] + 2 * row[1]


def cuts_of(rows: list[tuple[int, int]], most: int) -> list[list[list[tuple[int, int]]]]:
    """All ways to cut a sorted list into up to `most` pieces, between rows of different work."""
    places = [i for i in range(1, len(rows)) if work(rows[i - 1]) < work(rows[i])]
    return [
        [rows[a:b] for a, b in itertools.pairwise([0, *where, len(rows)])]
        for pieces in range(most)
        for where in itertools.combinations(places, pieces)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_buckets_are_the_cheapest_of_all(seed: int) -> None:
    """One size: against every choice of shapes. The price of a bucket is 5% of the work of a single one."""
    lengths = np.random.default_rng(seed).integers(1, 100, (9, 1))
    found = choose_buckets(lengths, most=3, saving=0.05)
    padded = sorted(int(-(-n // 8) * 8) for n in lengths[:, 0])
    price = 0.05 * 9 * padded[-1]
    costs = []
    for shapes in itertools.chain.from_iterable(itertools.combinations(sorted(set(padded)), m) for m in (1, 2, 3)):
        if shapes[-1] == padded[-1]:
            costs.append(sum(min(s for s in shapes if s >= n) for n in padded) + price * len(shapes))
    ours = found.shapes[found.assignment].sum() + price * len(found.shapes)
    assert ours == pytest.approx(min(costs))


@pytest.mark.parametrize("seed", range(10))
def test_buckets_of_two_sizes_are_no_worse_than_the_best_cut(seed: int) -> None:
    """A prompt and two replies: work = prompt + 2 · reply, each rounded up to eights."""
    given = sizes(8, seed=seed)
    found = choose_buckets(given, weights=(1, 2), most=3, saving=0.0)
    rows = sorted((tuple(int(-(-n // 8) * 8) for n in row) for row in given), key=work)
    best = min(
        sum(len(piece) * (max(r[0] for r in piece) + 2 * max(r[1] for r in piece)) for piece in cut)
        for cut in cuts_of(rows, 3)
    )
    assert (found.shapes[found.assignment] @ [1, 2]).sum() <= best
    assert len(found.shapes) <= 3


def test_buckets_by_hand() -> None:
    """Ten of (16, 8), ten of (64, 8), one of (40, 8): alone it would save 24, less than a twentieth of 21 · 72."""
    given = np.array([[13, 8]] * 10 + [[64, 3]] * 10 + [[40, 1]])
    found = choose_buckets(given, saving=0.05)
    assert found.shapes.tolist() == [[16, 8], [64, 8]]
    assert found.assignment.tolist() == [0] * 10 + [1] * 11
    assert len(choose_buckets(given, saving=0.01).shapes) == 3
    assert choose_buckets(given, most=1).shapes.tolist() == [[64, 8]]
    assert padding_share(given, found.shapes, found.assignment) == pytest.approx(1 - (210 + 670 + 41) / (240 + 792))
    assert padding_share(given, found.shapes, found.assignment, weights=(1, 2)) == pytest.approx(
        1 - (290 + 700 + 42) / (320 + 880)
    )


def test_an_example_goes_into_a_cheaper_bucket_that_it_fits() -> None:
    """Sorted by work the best cut is forty of 40 | 48, 56, 80: (32, 24) fits what the forty are padded to."""
    given = np.array([[8, 32], [32, 8]] * 20 + [[48, 0], [32, 24], [80, 0]])
    found = choose_buckets(given, most=2, saving=0.0)
    assert found.shapes.tolist() == [[32, 32], [80, 0]]
    assert found.assignment.tolist() == [0] * 40 + [1, 0, 1]
    kept = choose_buckets(given, most=2, saving=0.0, least=3)  # without it the other bucket would have but two
    assert kept.shapes.tolist() == [[32, 32], [80, 24]]
    assert kept.assignment.tolist() == [0] * 40 + [1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [1, 16])
def test_every_example_fits_its_bucket_and_no_bucket_is_small(seed: int, least: int) -> None:
    given = sizes(200, seed=seed, top=500)
    found = choose_buckets(given, most=6, saving=0.0, least=least)
    assert (given <= found.shapes[found.assignment]).all()
    assert (found.shapes % 8 == 0).all()
    assert np.bincount(found.assignment, minlength=len(found.shapes)).min() >= least
    assert len(found.shapes) > 2


def test_more_lengths_than_cuts() -> None:
    """2,000 distinct lengths, and one twice as long: the buckets still hold every one of them."""
    lengths = np.array([*range(8, 16_001, 8), 32_000])[:, None]
    found = choose_buckets(lengths, most=8, saving=0.0)
    assert (lengths <= found.shapes[found.assignment]).all()
    assert padding_share(lengths, found.shapes, found.assignment) < 0.13  # seven equal ones, and the long one: 1/8


def test_nothing_to_choose_from_is_said() -> None:
    with pytest.raises(UserError, match="there are no examples"):
        choose_buckets(np.zeros((0, 2), int))


# --- batches of one bucket --------------------------------------------------------------------------------------


@functools.cache
def naive(assignment: tuple[int, ...], size: int, seed: int, epochs: int) -> list[tuple[int, list[int]]]:
    """Queues filled from the stream, from its beginning."""
    queues: dict[int, list[int]] = {}
    stream, batches = shuffled(len(assignment), seed), []
    for i in range(epochs * len(assignment)):
        queue = queues.setdefault(assignment[stream[i]], [])
        queue.append(stream[i])
        if len(queue) == size:
            batches.append((assignment[stream[i]], list(queue)))
            queue.clear()
    return batches


CASES = {
    "three buckets": tuple(i % 3 for i in range(50)),
    "a rare bucket": tuple(int(i == 7) for i in range(30)),  # in whose batches one example stands again and again
    "fewer than a batch": (0, 1, 0),
    "a bucket without examples": tuple(2 * (i % 2) for i in range(20)),
    "one": (0,),
}


@pytest.mark.parametrize("case", CASES)
def test_batches_are_those_of_queues_filled_from_the_beginning(case: str) -> None:
    assignment = CASES[case]
    expected = naive(assignment, 4, seed=5, epochs=12)
    assert row_by_row(BucketedOrder(np.array(assignment), 4, seed=5), len(expected)) == expected


@pytest.mark.parametrize("case", CASES)
def test_any_batch_is_the_same_whatever_was_asked_for_before(case: str) -> None:
    assignment = np.array(CASES[case])
    expected = naive(CASES[case], 4, seed=5, epochs=12)
    order = BucketedOrder(assignment, 4, seed=5)
    for k in np.random.default_rng(0).integers(0, len(expected), 12).tolist():
        batch, fresh = order[k], BucketedOrder(assignment, 4, seed=5)[k]
        assert (batch.bucket, batch.indices.tolist()) == expected[k] == (fresh.bucket, fresh.indices.tolist())


def test_orders_travel_and_go_on() -> None:
    bucketed = BucketedOrder(np.array(CASES["three buckets"]), 4, seed=5)
    packed = PackedOrder([3, 4, 5] * 20, 16, 4, seed=5)
    before = [str(bucketed[k]) + str(packed[k]) for k in range(30)]
    for made in (pickle.loads(pickle.dumps((bucketed, packed))), (copy.copy(bucketed), copy.copy(packed))):
        assert [str(made[0][k]) + str(made[1][k]) for k in range(30)] == before


def test_nothing_to_train_on_is_said_by_name() -> None:
    with pytest.raises(UserError, match="there are no pairs to train on"):
        BucketedOrder(np.zeros(0, int), 4, seed=0, what="pairs")
    with pytest.raises(UserError, match="there are no pairs to train on"):
        PackedOrder([], 8, 4, seed=0, what="pairs")


# --- packing ----------------------------------------------------------------------------------------------------


def bins_of(order: PackedOrder, batches: int) -> list[list[int]]:
    return [row for k in range(batches) for row in order[k]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("capacity", "window"), [(60, 8), (59, 1), (500, 64)])
def test_packing_loses_and_repeats_nothing_within_an_epoch(seed: int, capacity: int, window: int) -> None:
    lengths = sizes(200, seed=seed)[:, 0].tolist()
    order = PackedOrder(lengths, capacity, 4, seed=seed, window=window)
    bins = bins_of(order, 100)
    assert all(0 < sum(lengths[i] for i in row) <= capacity for row in bins)
    seen: list[int] = []
    epochs = 0
    for row in bins:
        seen += row
        if len(seen) == 200:
            assert Counter(seen) == Counter(range(200))
            seen, epochs = [], epochs + 1
    assert epochs >= 2


def test_every_epoch_is_packed_in_an_order_of_its_own() -> None:
    order = PackedOrder([5] * 30, 10, 15, seed=0)  # a batch an epoch: two of equal length a bin, as the stream has them
    assert len({str(order[k]) for k in range(4)}) == 4


def test_first_fit_by_hand() -> None:
    """Capacity 10, in the order of the stream, two open bins: where neither has room, the fuller one is closed."""
    stream = shuffled(6, 0)
    by_turn = [6, 7, 3, 4, 2, 5]  # 6 | 7 -> 6 7; 3 into the first, 4 nowhere: closes 6+3; 2 into 7; 5 into 4
    lengths = [0] * 6
    for turn, length in enumerate(by_turn):
        lengths[stream[turn]] = length
    order = PackedOrder(lengths, 10, 1, seed=0, window=2)
    found = [[lengths[i] for i in order[k][0]] for k in range(3)]
    assert found == [[6, 3], [7, 2], [4, 5]]
    assert order.padding_share == pytest.approx(1 - 27 / 30)


def test_packing_wastes_little() -> None:
    lengths = sizes(2000, seed=0)[:, 0].tolist()
    share = PackedOrder(lengths, 512, 4, seed=0).padding_share
    assert 0 <= share < 0.04  # 512 less some 17 examples of 1 to 59: with one open bin it is about 5%
    assert share < PackedOrder(lengths, 512, 4, seed=0, window=1).padding_share


def test_any_packed_batch_is_the_same_whatever_was_asked_for_before() -> None:
    lengths = sizes(90, seed=1)[:, 0].tolist()
    expected = [PackedOrder(lengths, 100, 8, seed=2)[k] for k in range(20)]
    order = PackedOrder(lengths, 100, 8, seed=2)
    for k in np.random.default_rng(0).permutation(20).tolist():
        assert order[k] == expected[k]
    assert [b for k in range(4) for b in PackedOrder(lengths, 100, 8, seed=3)[k]] != bins_of(order, 4)


def test_an_example_that_no_bin_holds_is_named() -> None:
    with pytest.raises(UserError, match="number 2 of the demonstrations has 17 tokens, and a row holds 16"):
        PackedOrder([3, 16, 17, 5], 16, 2, seed=0, what="demonstrations")
