"""Attention by cuDNN, on NVIDIA's GPUs: it holds no scores in memory, but a mask, pair by pair."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from pe_rlhf_mm.models.attention import KeyValues
from pe_rlhf_mm.models.config import BlockConfig
from pe_rlhf_mm.models.sharding import by_rows_and_heads

IMPLEMENTATION: Literal["cudnn", "xla"] = "cudnn"
"""Of `jax.nn.dot_product_attention`: tests without a GPU take its other one."""
AMPERE, HOPPER = 8.0, 9.0
"""Compute capabilities: from which on cuDNN has flash attention, and from which on its heads may be 256 wide."""


def capability() -> float:
    """The compute capability of the first device; 0 where it has none, as AMD's have not."""
    told = str(getattr(jax.devices()[0], "compute_capability", ""))
    return float(told) if re.fullmatch(r"\d+\.\d+", told) else 0.0


def cannot(config: BlockConfig, dtype: Any, platform: str) -> str:
    """Why cuDNN does not compute this attention; nothing if it does."""
    if platform != "gpu":
        return f"cuDNN is for NVIDIA GPUs, and this program is compiled for a {platform.upper()}"
    if (has := capability()) < AMPERE:
        return f"cuDNN attends on NVIDIA GPUs of compute capability {AMPERE} or more, and this one's is {has}"
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN attends in bfloat16 or float16, and this model is in {dtype}"
    if config.soft_cap is not None:
        return f"cuDNN has no soft cap, and the scores of this model are bounded by {config.soft_cap}"
    widest = 256 if has >= HOPPER else 128
    if config.head_width % 8 or config.head_width > widest:
        return (
            f"cuDNN takes heads of a multiple of 8 up to {widest} here, and those of this model are {config.head_width}"
        )
    return ""


def pays(config: BlockConfig, length: int, platform: str) -> bool:
    """Wherever it can: it has not been timed here."""
    return True


def attend(
    query: Float[Array, "B S H C"], past: KeyValues, mask: Bool[Array, "B S seen"] | None, config: BlockConfig
) -> Float[Array, "B S H C"]:
    """What `attention.attend` computes."""
    length, seen = query.shape[1], past.keys.shape[1]
    if mask is None and (length % 2 or seen % 2):
        mask = jnp.ones((query.shape[0], length, seen), bool)
    arrays = tuple(_even(x, 1) for x in (query, *past))
    masks = () if mask is None else (_even(_even(mask, 1), 2)[:, None],)
    return checkpoint_name(_fused(config.scale, arrays, masks)[:, :length], "attended")


def _even(x: Array, axis: int) -> Array:
    """With a mask, gradients are for even lengths only."""
    return jnp.pad(x, [(0, x.shape[axis] % 2 if n == axis else 0) for n in range(x.ndim)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(scale: float, arrays: tuple[Array, ...], masks: tuple[Array, ...]) -> Array:
    return _on_own_rows(functools.partial(_attended, scale), arrays, masks)


def _forward(scale: float, arrays: tuple[Array, ...], masks: tuple[Array, ...]) -> tuple[Array, Any]:
    return _fused(scale, arrays, masks), (arrays, masks)


def _backward(scale: float, kept: Any, gradient: Array) -> tuple[tuple[Array, ...], None]:
    arrays, masks = kept
    return _on_own_rows(functools.partial(_gradients, scale), (*arrays, gradient), masks), None


_fused.defvjp(_forward, _backward)


def _attended(scale: float, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, implementation=IMPLEMENTATION)


def _gradients(scale: float, q: Array, k: Array, v: Array, gradient: Array, mask: Array | None = None) -> Any:
    return jax.vjp(lambda q, k, v: _attended(scale, q, k, v, mask), q, k, v)[1](gradient)


def _on_own_rows(compute: Callable[..., Any], arrays: tuple[Array, ...], masks: tuple[Array, ...]) -> Any:
    """Every device computes its own rows and heads. An axis that `jax.vmap` maps becomes more rows, masks included:
    cuDNN's own rule would leave a mask behind that is not mapped."""

    def local(arrays: tuple[Array, ...], masks: tuple[Array, ...]) -> Any:
        return _with_rows_for_a_mapped_axis(compute)(*arrays, *masks)

    return by_rows_and_heads(local, ("rows", None, "kv_heads"), arrays, masks)


def _with_rows_for_a_mapped_axis(compute: Callable[..., Any]) -> Callable[..., Any]:
    call = jax.custom_batching.custom_vmap(compute)

    @call.def_vmap
    def _(size: int, mapped: list[bool], *given: Array) -> tuple[Any, Any]:
        every = (
            x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_mapped in zip(given, mapped, strict=True)
        )
        out = _with_rows_for_a_mapped_axis(compute)(*(x.reshape(-1, *x.shape[2:]) for x in every))
        apart = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), out)
        return apart, jax.tree.map(lambda _: True, out)

    return call
