"""Advantages by groups and by value models: values worked out by hand, and plain loops in float64."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pe_rlhf_mm.algorithms import advantages

ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
WHOLE = jnp.ones((3, 2), bool)
ONE = jnp.zeros((3, 2), int)
"""One scope: a whole completion."""


def alike(values: list[float]) -> jax.Array:
    """Returns of completions of two tokens, the same for both."""
    return jnp.broadcast_to(jnp.array(values)[:, None], (len(values), 2))


# --- groups -----------------------------------------------------------------------------------------------------


def test_a_group_is_measured_by_its_mean_and_in_its_deviations() -> None:
    """1, 2 and 6: the mean is 3, the squares 4, 1 and 9, so the deviation is √(14 / 2)."""
    above = np.array([[-2.0] * 2, [-1] * 2, [3] * 2])
    np.testing.assert_allclose(advantages.above_the_mean(alike([1, 2, 6]), ONE, WHOLE), above, **ROUNDING)
    found = advantages.standardized(alike([1, 2, 6]), ONE, WHOLE, least=0.5)
    np.testing.assert_allclose(found, above / (np.sqrt(7) + 0.5), **ROUNDING)


def test_the_return_of_the_first_token_is_that_of_the_whole_completion() -> None:
    """What was earned before a token, as a penalty on the first, is its own as much as what comes after."""
    returns = jnp.array([[1.0, 9], [2, -9], [6, 0]])
    np.testing.assert_allclose(advantages.above_the_mean(returns, ONE, WHOLE)[:, 1], [-2, -1, 3], **ROUNDING)


@pytest.mark.parametrize("reward", [0.1, 1 / 3, -7e5])
@pytest.mark.parametrize("measure", [advantages.standardized, advantages.above_the_mean])
def test_equal_rewards_are_worth_exactly_nothing(measure: Callable, reward: float) -> None:
    """Ten times 0.1 is not 1 in float32, and a deviation of 0 is no divisor."""
    for size in range(2, 12):
        shape = (size, 2)
        assert (measure(jnp.full(shape, reward), jnp.zeros(shape, int), jnp.ones(shape, bool)) == 0).all()


def test_a_group_learns_the_same_whatever_is_added_to_its_rewards_or_multiplies_them() -> None:
    returns, ones = jax.random.normal(jax.random.key(0), (5, 4, 2)), jnp.ones((5, 4, 2), bool)
    scope = jnp.zeros(ones.shape, int)
    found = advantages.standardized(returns, scope, ones)
    np.testing.assert_allclose(advantages.standardized(returns + 10, scope, ones), found, atol=1e-4)
    np.testing.assert_allclose(advantages.standardized(returns * 100, scope, ones), found, atol=2e-3)  # by ε
    np.testing.assert_allclose(found.std(axis=1, ddof=1)[:, 0], 1, atol=2e-3)
    above = advantages.above_the_mean(returns, scope, ones)
    np.testing.assert_allclose(advantages.above_the_mean(returns * 100, scope, ones), 100 * above, rtol=1e-4, atol=1e-4)


def test_the_mean_of_the_group_is_that_of_the_others_shrunk() -> None:
    returns, ones = jax.random.normal(jax.random.key(1), (6, 4, 1)), jnp.ones((6, 4, 1), bool)
    scope = jnp.zeros(ones.shape, int)
    others = advantages.above_the_others(returns, scope, ones)
    np.testing.assert_allclose(advantages.above_the_mean(returns, scope, ones), 0.75 * others, **ROUNDING)


def test_masked_completions_are_in_no_mean_and_one_alone_learns_nothing() -> None:
    """1 and 3 are known, or 7 alone; then nothing."""
    mask = jnp.array([[[True], [False], [True]], [[True], [False], [False]], [[False]] * 3])
    returns, scope = jnp.array([[[1.0], [jnp.nan], [3]], [[7], [8], [9]], [[1], [2], [3]]]), jnp.zeros((3, 3, 1), int)
    above = [[[-1], [0], [1]], [[0], [0], [0]], [[0], [0], [0]]]
    assert advantages.above_the_mean(returns, scope, mask).tolist() == above
    found = advantages.standardized(returns, scope, mask, least=0.0001)
    np.testing.assert_allclose(found, np.array(above) / np.sqrt(2), rtol=1e-3)


def test_the_best_of_a_group_and_its_worst_are_a_pair() -> None:
    """Whole returns 2, 5, 1, of which the first token tells; then the first of two that are best, and of two worst."""
    returns = jnp.array([[[2.0, 9], [5, -9], [1, 0]], [[3, 3], [7, 7], [7, 7]], [[7, 7], [3, 3], [3, 3]]])
    scope, mask = jnp.zeros(returns.shape, int), jnp.ones(returns.shape, bool).at[0, 1, 1].set(False)
    found = advantages.best_and_worst(returns, scope, mask)
    assert found[..., 0].tolist() == [[0, 1, -1], [-1, 1, 0], [1, -1, 0]]
    assert found[0].tolist() == [[0, 0], [1, 0], [-1, -1]]


def test_the_best_of_a_group_is_weighted_by_how_often_it_would_be_taken() -> None:
    """Whole returns 2, 5, 1, of which the first token tells; two that tie for best, by rounding too; and all alike."""
    returns = jnp.array([[[2.0, 9], [5, -9], [1, 0]], [[3, 3], [7, 7], [7 - 1 / 64, 7]], [[7, 7]] * 3])
    scope, mask = jnp.zeros(returns.shape, int), jnp.ones(returns.shape, bool).at[0, 1, 1].set(False)
    found = advantages.best_of_group(returns, scope, mask, least=1 / 32)
    assert found.tolist() == [[[0, 0], [3, 0], [0, 0]], [[0, 0], [1.5, 1.5], [1.5, 1.5]], [[0, 0]] * 3]


def test_of_a_group_in_which_little_is_known_the_best_of_that_is_taken() -> None:
    """The best is unknown; all but one are; all are. What is unknown is not worth 0, which would be better than -2."""
    returns = jnp.array([[-3, 9, -2], [1, jnp.nan, 9], [1, 2, 3]])[..., None]
    known = jnp.array([[1, 0, 1], [1, 0, 0], [0, 0, 0]], bool)[..., None]
    found = advantages.best_of_group(returns, jnp.zeros(known.shape, int), known)
    assert found[..., 0].tolist() == [[0, 0, 2], [0] * 3, [0] * 3]


def test_replies_that_are_apart_by_rounding_and_those_that_nothing_is_known_of_are_no_pair() -> None:
    """Apart by 1/16 and by 1/64; of three the best is unknown, of others all but one, or all."""
    returns = jnp.array([[0.0, 1 / 16, 0], [0, 1 / 64, 0], [1, 9, 2], [1, jnp.nan, 9], [1, 2, 3]])[..., None]
    known = jnp.array([[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]], bool)[..., None]
    found = advantages.best_and_worst(returns, jnp.zeros(known.shape, int), known, least=1 / 32)
    assert found[..., 0].tolist() == [[-1, 1, 0], [0] * 3, [-1, 0, 1], [0] * 3, [0] * 3]


def test_turns_that_are_rewarded_one_by_one_are_measured_against_all_turns_of_the_group() -> None:
    """Two episodes, of two turns and of one: 1, 5 and 3, whose mean is 3 and whose deviation is 2."""
    mask = jnp.array([[True, True, True], [True, True, False]])
    scope, returns = jnp.array([[0, 0, 1], [0, 0, -1]]), jnp.array([[1.0, 1, 5], [3, 3, 99]])
    assert advantages.above_the_mean(returns, scope, mask).tolist() == [[-2, -2, 2], [0, 0, 0]]
    np.testing.assert_allclose(advantages.standardized(returns, scope, mask), [[-1, -1, 1], [0, 0, 0]], atol=1e-4)


def test_an_episode_of_several_turns_is_ranked_by_their_mean() -> None:
    """1 and 6 are better than 3, though 1 is the least of all."""
    mask = jnp.array([[True, True, True], [True, True, False]])
    scope, returns = jnp.array([[0, 0, 1], [0, 0, -1]]), jnp.array([[1.0, 1, 6], [3, 3, 99]])
    assert advantages.best_and_worst(returns, scope, mask).tolist() == [[1, 1, 1], [-1, -1, 0]]
    assert advantages.best_of_group(returns, scope, mask).tolist() == [[2, 2, 2], [0, 0, 0]]


# --- value models -----------------------------------------------------------------------------------------------


def brute_force(
    rewards: np.ndarray, values: np.ndarray, beyond: float, turn: np.ndarray, gamma: float, decay: float, by_turn: bool
) -> np.ndarray:
    """Σ_l Π(γλ) δ[t+l], term by term, of one unpadded episode; γ acts between turns, λ between tokens or turns."""
    after = [*values[1:], beyond]
    later = [*turn[1:], turn[-1] + 1]
    step = [gamma ** (later[t] - turn[t]) for t in range(len(values))]
    surprise = [rewards[t] + step[t] * after[t] - values[t] for t in range(len(values))]
    found = np.zeros(len(values))
    for t in range(len(values)):
        for s in range(t, len(values)):
            weight = 1.0
            for u in range(t, s):
                weight *= step[u] * (decay if not by_turn or later[u] != turn[u] else 1.0)
            found[t] += weight * surprise[s]
    return found


TURN = np.array([[0, 0, 1, 1, 1, 2], [0, 1, 1, -1, -1, -1]])
MASK = jnp.array([[True] * 6, [True] * 3 + [False] * 3])
BEYOND = np.array([0.0, 2.5], np.float32)
"""The first episode has ended; the second one was cut."""


@pytest.mark.parametrize("by_turn", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_generalised_estimates_equal_the_double_sum(gamma: float, decay: float, by_turn: bool) -> None:
    rewards, values = (np.asarray(jax.random.normal(jax.random.key(k), (2, 6))) for k in (2, 3))
    scope, turn = jnp.zeros((2, 6), int), jnp.asarray(TURN)
    discount = advantages.discounts(turn, scope, MASK, gamma)
    trace = advantages.traces(turn, MASK, decay) if by_turn else decay
    found = advantages.generalized(rewards, values, BEYOND, discount, trace, MASK)
    for row, n in enumerate((6, 3)):
        given = (rewards[row, :n], values[row, :n], BEYOND[row], TURN[row, :n], gamma, decay, by_turn)
        np.testing.assert_allclose(found[row, :n], brute_force(*given), **ROUNDING)
    assert (found[1, 3:] == 0).all()


def test_with_lambda_1_they_are_returns_less_values() -> None:
    rewards, values = (jax.random.normal(jax.random.key(k), (2, 6)) for k in (4, 5))
    rewards = jnp.where(MASK, rewards, 0)
    scope, turn = jnp.zeros((2, 6), int), jnp.asarray(TURN)
    discount = advantages.discounts(turn, scope, MASK, 0.7)
    found = advantages.generalized(rewards, values, jnp.zeros(2), discount, 1.0, MASK)
    expected = advantages.returns_within(rewards, scope, turn, 0.7) - values
    np.testing.assert_allclose(found, jnp.where(MASK, expected, 0), **ROUNDING)


def test_nothing_passes_from_one_scope_to_the_next() -> None:
    """Turns of two tokens and of one, each judged by itself, at λ = 1: what is earned in the turn, less V."""
    turn, mask = jnp.array([[0, 0, 1]]), jnp.ones((1, 3), bool)
    rewards, values = jnp.array([[0.0, 4, 7]]), jnp.array([[1.0, 2, 3]])
    discount = advantages.discounts(turn, turn, mask, 0.5)
    assert discount.tolist() == [[1, 0, 0.5]]
    found = advantages.generalized(rewards, values, jnp.zeros(1), discount, 1.0, mask)
    assert found.tolist() == [[3, 2, 4]]


def test_by_turns_an_estimate_is_that_of_a_game_whose_moves_are_turns() -> None:
    """At the first token of each turn: two moves that earn 1 + 2 and 8, with V = 5 and 6 before them, γ = λ = ½.

    The second is worth 8 - 6 = 2, the first 3 + ½ · 6 - 5 + ¼ · 2 = 1.5, whatever V says within a turn.
    """
    turn, mask = jnp.array([[0, 0, 1, 1]]), jnp.ones((1, 4), bool)
    rewards = jnp.array([[1.0, 2, 0, 8]])
    discount = advantages.discounts(turn, jnp.zeros_like(turn), mask, 0.5)
    for within in (0.0, 77.0):
        values = jnp.array([[5.0, within, 6, within]])
        found = advantages.generalized(
            rewards, values, jnp.zeros(1), discount, advantages.traces(turn, mask, 0.5), mask
        )
        assert advantages.at_first(found, turn, mask).tolist() == [[1.5, 1.5, 2, 2]]


def test_whitening_leaves_mean_zero_and_variance_one_over_what_is_known() -> None:
    """1, 3 and 8 over the unmasked: mean 4, variance 26 / 3. What is masked counts for nothing, and becomes 0."""
    mask = jnp.array([[True, True, False], [True, False, False]])
    found = advantages.whitened(jnp.array([[1.0, 3, jnp.nan], [8, 50, 60]]), mask)
    deviation = np.sqrt(26 / 3)
    np.testing.assert_allclose(found, [[-3 / deviation, -1 / deviation, 0], [4 / deviation, 0, 0]], **ROUNDING)
    assert (advantages.whitened(jnp.full((2, 3), 0.3), mask) == 0).all()
