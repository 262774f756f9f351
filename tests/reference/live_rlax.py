"""Advantages and the losses of PPO against rlax's own functions on the same arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from pe_rlhf_mm.algorithms import advantages, losses

RNG = np.random.default_rng(0)
LENGTHS, STEPS = (6, 3, 1, 5), 6
MASK = np.arange(STEPS) < np.array(LENGTHS)[:, None]
REWARDS, VALUES = (RNG.standard_normal(MASK.shape).astype(np.float32) for _ in range(2))
BEYOND = np.array([0.0, 1.5, -0.5, 0.0], np.float32)
DISCOUNT, TRACE = (RNG.uniform(0.5, 1, MASK.shape).astype(np.float32) for _ in range(2))
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.mark.parametrize("trace", [TRACE, np.ones_like(TRACE), np.zeros_like(TRACE)], ids=["some", "all", "none"])
def test_generalised_advantages(trace: np.ndarray) -> None:
    """A row at a time, as rlax takes them: without padding, and with what lies beyond as the last value."""
    found = advantages.generalized(REWARDS, VALUES, BEYOND, DISCOUNT, trace, MASK)
    for row, length in enumerate(LENGTHS):
        values = np.append(VALUES[row, :length], BEYOND[row])
        real = (x[row, :length] for x in (REWARDS, DISCOUNT, trace))
        expected = rlax.truncated_generalized_advantage_estimation(*real, values)
        np.testing.assert_allclose(found[row, :length], expected, **CLOSE)
        assert not found[row, length:].any()


def test_the_clipped_objective_and_its_gradient() -> None:
    """rlax takes the mean over steps; ours sums them up and takes the mean over completions."""
    drawn = (-1.5 + 0.3 * RNG.standard_normal(MASK.shape)).astype(np.float32)
    now = (drawn + 0.3 * RNG.standard_normal(MASK.shape)).astype(np.float32)
    gains, count = RNG.standard_normal(MASK.shape).astype(np.float32), MASK.sum()

    def theirs(logprobs: jax.Array) -> jax.Array:
        ratios = jnp.exp(logprobs - drawn)[MASK]
        return rlax.clipped_surrogate_pg_loss(ratios, gains[MASK], 0.2) * count / len(MASK)

    def ours(logprobs: jax.Array) -> jax.Array:
        return losses.ppo(logprobs, drawn, gains, MASK, 0.2)

    assert (np.abs(np.exp(now - drawn) - 1) > 0.2)[MASK].any()
    for found, expected in zip(jax.value_and_grad(ours)(now), jax.value_and_grad(theirs)(now), strict=True):
        np.testing.assert_allclose(found, expected, **CLOSE)


def test_reinforce_and_its_gradient() -> None:
    """rlax takes logits of all actions; given log-probabilities of one, it is one of two."""
    now = (-1.5 + 0.3 * RNG.standard_normal(MASK.shape)).astype(np.float32)
    gains, count = RNG.standard_normal(MASK.shape).astype(np.float32), MASK.sum()

    def theirs(logprobs: jax.Array) -> jax.Array:
        chosen = logprobs[MASK]
        logits = jnp.stack([chosen, jnp.log1p(-jnp.exp(chosen))], axis=-1)
        weights, actions = jnp.ones(count), jnp.zeros(count, int)
        return rlax.policy_gradient_loss(logits, actions, gains[MASK], weights) * count / len(MASK)

    def ours(logprobs: jax.Array) -> jax.Array:
        return losses.reinforce(logprobs, gains, MASK)

    for found, expected in zip(jax.value_and_grad(ours)(now), jax.value_and_grad(theirs)(now), strict=True):
        np.testing.assert_allclose(found, expected, **CLOSE)
