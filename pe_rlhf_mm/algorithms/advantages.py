"""From a reward for a whole completion to a return for every token."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def on_last_token(rewards: Float[Array, "*n"], mask: Bool[Array, "*n T"]) -> Float[Array, "*n T"]:
    """Puts each completion's reward on its last unmasked token; an empty completion gets none."""
    later = jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1]
    return jnp.where(mask & (later == 1), rewards[..., None], 0)


def token_rewards(
    rewards: Float[Array, "*n"], kl: Float[Array, "*n T"], mask: Bool[Array, "*n T"], beta: float
) -> Float[Array, "*n T"]:
    """The paper's objective as a reward for every token.

        r[t] = -β · (log π(a_t) - log anchor(a_t)) + 1[t = last] · (1 - β) · R

    so that Σ_t r[t] = (1 - β) R - β KL, equation 1 of PE-RLHF (arXiv 2403.10704, A.1.3). Note the factor on the reward.
    """
    return on_last_token((1 - beta) * rewards, mask) - beta * jnp.where(mask, kl, 0)


def returns_to_go(rewards: Float[Array, "*n T"], gamma: float = 1.0) -> Float[Array, "*n T"]:
    """Z[t] = Σ_{s >= t} γ^(s-t) r[s]. The paper has γ = 1 (RLAIF, appendix F)."""
    if gamma == 1.0:
        return jnp.cumsum(rewards[..., ::-1], axis=-1)[..., ::-1]
    steps = jnp.arange(rewards.shape[-1])
    later = steps[None, :] - steps[:, None]
    return jnp.einsum("...s,ts->...t", rewards, jnp.where(later >= 0, gamma ** jnp.maximum(later, 0), 0))


def returns_within_turns(rewards: Float[Array, "*n T"], turn: Int[Array, "*n T"]) -> Float[Array, "*n T"]:
    """Z[t] = Σ r[s] over s >= t of the same turn: every action of an episode answers for itself alone.

    For rewards that judge one action at a time, such as a 0/1 reward model of UI actions: summed over an episode they
    would pay for long ones.
    """
    steps = jnp.arange(rewards.shape[-1])
    own = (turn[..., :, None] == turn[..., None, :]) & (steps[None, :] >= steps[:, None])
    return jnp.einsum("...s,...ts->...t", rewards, own.astype(rewards.dtype))
