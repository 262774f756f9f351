"""Divergence of the policy from its anchor, token by token, estimated from the tokens that the policy drew; and β.

With x = log π - log anchor: k1 = x is unbiased and can be negative; k3 = exp(-x) + x - 1 is unbiased, never negative
and steadier to look at, but its *gradient* is not that of the divergence (Schulman 2020, "Approximating KL").
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def k1(logprobs: Float[Array, "*n"], anchor_logprobs: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """log π - log anchor."""
    return logprobs - anchor_logprobs


def k3(logprobs: Float[Array, "*n"], anchor_logprobs: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """exp(log anchor - log π) + (log π - log anchor) - 1."""
    x = logprobs - anchor_logprobs
    return jnp.expm1(-x) + x


def adapted(beta: float, divergence: float, target: float, gain: float) -> float:
    """What a nat is to cost next, where the last rollout was `divergence` nats a reply from the anchor.

        β ← β (1 + K e),   e = clip((KL - KL_target) / KL_target, -0.2, 0.2),   K = `gain`

    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2. It ends at 1, where J = (1 - β) r - β KL has no reward left.
    """
    error = min(max((divergence - target) / target, -0.2), 0.2)
    return min(beta * (1 + gain * error), 1.0)
