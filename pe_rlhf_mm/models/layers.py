"""Norm, attention, MLP and rotary positions: the layers that the decoder and the vision tower share.

Every parameter names its *logical* axes; which of them is cut over which chips is decided in `sharding.py` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters import lora
from pe_rlhf_mm.models.config import BlockConfig

Built = TypeVar("Built", bound=nnx.Module)


class LayerAdapters(NamedTuple):
    """One layer's cut of an adapter bank; `dropout` applies to the adapters' input, in training only."""

    matrices: lora.Slot
    scale: Float[Array, " E"]
    ids: Int[Array, " B"] | None
    dropout: float = 0.0
    key: jax.Array | None = None

    def delta(self, target: str, x: Float[Array, "B *rest in"]) -> Float[Array, "B *rest out"]:
        if self.key is not None and self.dropout > 0:
            key = jax.random.fold_in(self.key, sorted(self.matrices).index(target))
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return lora.delta(x, self.matrices[target], self.scale, self.ids)


def stacked(make: Callable[[nnx.Rngs], Built], layers: int, rngs: nnx.Rngs) -> Built:
    """Builds `layers` copies of a module as one module whose parameters have a leading layer axis."""

    @nnx.split_rngs(splits=layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs: nnx.Rngs) -> Built:
        return make(rngs)

    built: Built = build(rngs)
    return built


class Linear(nnx.Module):
    """y = x W, plus the adapters' part where a bank adapts this matrix."""

    def __init__(self, size_in: int, size_out: int, axes: tuple[str, str], *, rngs: nnx.Rngs):
        kernel = jax.random.normal(rngs.params(), (size_in, size_out)) * size_in**-0.5
        self.kernel = nnx.Param(kernel, axes=axes)

    def __call__(self, x: Array, adapters: LayerAdapters | None = None, target: str = "") -> Array:
        y = x @ self.kernel[...]
        if adapters is None or target not in adapters.matrices:
            return y
        return y + adapters.delta(target, x).astype(y.dtype)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x²) + ε) · w, computed in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width), axes=("norm",))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + self.epsilon)
        return (normed * self.scale[...].astype(jnp.float32)).astype(x.dtype)


