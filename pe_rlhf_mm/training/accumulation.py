"""A batch in parts: what a mean over the whole is, worked out of one part after the other in the memory of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pe_rlhf_mm.models.sharding import cut

Found = TypeVar("Found")


def alike(part: Any) -> Array:
    """The share of a part whose loss is a mean over its examples: all have as many."""
    return jnp.float32(1)


class Parts(NamedTuple):
    """Into how many parts a batch is split, and how much each weighs: its `share` is what its loss is divided by."""

    into: int = 1
    share: Callable[[Any], Array] = alike


WHOLE = Parts()


def over_parts(parts: Parts, measure: Callable[[Any, jax.Array], Found], batch: Any, key: jax.Array) -> Found:
    """What `measure` finds of a batch and a key, where that is a mean, as a loss and its gradient are.

        f(batch) = Σ_n s_n f(part_n) / Σ_n s_n

    That is exact, but for rounding, of all that is divided by the share s_n; of a mean over something else it is a mean
    of the parts' means. Sums are in float32, in the places of what is summed up; every part has a key of its own.
    """
    if parts.into == 1:
        return measure(batch, key)
    each = _split(batch, parts.into)

    def add(sums: Found, numbered: tuple[Array, Any]) -> tuple[Found, None]:
        number, part = numbered
        share, found = parts.share(part), measure(part, jax.random.fold_in(key, number))
        return jax.tree.map(lambda total, x: total + share * x, sums, found), None

    shapes = jax.eval_shape(measure, jax.tree.map(lambda x: x[0], each), key)
    nothing: Any = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)
    sums, _ = jax.lax.scan(add, nothing, (jnp.arange(parts.into), each))
    shares = jnp.maximum(jax.vmap(parts.share)(each).sum(), 1)
    return jax.tree.map(lambda total: total / shares, sums)


def _split(batch: Any, count: int) -> Any:
    """Rows n, n + count, n + 2 · count, .. as part n: so they stay on their devices, each of which has rows in a run.

    Where an example has several rows, they stay together.
    """
    examples = math.gcd(*(len(x) for x in jax.tree.leaves(batch)))

    def deal(x: Array) -> Array:
        dealt = jnp.asarray(x).reshape(examples // count, count, len(x) // examples, *x.shape[1:]).swapaxes(0, 1)
        return cut(dealt.reshape(count, len(x) // count, *x.shape[1:]), None, "rows")

    return jax.tree.map(deal, batch)
