"""Clustered confidence intervals: by hand, in loops, and by counting how often they hold."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from pe_rlhf_mm.evaluation.intervals import clustered_mean, mean_of_repeats


def test_two_clusters_by_hand() -> None:
    """Draws of two from {aaa = 1 1 1, b = 0}: both a (1/4), one each (1/2), both b (1/4); means 1, 3/4, 0.

    More than 2.5 % of the draws lie at either end. Drawn one by one instead, 0 0 0 0 comes up once in 256 times.
    """
    assert clustered_mean([1, 1, 1, 0], ["a", "a", "a", "b"]) == (0.75, (0.0, 1.0))


def random_clusters(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Values around 0 that share an effect with their cluster, of 1 to 9 values."""
    clusters = np.repeat(np.arange(count), rng.integers(1, 10, count))
    return rng.normal(size=count)[clusters] + rng.normal(size=len(clusters)), clusters


def test_the_interval_agrees_with_a_bootstrap_in_loops() -> None:
    """Of 2,000 draws an end is off by √(.025·.975/2000) / .058 = 0.06 standard errors; it may be four times that."""
    values, clusters = random_clusters(np.random.default_rng(1), 60)
    groups: dict[int, list[float]] = {}
    for value, cluster in zip(values.tolist(), clusters.tolist(), strict=True):
        groups.setdefault(cluster, []).append(value)
    draw, means = random.Random(2), []
    for _ in range(20_000):
        drawn = [value for group in draw.choices(list(groups.values()), k=len(groups)) for value in group]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    mean, (low, high) = clustered_mean(values, clusters)
    overall = sum(values.tolist()) / len(values)
    error = math.sqrt(sum(sum(v - overall for v in group) ** 2 for group in groups.values())) / len(values)
    assert mean == pytest.approx(overall, abs=1e-12)
    assert low == pytest.approx(means[500], abs=0.25 * error)
    assert high == pytest.approx(means[19_500], abs=0.25 * error)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_the_interval_covers_the_truth_and_the_naive_one_does_not() -> None:
    covered, naive = 0, 0
    for seed in range(2000):
        values, clusters = random_clusters(np.random.default_rng(seed), 60)
        _, (low, high) = clustered_mean(values, clusters, seed=seed)
        covered += low <= 0 <= high
        naive += abs(values.mean()) <= 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert 0.93 <= covered / 2000 <= 0.97
    assert naive / 2000 < 0.8


def test_one_cluster_says_nothing_about_the_spread() -> None:
    mean, interval = clustered_mean([0, 1, 1, 1], ["a"] * 4)
    assert mean == 0.75
    assert np.isnan(interval).all()


def test_equal_values_are_no_certainty() -> None:
    """Three clusters are all right: so they are with 2.5 % where 0.292 = .025^(1/3) of all are, the others wrong."""
    agreeing, clusters = [1.0] * 5, ["a", "a", "b", "c", "c"]
    mean, interval = clustered_mean(agreeing, clusters, bounds=(0, 1))
    assert (mean, interval) == (1.0, pytest.approx((0.29240, 1.0), abs=1e-5))
    assert clustered_mean([0.0] * 5, clusters, bounds=(0, 1))[1] == pytest.approx((0.0, 0.70760), abs=1e-5)
    assert clustered_mean([0.0] * 5, clusters, bounds=(-1, 1))[1] == pytest.approx((-0.70760, 0.70760), abs=1e-5)
    assert np.isnan(clustered_mean(agreeing, clusters)[1]).all(), "nobody knows how far others may lie"


def test_clusters_that_agree_within_half_right_are_no_certainty_either() -> None:
    """Of each of two clusters one of two is right; others might be all right: up to 1/2 + 1/2 (1 - .025^(1/2))."""
    _, interval = clustered_mean([0, 1, 1, 0], ["a", "a", "b", "b"], bounds=(0, 1))
    assert interval == pytest.approx((0.07906, 0.92094), abs=1e-5)


def test_the_interval_of_agreement_holds_what_it_promises() -> None:
    """Of 30 clusters, each right with probability .025^(1/30), all are right in one of 40 times: the end of the
    interval is the truth that can just not be ruled out."""
    low = clustered_mean([1.0] * 30, [str(i) for i in range(30)], bounds=(0, 1))[1].low
    agreed = (np.random.default_rng(0).random((200_000, 30)) < low).all(axis=1).mean()
    assert agreed == pytest.approx(0.025, abs=4 * math.sqrt(0.025 * 0.975 / 200_000))


def test_no_values_have_no_mean() -> None:
    mean, interval = clustered_mean([], [])
    assert math.isnan(mean)
    assert np.isnan(interval).all()


def test_names_and_order_of_clusters_do_not_matter() -> None:
    values, clusters = [1, 0, 0, 1, 1, 0], ["a", "a", "b", "b", "c", "d"]
    order = [3, 5, 0, 2, 4, 1]
    shuffled = clustered_mean([values[i] for i in order], [clusters[i] for i in order])
    assert shuffled == clustered_mean(values, clusters)
    assert clustered_mean(values, [f"picture {c}" for c in clusters]) == clustered_mean(values, clusters)


def test_repeats_are_few_and_their_interval_is_that_of_student() -> None:
    # 4.30265 at 97.5 % with 2 degrees of freedom, from a printed table; the deviation of 1, 2, 3 is 1.
    mean, (low, high) = mean_of_repeats([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-5)
    assert mean_of_repeats([1.0, 2.0, 3.0], bounds=(0.0, 3.0))[1] == pytest.approx((0.0, 3.0))


@pytest.mark.parametrize("values", [[], [0.4]])
def test_of_one_repeat_nothing_can_be_said(values: list[float]) -> None:
    mean, ends = mean_of_repeats(values)
    assert np.array_equal([mean, *ends], [*(values or [np.nan]), np.nan, np.nan], equal_nan=True)