def rotate(x: Float[Array, "*rows H C"], positions: Int[Array, "*rows"], theta: float) -> Float[Array, "*rows H C"]:
    """Rotary position embedding, first half against second half (Su et al. 2021, in the layout of Llama)."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half) / half)
    angles = positions[..., None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    x1, x2 = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


class KeyValues(NamedTuple):
    """What attention remembers of tokens already read."""

    keys: Float[Array, "... K C"]
    values: Float[Array, "... K C"]


def attend(
    query: Float[Array, "B S H C"], past: KeyValues, mask: Bool[Array, "B S S"] | None
) -> Float[Array, "B S H C"]:
    """Scaled dot-product attention; key/value heads are shared by groups of query heads."""
    mask = None if mask is None else mask[:, None]
    return jax.nn.dot_product_attention(query, past.keys, past.values, mask=mask)


def attend_shared_prompt(
    query: Float[Array, "B G H C"],
    prompt: KeyValues,
    prompt_mask: Bool[Array, "B L"],
    own: KeyValues,
    own_mask: Bool[Array, " T"],
) -> Float[Array, "B G H C"]:
    """One decoding step of G completions a prompt: each attends to the prompt's keys, stored once, and to its own.

    prompt: [B, L, K, C]; own: [B, G, T, K, C]. The two score blocks share one softmax.
    """
    b, g, h, c = query.shape
    k = prompt.keys.shape[-2]
    q = query.reshape(b, g, k, h // k, c).astype(jnp.float32) * c**-0.5
    to_prompt = jnp.einsum("bgkhc,blkc->bgkhl", q, prompt.keys.astype(jnp.float32))
    to_own = jnp.einsum("bgkhc,bgtkc->bgkht", q, own.keys.astype(jnp.float32))
    to_prompt = jnp.where(prompt_mask[:, None, None, None], to_prompt, -jnp.inf)
    to_own = jnp.where(own_mask, to_own, -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([to_prompt, to_own], axis=-1), axis=-1)
    length = prompt_mask.shape[-1]
    mixed = jnp.einsum("bgkhl,blkc->bgkhc", weights[..., :length], prompt.values.astype(jnp.float32))
    mixed += jnp.einsum("bgkht,bgtkc->bgkhc", weights[..., length:], own.values.astype(jnp.float32))
    return mixed.reshape(b, g, h, c).astype(query.dtype)


class Block(nnx.Module):
    """Pre-norm attention and a gated MLP: x + o(attend(q, k, v)), then x + down(silu(gate) · up)."""

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, mlp = config.width, config.mlp_width
        queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
        self.attention_norm = RMSNorm(width, config.norm_epsilon)
        self.q = Linear(width, queries, ("embed", "heads"), rngs=rngs)
        self.k = Linear(width, keys, ("embed", "kv_heads"), rngs=rngs)
        self.v = Linear(width, keys, ("embed", "kv_heads"), rngs=rngs)
        self.o = Linear(queries, width, ("heads", "embed"), rngs=rngs)
        self.mlp_norm = RMSNorm(width, config.norm_epsilon)
        self.gate = Linear(width, mlp, ("embed", "mlp"), rngs=rngs)
        self.up = Linear(width, mlp, ("embed", "mlp"), rngs=rngs)
        self.down = Linear(mlp, width, ("mlp", "embed"), rngs=rngs)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_width, config.norm_epsilon)
            self.k_norm = RMSNorm(config.head_width, config.norm_epsilon)

    def project(
        self, x: Array, positions: Array | None, adapters: LayerAdapters | None
    ) -> tuple[Float[Array, "*rows H C"], KeyValues]:
        """The normed input as queries, keys and values, split into heads and rotated."""
        config, normed = self.config, self.attention_norm(x)
        q, k, v = (
            getattr(self, t)(normed, adapters, t).reshape(*x.shape[:-1], -1, config.head_width) for t in ("q", "k", "v")
        )
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if config.rope_theta is not None and positions is not None:
            q, k = (rotate(y, positions, config.rope_theta) for y in (q, k))
        return q, KeyValues(k, v)

    def finish(self, x: Array, attended: Array, adapters: LayerAdapters | None) -> Array:
        """Everything after attention: output projection, MLP, and both residual sums."""
        x = x + self.o(attended.reshape(*x.shape[:-1], -1), adapters, "o")
        normed = self.mlp_norm(x)
        gated = jax.nn.silu(self.gate(normed, adapters, "gate")) * self.up(normed, adapters, "up")
        return x + self.down(gated, adapters, "down")

    def __call__(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B S"] | None = None,
        mask: Bool[Array, "B S S"] | None = None,
        adapters: LayerAdapters | None = None,
    ) -> tuple[Float[Array, "B S D"], KeyValues]:
        q, past = self.project(x, positions, adapters)
        return self.finish(x, attend(q, past, mask), adapters), past

    def decode(
        self,
        x: Float[Array, "B G D"],
        positions: Int[Array, "B G"],
        prompt: KeyValues,
        prompt_mask: Bool[Array, "B L"],
        own: KeyValues,
        step: Int[Array, ""],
        adapters: LayerAdapters | None,
    ) -> tuple[Float[Array, "B G D"], KeyValues]:
        """One token of each completion, at index `step` of its own cache; returns the cache with that token added."""
        q, new = self.project(x, positions, adapters)
        own = KeyValues(*(cache.at[:, :, step].set(n) for cache, n in zip(own, new, strict=True)))
        own_mask = jnp.arange(own.keys.shape[2]) <= step
        return self.finish(x, attend_shared_prompt(q, prompt, prompt_mask, own, own_mask), adapters), own
