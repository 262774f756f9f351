"""The best of k tries, from n of them: what a second try is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence


def expected_best(values: Sequence[float], k: int) -> float:
    """The mean, over all choices of k out of n values, of the largest one.

        sum over i from k to n of C(i - 1, k - 1) / C(n, k) * v_i,     v_1 <= .. <= v_n

    Of values that are 0 or 1, c of which are 1, it is pass@k = 1 - C(n - c, k) / C(n, k) (Chen et al., 2021, arXiv
    2107.03374, equation 1), which has no bias. Raises ValueError for fewer than k values.
    """
    if not 1 <= k <= len(values):
        raise ValueError(f"the best of {k} out of {len(values)} values")
    ways = math.comb(len(values), k)
    return math.fsum(
        math.comb(i - 1, k - 1) / ways * value for i, value in enumerate(sorted(values), start=1) if i >= k
    )


def told_of(repeats: int) -> list[int]:
    """Every k that a table tells of: the powers of two, and the number of tries."""
    return sorted({2**power for power in range(1, repeats.bit_length()) if 2**power <= repeats} | {repeats} - {1})
