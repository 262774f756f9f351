"""Log-probabilities and entropy of tokens, without ever holding logits for a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TokenStatistics(NamedTuple):
    """`logprobs` of the chosen tokens and `entropy` of the distribution they were chosen from, in nats."""

    logprobs: Float[Array, "*n"]
    entropy: Float[Array, "*n"]


def of_tokens(logits: Float[Array, "*n V"], tokens: Int[Array, "*n"]) -> TokenStatistics:
    """log softmax(logits)[token] and -Σ p log p. A logit of -inf is a token that cannot be chosen, and adds nothing."""
    all_logprobs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(all_logprobs, tokens[..., None], axis=-1)[..., 0]
    # where, twice: 0 · (-inf) is not a number, and neither is its gradient.
    finite = jnp.where(jnp.isfinite(all_logprobs), all_logprobs, 0)
    entropy = -jnp.where(jnp.isfinite(all_logprobs), jnp.exp(finite) * finite, 0).sum(axis=-1)
    return TokenStatistics(chosen, entropy)


def chunked(
    hidden: Float[Array, "*n D"],
    tokens: Int[Array, "*n"],
    logits: Callable[[Float[Array, "m D"], Int[Array, " m"]], Float[Array, "m V"]],
    *,
    chunk: int = 1024,
) -> TokenStatistics:
    """The same as `of_tokens(logits(hidden, tokens), tokens)`, `chunk` positions at a time in both directions.

    The logits of a chunk are computed again in the backward pass, so the peak is [chunk, V] instead of [N, T, V].
    """
    flat, ids = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1)
    count = flat.shape[0]
    chunk = min(chunk, count)
    extra = -count % chunk
    flat = jnp.pad(flat, ((0, extra), (0, 0))).reshape(-1, chunk, flat.shape[-1])
    ids = jnp.pad(ids, (0, extra)).reshape(-1, chunk)

    @jax.checkpoint
    def one(block: tuple) -> TokenStatistics:
        return of_tokens(logits(*block), block[1])

    statistics = one((flat[0], ids[0])) if len(flat) == 1 else jax.lax.map(one, (flat, ids))
    return TokenStatistics(*(x.reshape(-1)[:count].reshape(tokens.shape) for x in statistics))
