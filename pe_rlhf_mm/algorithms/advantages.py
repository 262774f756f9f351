"""From a reward for a whole completion to a return for every token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.algorithms import masked


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


def returns_within(
    rewards: Float[Array, "*n T"], scope: Int[Array, "*n T"], turn: Int[Array, "*n T"], gamma: float = 1.0
) -> Float[Array, "*n T"]:
    """Z[t] = Σ γ^(turn[s] - turn[t]) r[s] over s >= t of the same scope.

    Of one scope they are the returns to go of an episode, discounted from turn to turn and not within one: with γ < 1
    what is reached at the first try is worth more. Where every turn is a scope, every action answers for itself alone:
    for rewards that judge one action at a time, such as a 0/1 reward model of UI actions, which would pay for long
    episodes if they were summed over them.
    """
    steps = jnp.arange(rewards.shape[-1])
    own = (scope[..., :, None] == scope[..., None, :]) & (steps[None, :] >= steps[:, None])
    later = jnp.maximum(turn[..., None, :] - turn[..., :, None], 0)
    return jnp.einsum("...s,...ts->...t", rewards, jnp.where(own, jnp.asarray(gamma, rewards.dtype) ** later, 0))


def above_the_others(
    returns: Float[Array, "*n G T"], scope: Int[Array, "*n G T"], mask: Bool[Array, "*n G T"]
) -> Float[Array, "*n G T"]:
    """RLOO: how much more a completion earned than the others of its prompt did in the mean.

        A[i, t] = R[i] - 1/(G - 1) Σ_{j ≠ i} R[j],   R = the return of the whole scope that t is in

    What the others earned does not depend on what this one chose, so the gradient stays unbiased, and a prompt that is
    easy or hard for all of them weighs nothing. Of several scopes, such as turns that are rewarded one by one, R[j] is
    the mean over those of j. Of masked completions nothing is known; one without others is worth nothing.

    Kool et al. 2019 (Buy 4 REINFORCE samples, get a baseline for free); Ahmadian et al. 2024 (arXiv 2402.14740),
    equation 7.
    """
    first = mask & (scope != jnp.roll(scope, 1, axis=-1)).at[..., 0].set(True)
    places = jnp.where(first, jnp.arange(returns.shape[-1]), 0)
    whole = jnp.take_along_axis(returns, jax.lax.cummax(places, axis=places.ndim - 1), axis=-1)
    earned, known = masked.sequence_mean(returns, first), mask.any(axis=-1)
    others = known.sum(axis=-1, keepdims=True) - known
    total = jnp.where(known, earned, 0)
    baseline = (total.sum(axis=-1, keepdims=True) - total) / jnp.maximum(others, 1)
    return jnp.where((known & (others > 0))[..., None], whole - baseline[..., None], 0)
