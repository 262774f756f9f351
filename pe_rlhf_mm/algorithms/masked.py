"""Masked reductions: the only place where a mean is taken, each named after its denominator."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def token_mean(values: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Sum over the unmasked entries divided by their number; 0 when there are none."""
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1)


def token_variance(values: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Mean squared distance from the masked mean; 0 when nothing is unmasked."""
    return token_mean((values - token_mean(values, mask)) ** 2, mask)


def sequence_sum(values: Float[Array, "*n T"], mask: Bool[Array, "*n T"]) -> Float[Array, "*n"]:
    """Sum over the unmasked tokens of each sequence."""
    return jnp.where(mask, values, 0).sum(axis=-1)


def sequence_mean(values: Float[Array, "*n T"], mask: Bool[Array, "*n T"]) -> Float[Array, "*n"]:
    """Sum over the unmasked tokens of each sequence divided by their number; 0 where there are none."""
    return sequence_sum(values, mask) / jnp.maximum(mask.sum(axis=-1), 1)


def sequence_sum_mean(values: Float[Array, "*n T"], mask: Bool[Array, "*n T"]) -> Float[Array, ""]:
    """Sum over each sequence's tokens, then the mean over the sequences that have any; 0 when none has."""
    return sequence_sum(values, mask).sum() / jnp.maximum(mask.any(axis=-1).sum(), 1)


def sequence_mean_mean(values: Float[Array, "*n T"], mask: Bool[Array, "*n T"]) -> Float[Array, ""]:
    """Mean over each sequence's tokens, then the mean over the sequences that have any; 0 when none has."""
    return sequence_mean(values, mask).sum() / jnp.maximum(mask.any(axis=-1).sum(), 1)
