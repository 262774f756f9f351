"""How much likelier tokens are under the policy now than under the one that drew them, and what to do about it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def ratio(logprobs: Float[Array, "*n"], drawn: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, "*n"]:
    """ρ = π(a | s) / π_then(a | s), from the log-probabilities of both; 1 at padding."""
    return jnp.exp(jnp.where(mask, logprobs - drawn, 0))


def truncated(
    logprobs: Float[Array, "*n"], drawn: Float[Array, "*n"], mask: Bool[Array, "*n"], cap: float
) -> Float[Array, "*n"]:
    """min(ρ, cap), a constant: importance weights whose variance is bounded, and which are biased only where they are.

    Ionides 2008 (Truncated importance sampling); the ρ of V-trace (Espeholt et al. 2018, arXiv 1802.01561), token by
    token.
    """
    return jax.lax.stop_gradient(jnp.minimum(ratio(logprobs, drawn, mask), cap))


def clipped(
    logprobs: Float[Array, "*n"],
    drawn: Float[Array, "*n"],
    advantages: Float[Array, "*n"],
    mask: Bool[Array, "*n"],
    clip: float,
) -> Float[Array, "*n"]:
    """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) of every token, which is to be large.

    Once a good token is likelier by more than ε than when it was drawn, or a bad one less likely by more, nothing is
    gained by going on. What has gone the wrong way is always pulled back. The advantages are constants.

    Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    if advantages.shape != logprobs.shape:
        raise ValueError(f"one advantage a token is needed: {advantages.shape} against log-probs {logprobs.shape}")
    rho, gain = ratio(logprobs, jax.lax.stop_gradient(drawn), mask), jax.lax.stop_gradient(advantages)
    return jnp.minimum(rho * gain, jnp.clip(rho, 1 - clip, 1 + clip) * gain)
