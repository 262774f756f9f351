"""Norm, attention block and MLP: the layers that the decoder and the vision tower share, with all families' switches.

Parameters and activations name their *logical* axes; which of them is cut over which devices is nothing a layer knows
(`sharding.py` does).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters import lora
from pe_rlhf_mm.adapters.gates import Gates, Shares
from pe_rlhf_mm.adapters.targets import MLP
from pe_rlhf_mm.models.attention import KeyValues, Memory, attend_shared_prompt, recalled
from pe_rlhf_mm.models.config import Activation, BlockConfig, NormKind
from pe_rlhf_mm.models.quantize import matmul
from pe_rlhf_mm.models.rope import rotate
from pe_rlhf_mm.models.sharding import cut, gathered, multiplied

Built = TypeVar("Built", bound=nnx.Module)
Rate = float | Float[Array, ""]
"""Of dropout: a number, or where roles with other ones share a program, one that the program is given."""
Attend = Callable[[Float[Array, "B S H C"], KeyValues], Float[Array, "B S H C"]]
"""What queries mix out of keys and values."""


class LayerAdapters(NamedTuple):
    """One layer's cut of an adapter bank; `dropout` applies to the adapters' input, in training only.

    `shares`: what those of its gates have said that have been asked.
    """

    matrices: lora.Slot
    scale: Float[Array, " E"]
    gains: lora.Gains
    ids: Int[Array, " B"] | None
    dropout: Rate = 0.0
    key: jax.Array | None = None
    gates: Gates | None = None
    shares: Shares | None = None

    def opened(self, place: str, h: Float[Array, "*n D"]) -> LayerAdapters:
        """The same with what the gate of a place says of what stands there, if it has one."""
        if self.gates is None or place not in self.gates:
            return self
        return self._replace(shares={**(self.shares or {}), place: self.gates[place](h)})

    def delta(self, target: str, x: Float[Array, "B *rest in"]) -> Float[Array, "B *rest out"]:
        if self.key is not None and not (isinstance(self.dropout, float | int) and self.dropout == 0):
            key = jax.random.fold_in(self.key, sorted(self.matrices).index(target))
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        if self.gates is None:
            return lora.delta(x, self.matrices[target], self.scale, self.ids)
        said = self.shares or {}
        place = "mlp" if target in MLP and "mlp" in said else "attention"
        return lora.mixed(x, self.matrices[target], self.scale, said[place])

    def beside(self, target: str, x: Float[Array, "B *rest in"], y: Float[Array, "B *rest out"]) -> Array:
        """y = x W as it is with the adapters: y + delta, and that times the gain of its column, if there are gains."""
        change = self.delta(target, x)
        if target not in self.gains:
            return y + change.astype(y.dtype)
        return (lora.gain(self.gains[target], self.ids, y) * (y.astype(jnp.float32) + change)).astype(y.dtype)


def opened(adapters: LayerAdapters | None, place: str, h: Float[Array, "*n D"]) -> LayerAdapters | None:
    """Adapters, if there are any, as they act on what stands before a half of a block."""
    return None if adapters is None else adapters.opened(place, h)


def alone(bank: lora.Bank | None, dropout: Rate, key: jax.Array | None) -> LayerAdapters | None:
    """The adapters of matrices that are no layer of many."""
    if bank is None:
        return None
    matrices, gains = jax.tree.map(lambda x: x[0], (bank.matrices, bank.gains))
    return LayerAdapters(matrices, bank.scale, gains, bank.ids, dropout, key)


def stacked(make: Callable[[nnx.Rngs], Built], layers: int, rngs: nnx.Rngs) -> Built:
    """Builds `layers` copies of a module as one module whose parameters have a leading layer axis."""

    @nnx.split_rngs(splits=layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs: nnx.Rngs) -> Built:
        return make(rngs)

    built: Built = build(rngs)
    return built


class Linear(nnx.Module):
    """y = x W + b, plus the adapters' part where a bank adapts this matrix. W may be quantised."""

    def __init__(
        self, size_in: int, size_out: int, axes: tuple[str, str], *, bias: bool = False, rngs: nnx.Rngs
    ) -> None:
        kernel = jax.random.normal(rngs.params(), (size_in, size_out)) * size_in**-0.5
        self.axes = axes
        self.kernel = nnx.Param(kernel, axes=axes)
        if bias:
            self.bias = nnx.Param(jnp.zeros(size_out), axes=axes[1:])

    def __call__(self, x: Array, adapters: LayerAdapters | None = None, target: str = "") -> Array:
        y = checkpoint_name(multiplied(x, self.kernel.get_value(), self.axes, matmul), "product")
        if adapters is not None and target in adapters.matrices:
            y = adapters.beside(target, x, y)
        return y + gathered(self.bias[...], self.axes[1]) if hasattr(self, "bias") else y


