"""Log-probabilities and entropy of tokens, without ever holding logits for a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pe_rlhf_mm.models.sharding import cut, parts_of


class TokenStatistics(NamedTuple):
    """`logprobs` of the chosen tokens and `entropy` of the distribution they were chosen from, in nats."""

    logprobs: Float[Array, "*n"]
    entropy: Float[Array, "*n"]


def of_tokens(logits: Float[Array, "*n V"], tokens: Int[Array, "*n"]) -> TokenStatistics:
    """log softmax(logits)[token] and -Σ p log p. A logit of -inf is a token that cannot be chosen, and adds nothing."""
    all_logprobs = jax.nn.log_softmax(logits, axis=-1)
    # A sum over words, of which each device may have its part; a look-up would send the logits round.
    is_token = jnp.arange(logits.shape[-1]) == tokens[..., None]
    chosen = jnp.where(is_token, all_logprobs, 0).sum(axis=-1)
    # where, twice: 0 · (-inf) is not a number, and neither is its gradient.
    finite = jnp.where(jnp.isfinite(all_logprobs), all_logprobs, 0)
    entropy = -jnp.where(jnp.isfinite(all_logprobs), jnp.exp(finite) * finite, 0).sum(axis=-1)
    return TokenStatistics(chosen, entropy)


def chunked(
    hidden: Float[Array, "*n D"],
    tokens: Int[Array, "*n"],
    logits: Callable[[Float[Array, "p m D"], Int[Array, "p m"]], Float[Array, "p m V"]],
    *,
    chunk: int = 1024,
) -> TokenStatistics:
    """The same as `of_tokens(logits(hidden, tokens), tokens)`, `chunk` positions at a time in both directions.

    The logits of a chunk are computed again in the backward pass, so the peak is [chunk, V] instead of [N, T, V]. On a
    mesh, rows are in p parts that go through their chunks side by side, and each device has its part of the vocabulary.
    """
    parts = parts_of("shared rows")
    parts = parts if len(hidden) % parts == 0 else 1
    flat, ids = cut(hidden, "shared rows").reshape(parts, -1, hidden.shape[-1]), tokens.reshape(parts, -1)
    count = flat.shape[1]
    chunk = min(chunk, count)
    extra = -count % chunk
    flat = jnp.pad(flat, ((0, 0), (0, extra), (0, 0))).reshape(parts, -1, chunk, flat.shape[-1]).swapaxes(0, 1)
    ids = jnp.pad(ids, ((0, 0), (0, extra))).reshape(parts, -1, chunk).swapaxes(0, 1)

    @jax.checkpoint
    def one(block: tuple) -> TokenStatistics:
        found = of_tokens(logits(*block), block[1])
        return TokenStatistics(*(cut(x, "shared rows") for x in found))

    statistics = one((flat[0], ids[0])) if len(flat) == 1 else jax.lax.map(one, (flat, ids))
    by_part = (x.reshape(-1, parts, chunk).swapaxes(0, 1).reshape(parts, -1) for x in statistics)
    return TokenStatistics(*(x[:, :count].reshape(tokens.shape) for x in by_part))
