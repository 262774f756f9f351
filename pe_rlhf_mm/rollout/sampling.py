"""From logits to the distribution that is drawn from. Sampler and trainer both go through `shape`, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from pe_rlhf_mm.rollout.settings import Sampling


def tempered(logits: Float[Array, "*n V"], sampling: Sampling, forbidden: tuple[int, ...] = ()) -> Float[Array, "*n V"]:
    """Logits at the sampling temperature (greedy: at 1), with -inf for ids that stand for padding or for images."""
    logits = logits.astype(jnp.float32) / (sampling.temperature or 1.0)
    # By comparing ids, not by writing at them: of logits that devices have parts of, the whole would be put together.
    barred = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(forbidden, int))
    return jnp.where(barred, -jnp.inf, logits) if forbidden else logits


def truncated(
    logits: Float[Array, "*n V"], sampling: Sampling, keep: Int[Array, "*n"] | None = None
) -> Float[Array, "*n V"]:
    """Keeps the `top_k` likeliest tokens, then the fewest of them whose probability reaches `top_p` (Holtzman 2020).

    `keep` is a token that stays in whatever happens: when weights have moved since it was drawn, it may have left the
    set, and its log-probability must not become -inf.
    """
    if not sampling.truncates:
        return logits
    allowed = jnp.ones(logits.shape, bool)
    if sampling.top_k:
        kth = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0][..., -1:]
        allowed &= logits >= kth
    if sampling.top_p < 1:
        ordered = jnp.sort(jnp.where(allowed, logits, -jnp.inf), axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        # The likeliest token has nothing before it, so at least one token always stays.
        lowest = jnp.min(jnp.where(before < sampling.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        allowed &= logits >= lowest
    if keep is not None:
        allowed |= jax.nn.one_hot(keep, logits.shape[-1], dtype=bool)
    return jnp.where(allowed, logits, -jnp.inf)


def draw(keys: Key[Array, "B"], logits: Float[Array, "B *n V"], sampling: Sampling) -> Int[Array, "B *n"]:
    """One token each: the likeliest at temperature 0, otherwise by chance, and by a key of every row's own.

    What is drawn in a row does not depend on which others it is drawn with.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    return jax.vmap(jax.random.categorical)(keys, logits)