class Norm(nnx.Module):
    """Root-mean-square norm x / sqrt(mean(x²) + ε) · w (Zhang & Sennrich 2019), or layer norm; in float32.

    `rms_plus_one` multiplies by 1 + w, as Gemma does.
    """

    def __init__(self, width: int, kind: NormKind, epsilon: float):
        self.kind, self.epsilon = kind, epsilon
        self.scale = nnx.Param(jnp.zeros(width) if kind == "rms_plus_one" else jnp.ones(width), axes=("norm",))
        if kind == "layer":
            self.bias = nnx.Param(jnp.zeros(width), axes=("norm",))

    def __call__(self, x: Array) -> Array:
        x32, scale = x.astype(jnp.float32), self.scale[...].astype(jnp.float32)
        if self.kind == "layer":
            x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + self.epsilon)
        if self.kind == "layer":
            return (normed * scale + self.bias[...].astype(jnp.float32)).astype(x.dtype)
        return (normed * (1 + scale if self.kind == "rms_plus_one" else scale)).astype(x.dtype)


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Block(nnx.Module):
    """Pre-norm attention and an MLP: x + o(attend(q, k, v)), then x + down(act(gate) · up), or x + down(act(up)).

    With `post_norms` the output of each half is normed once more before it is added (Gemma).
    """

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, mlp = config.width, config.mlp_width
        queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width

        def norm(size: int) -> Norm:
            return Norm(size, config.norm, config.norm_epsilon)

        self.attention_norm = norm(width)
        self.q = Linear(width, queries, ("embed", "heads"), bias=config.qkv_bias, rngs=rngs)
        self.k = Linear(width, keys, ("embed", "kv_heads"), bias=config.qkv_bias, rngs=rngs)
        self.v = Linear(width, keys, ("embed", "kv_heads"), bias=config.qkv_bias, rngs=rngs)
        self.o = Linear(queries, width, ("heads", "embed"), bias=config.out_bias, rngs=rngs)
        self.mlp_norm = norm(width)
        if config.gated:
            self.gate = Linear(width, mlp, ("embed", "mlp"), bias=config.mlp_bias, rngs=rngs)
        self.up = Linear(width, mlp, ("embed", "mlp"), bias=config.mlp_bias, rngs=rngs)
        self.down = Linear(mlp, width, ("mlp", "embed"), bias=config.mlp_bias, rngs=rngs)
        if config.qk_norm:
            self.q_norm, self.k_norm = norm(config.head_width), norm(config.head_width)
        if config.post_norms:
            self.post_attention_norm, self.post_mlp_norm = norm(width), norm(width)

    def project(
        self, normed: Array, angles: Float[Array, "*rows F"] | None, adapters: LayerAdapters | None
    ) -> tuple[Float[Array, "*rows H C"], KeyValues]:
        """The normed input as queries, keys and values, split into heads and rotated."""
        config, rows = self.config, normed.shape[:-1]
        q, k, v = (
            cut(getattr(self, t)(normed, adapters, t).reshape(*rows, -1, config.head_width), "rows", None, axis)
            for t, axis in (("q", "heads"), ("k", "kv_heads"), ("v", "kv_heads"))
        )
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, KeyValues(k, v)

    def finish(self, x: Array, attended: Array, adapters: LayerAdapters | None) -> tuple[Array, Shares]:
        """Everything after attention: output projection, MLP, and both residual sums; and what all gates have said."""
        config, act = self.config, ACTIVATIONS[self.config.activation]
        out = self.o(attended.reshape(*x.shape[:-1], -1), adapters, "o")
        x = x + (self.post_attention_norm(out) if config.post_norms else out)
        normed = self.mlp_norm(x)
        adapters = opened(adapters, "mlp", normed)
        inner = self.up(normed, adapters, "up")
        inner = act(self.gate(normed, adapters, "gate")) * inner if config.gated else act(inner)
        out = self.down(inner, adapters, "down")
        x = cut(x + (self.post_mlp_norm(out) if config.post_norms else out), "rows")
        return x, {} if adapters is None or adapters.shares is None else adapters.shares

    def __call__(
        self,
        x: Float[Array, "B S D"],
        angles: Float[Array, "B S F"] | None,
        attend: Attend,
        adapters: LayerAdapters | None = None,
        before: Memory | None = None,
    ) -> tuple[Float[Array, "B S D"], KeyValues, Shares]:
        """`attend` knows who sees whom; `before`: what stands before x and was read earlier."""
        normed = self.attention_norm(x)
        adapters = opened(adapters, "attention", normed)
        q, own = self.project(normed, angles, adapters)
        seen = own
        if before is not None:
            seen = KeyValues(*(jnp.concatenate(pair, axis=1) for pair in zip(recalled(before), own, strict=True)))
        x, shares = self.finish(x, attend(q, seen), adapters)
        return x, own, shares

    def decode(
        self,
        x: Float[Array, "B G D"],
        angles: Float[Array, "B G F"] | None,
        prompt: Memory,
        prompt_mask: Bool[Array, "B L"],
        own: Memory,
        own_mask: Bool[Array, " T"],
        adapters: LayerAdapters | None,
    ) -> tuple[Float[Array, "B G D"], KeyValues]:
        """One token of each completion; returns its keys and values, which are not in its own memory yet."""
        normed = self.attention_norm(x)
        adapters = opened(adapters, "attention", normed)
        q, new = self.project(normed, angles, adapters)
        attended = attend_shared_prompt(q, new, prompt, prompt_mask, own, own_mask, self.config)
        return self.finish(x, attended, adapters)[0], new
