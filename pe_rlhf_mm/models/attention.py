"""Attention in plain operations, and who sees whom: integers of every token, out of which each kernel makes a mask.

This is what all kernels are compared with (`kernels.py` has the table of them), and what runs where none of them pays.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.models.config import BlockConfig

NOBODY = -1
"""`leave` of a key that nobody sees: no query enters before it."""
EARLIER = -1
"""`enter` of what was read before all queries."""
NO_TOKEN = -2
"""What no token enters at."""
FURTHEST = jnp.iinfo(jnp.int32).max
"""`leave` of a key that all later queries see, and `reach` of one that queries see from however far."""


class KeyValues(NamedTuple):
    """What attention remembers of tokens already read."""

    keys: Float[Array, "... K C"]
    values: Float[Array, "... K C"]


class Sight(NamedTuple):
    """Who sees whom: q sees k if enter[k] <= enter[q] < leave[k], unless k is out of reach, and always itself.

    k is within reach of q if position[q] < reach[k], or if enter[k] = united[q]. The last S keys are the queries' own
    tokens; those before them were read earlier. Here all has a leading axis of kinds of layers, outside a layer.
    """

    enter: Int[Array, "*kinds B S"]
    position: Int[Array, "*kinds B S"]
    united: Int[Array, "*kinds B S"]
    key_enter: Int[Array, "*kinds B seen"]
    leave: Int[Array, "*kinds B seen"]
    reach: Int[Array, "*kinds B seen"]


def everybody(rows: int, length: int) -> Sight:
    """All of a row see all of it, in layers of one kind."""
    none = jnp.zeros((1, rows, length), jnp.int32)
    return Sight(none, none, none, none, none + 1, none + 1)


def mask_of(sight: Sight) -> Bool[Array, "*kinds B S seen"]:
    """Who sees whom, pair by pair."""
    enter, position, united = (x[..., :, None] for x in sight[:3])
    key_enter, leave, reach = (x[..., None, :] for x in sight[3:])
    within = (position < reach) | (united == key_enter)
    length, seen = sight.enter.shape[-1], sight.leave.shape[-1]
    # A padding query would see nobody, and a softmax over nothing is not a number.
    itself = jnp.eye(length, seen, seen - length, dtype=bool)
    return (key_enter <= enter) & (enter < leave) & within | itself


def attend(
    query: Float[Array, "B S H C"], past: KeyValues, mask: Bool[Array, "B S seen"] | None, config: BlockConfig
) -> Float[Array, "B S H C"]:
    """Scaled dot-product attention; key/value heads are shared by groups of query heads."""
    b, s, h, c = query.shape
    # Turned over here, where they are small: left to the compiler, it would be the scores [B, K, G, S, S] instead.
    q = query.reshape(b, s, config.kv_heads, -1, c).transpose(0, 2, 3, 1, 4)
    keys, values = past.keys.transpose(0, 2, 3, 1), past.values.swapaxes(1, 2)
    scores = jnp.einsum("bkgqc,bkcs->bkgqs", q, keys, preferred_element_type=jnp.float32)
    scores = capped(scores * config.scale, config.soft_cap)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    mixed = jnp.einsum("bkgqs,bksc->bkgqc", weights, values)
    return checkpoint_name(mixed.transpose(0, 3, 1, 2, 4).reshape(b, s, h, c), "attended")


def capped(x: Array, cap: float | None) -> Array:
    """cap · tanh(x / cap), which stays within ±cap; x itself without a cap (Gemma 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Memory(NamedTuple):
    """Keys and values in the order in which decoding multiplies them: else every step would turn them over anew.

    What a prompt has left behind is [.., B, K, ...]; what its G completions have, [.., B, K, G, ...].
    """

    keys: Float[Array, "... C L"]
    values: Float[Array, "... L C"]

    def with_token(self, new: KeyValues, at: Int[Array, ""]) -> Memory:
        """The memory of completions with one more token of each, [.., B, G, K, C], at an index."""
        keys, values = (x.swapaxes(-3, -2) for x in new)
        write = jax.lax.dynamic_update_index_in_dim
        return Memory(write(self.keys, keys, at, -1), write(self.values, values, at, -2))


def remembered(past: KeyValues) -> Memory:
    """What has been read, [.., L, K, C], turned over once for all decoding steps."""
    return Memory(jnp.moveaxis(past.keys, -3, -1), past.values.swapaxes(-3, -2))


def recalled(memory: Memory) -> KeyValues:
    """The inverse of `remembered`: for tokens that are read many at a time."""
    return KeyValues(jnp.moveaxis(memory.keys, -1, -3), memory.values.swapaxes(-3, -2))


def attend_shared_prompt(
    query: Float[Array, "B G H C"],
    new: KeyValues,
    prompt: Memory,
    prompt_mask: Bool[Array, "B L"],
    own: Memory,
    own_mask: Bool[Array, " T"],
    config: BlockConfig,
) -> Float[Array, "B G H C"]:
    """One decoding step of G completions a prompt: each attends to the prompt, stored once, to its own, and to itself.

    `new`, [B, G, K, C], are the keys and values of the token itself. One softmax over all.
    """
    (b, g, h, c), k = query.shape, new.keys.shape[-2]
    q = query.reshape(b, g, k, h // k, c).swapaxes(1, 2).astype(jnp.float32) * config.scale
    new, prompt, own = jax.tree.map(lambda x: x.astype(jnp.float32), (new, prompt, own))
    new_key, new_value = (x.swapaxes(1, 2)[:, :, :, None] for x in new)
    to_prompt = jnp.einsum("bkghc,bkcl->bkghl", q, prompt.keys)
    to_own = jnp.einsum("bkghc,bkgct->bkght", q, own.keys)
    to_itself = jnp.sum(q * new_key, axis=-1, keepdims=True)
    scores = capped(jnp.concatenate([to_prompt, to_own, to_itself], axis=-1), config.soft_cap)
    masks = [prompt_mask, jnp.broadcast_to(own_mask, (b, len(own_mask))), jnp.ones((b, 1), bool)]
    seen = jnp.concatenate(masks, axis=-1)[:, None, None, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    length = prompt_mask.shape[-1]
    mixed = jnp.einsum("bkghl,bklc->bkghc", weights[..., :length], prompt.values)
    mixed += jnp.einsum("bkght,bkgtc->bkghc", weights[..., length:-1], own.values)
    mixed += weights[..., -1:] * new_value
    return mixed.swapaxes(1, 2).reshape(b, g, h, c).astype(query.dtype)
