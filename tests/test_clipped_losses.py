"""Losses with ratios: by hand, against plain loops, and in which direction they stop to pull."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pe_rlhf_mm.algorithms import losses, masked, ratios

MASK = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
"""Completions of 3, 1, 0 and 2 tokens."""
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
CLIP, LONGEST = 0.2, 4
LOSSES: dict[str, Callable] = {
    "ppo": lambda *given: losses.ppo(*given, CLIP),
    "grpo": lambda *given: losses.grpo(*given, CLIP),
    "dr-grpo": lambda *given: losses.dr_grpo(*given, CLIP, LONGEST),
}
each = pytest.mark.parametrize("name", LOSSES)


def numbers(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), MASK.shape)


def plain_loop(name: str, now: np.ndarray, then: np.ndarray, gain: np.ndarray) -> float:
    """Token by token in float64."""
    rows = []
    for row in range(len(now)):
        terms = []
        for t in range(now.shape[1]):
            if MASK[row, t]:
                rho = np.exp(float(now[row, t]) - float(then[row, t]))
                kept = min(max(rho, 1 - CLIP), 1 + CLIP)
                terms.append(max(-rho * float(gain[row, t]), -kept * float(gain[row, t])))
        if terms:
            rows.append(sum(terms) / {"ppo": 1, "grpo": len(terms), "dr-grpo": LONGEST}[name])
    return sum(rows) / len(rows)


@each
@pytest.mark.parametrize("seed", range(4))
def test_losses_equal_plain_loops(name: str, seed: int) -> None:
    now, then, gain = numbers(seed), numbers(seed) + 0.3 * numbers(seed + 10), numbers(seed + 20)
    np.testing.assert_allclose(LOSSES[name](now, then, gain, MASK), plain_loop(name, now, then, gain), **ROUNDING)


@each
def test_where_nothing_has_moved_the_gradient_is_that_of_reinforce(name: str) -> None:
    """Σ_t A ∇log π, divided by what the loss divides by."""
    now, gain = numbers(1), numbers(2)
    slope, none = jax.grad(LOSSES[name], (0, 2))(now, now, gain, MASK)
    expected = jax.grad(losses.reinforce)(now, gain, MASK)
    length = np.maximum(np.asarray(MASK).sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(slope, expected / {"ppo": 1, "grpo": length, "dr-grpo": LONGEST}[name], **ROUNDING)
    assert (none == 0).all()
    assert (jax.grad(LOSSES[name], 1)(now, now, gain, MASK) == 0).all()  # what was then is a constant


@each
@pytest.mark.parametrize(
    ("moved", "gain", "pulls"),
    [
        (0.3, 1.0, False),
        (0.3, -1.0, True),
        (-0.3, 1.0, True),
        (-0.3, -1.0, False),
        (0.1, 1.0, True),
        (-0.1, -1.0, True),
    ],
)
def test_only_what_went_far_enough_the_right_way_is_left_alone(
    name: str, moved: float, gain: float, pulls: bool
) -> None:
    """exp(±0.3) lies outside of 1 ± 0.2; exp(±0.1) within."""
    then = numbers(3)
    slope = jax.grad(LOSSES[name])(then + moved, then, jnp.full(MASK.shape, gain), MASK)
    assert ((slope != 0) == (MASK & pulls)).all()
    assert (jnp.sign(slope) == jnp.where(MASK & pulls, -jnp.sign(gain), 0)).all()


@each
def test_equal_rewards_and_empty_batches_move_nothing(name: str) -> None:
    for gain, mask in ((jnp.zeros(MASK.shape), MASK), (numbers(1), jnp.zeros(MASK.shape, bool))):
        cost, slope = jax.value_and_grad(LOSSES[name])(numbers(4), numbers(5), gain, mask)
        assert cost == 0
        assert (slope == 0).all()


@each
def test_impossible_tokens_under_the_mask_and_more_padding_change_nothing(name: str) -> None:
    now, then, gain = numbers(6), numbers(7), numbers(8)
    cost, slope = jax.value_and_grad(LOSSES[name])(now, then, gain, MASK)
    hidden = (jnp.where(MASK, now, -jnp.inf), jnp.where(MASK, then, -jnp.inf), gain, MASK)
    wide = [jnp.pad(x, ((0, 2), (0, 3)), constant_values=-9.0) for x in (now, then, gain)]
    wide_mask = jnp.pad(MASK, ((0, 2), (0, 3)))
    for given in (hidden, (*wide, wide_mask)):
        other, its = jax.value_and_grad(LOSSES[name])(*given)
        np.testing.assert_allclose(other, cost, **ROUNDING)
        np.testing.assert_allclose(its[:4, :4], slope, **ROUNDING)
        assert jnp.isfinite(its).all()


def test_by_grpo_long_completions_weigh_as_much_as_short_ones_and_by_dr_grpo_by_their_length() -> None:
    """Two completions of 1 and of 3 tokens, A = 1, ρ = 1."""
    mask = jnp.array([[True, False, False], [True, True, True]])
    x = jnp.zeros(mask.shape)
    slope = jax.grad(lambda now: losses.grpo(now, x, x + 1, mask, CLIP))(x)
    np.testing.assert_allclose(slope.sum(axis=1), [-0.5, -0.5], **ROUNDING)
    slope = jax.grad(lambda now: losses.dr_grpo(now, x, x + 1, mask, CLIP, 10))(x)
    np.testing.assert_allclose(slope.sum(axis=1), [-0.05, -0.15], **ROUNDING)


def test_importance_weights_are_truncated_constants() -> None:
    """Ratios of ½, 1, 1.5 and 8, at most 2; padding weighs 1."""
    now = jnp.log(jnp.array([[0.5, 1.0, 1.5, 8.0, 3.0]]))
    mask, then = jnp.array([[True] * 4 + [False]]), jnp.zeros((1, 5))
    np.testing.assert_allclose(ratios.truncated(now, then, mask, 2.0), [[0.5, 1, 1.5, 2, 1]], **ROUNDING)
    assert (jax.grad(lambda x: ratios.truncated(x, then, mask, 2.0).sum())(now) == 0).all()
    assert (ratios.truncated(now, now, mask, 2.0) == 1).all()


def test_one_advantage_for_a_whole_completion_is_refused() -> None:
    with pytest.raises(ValueError, match="one advantage a token is needed"):
        losses.ppo(numbers(1), numbers(1), jnp.ones((4, 1)), MASK, CLIP)
    with pytest.raises(ValueError, match="one return a token is needed"):
        losses.clipped_value(numbers(1), numbers(1), jnp.ones((4, 1)), MASK, CLIP)


def test_a_value_model_gains_nothing_by_moving_far_and_is_pulled_back_when_it_is_wrong() -> None:
    """V was 0 and Z is 1. At 0.1: (1 - 0.1)². At 0.5: the nearer 0.2 counts. At -0.5: (1 + 0.5)², in full."""
    mask, before, returns = jnp.ones((1, 3), bool), jnp.zeros((1, 3)), jnp.ones((1, 3))
    cost, slope = jax.value_and_grad(losses.clipped_value)(jnp.array([[0.1, 0.5, -0.5]]), before, returns, mask, 0.2)
    np.testing.assert_allclose(cost, 0.9**2 + 0.8**2 + 1.5**2, **ROUNDING)
    np.testing.assert_allclose(slope, [[-1.8, 0, -3]], **ROUNDING)


def test_within_the_clip_it_is_the_plain_square() -> None:
    before, returns = numbers(1), numbers(2)
    values = before + 0.1 * jnp.tanh(numbers(3))
    np.testing.assert_allclose(
        losses.clipped_value(values, before, returns, MASK, 0.2), losses.value(values, returns, MASK), **ROUNDING
    )


def test_a_mean_of_means_weighs_every_sequence_alike() -> None:
    """(1 + 2 + 3) / 3, 5 and (13 + 14) / 2, and the empty one left out."""
    found = masked.sequence_mean_mean(jnp.arange(1.0, 17).reshape(4, 4), MASK)
    np.testing.assert_allclose(found, (2 + 5 + 13.5) / 3, **ROUNDING)
