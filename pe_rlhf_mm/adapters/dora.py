"""Adapters that learn the length of every column of a matrix apart from its direction.

    y = m / ‖W + scale · a b‖ ∘ (x W + scale · (x a) b),      m = ‖W‖ at the start

where ‖·‖ is the length of each column, a constant to gradients, and m / ‖·‖ is called the gain. A fresh slot changes
nothing, but for the rounding of its lengths. DoRA: Liu et al. 2024 (arXiv 2402.09353), equation 5, and section 4.3 for
the constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pe_rlhf_mm.adapters import lora
from pe_rlhf_mm.adapters.lora import Slot
from pe_rlhf_mm.models.quantize import Quantized, dequantized
from pe_rlhf_mm.models.sharding import GATHERED, cut
from pe_rlhf_mm.models.vlm import kernel_at

Kernel = Float[Array, "*L in out"] | Quantized
TINY = 1e-30
"""The square of a length is no less: a column of zeros stays one."""


def gains(state: nnx.State, slot: Slot, scale: float | Float[Array, ""]) -> dict[str, Float[Array, "L out"]]:
    """m / ‖W + scale · a b‖ of every matrix of which a slot has learned m: none of a slot without."""
    learned = {target: low for target, low in slot.items() if low.magnitude is not None}
    return _gains(_kernels(state, learned), learned, jnp.float32(scale), _columns(state, learned))


def decomposed(state: nnx.State, slot: Slot) -> Slot:
    """A slot with lengths to learn, those of W + 0: it must be fresh."""
    found = _lengths(_kernels(state, slot), slot, jnp.float32(0), _columns(state, slot))
    return {target: low._replace(magnitude=found[target]) for target, low in slot.items()}


KINDS: dict[str, Callable[[nnx.State, Slot], Slot]] = {"lora": lambda state, slot: slot, "dora": decomposed}
"""What is made of a fresh slot over a backbone."""


def merged(state: nnx.State, slot: Slot, scale: float | Float[Array, ""]) -> dict[str, Float[Array, "L in out"]]:
    """What a slot adds to every kernel, W' - W, whether it has lengths or not."""
    updates, kernels = lora.merged(slot, scale), _kernels(state, slot)
    for target, gain in gains(state, slot, scale).items():
        kernel = _in_full(_layers(kernels[target]))
        updates[target] = gain[:, None] * (kernel + updates[target]) - kernel
    return updates


def _in_full(kernel: Kernel) -> Float[Array, "*L in out"]:
    """A kernel in float32, quantised or not."""
    return dequantized(kernel) if isinstance(kernel, Quantized) else kernel.astype(jnp.float32)


def _kernels(state: nnx.State, slot: Slot) -> dict[str, Kernel]:
    return {target: kernel_at(state, target).get_value() for target in slot}


def _layers(kernel: Kernel) -> Kernel:
    """Of a matrix that is there once, too."""
    return kernel if isinstance(kernel, Quantized) else kernel.reshape(-1, *kernel.shape[-2:])


def _columns(state: nnx.State, slot: Slot) -> tuple[tuple[str, str | None], ...]:
    """The logical axis of the columns of every matrix, as lengths are to lie: whole over `fsdp`, as adapters do."""
    axes = {target: kernel_at(state, target).get_metadata("axes")[1] for target in slot}
    return tuple((target, None if axis in GATHERED else axis) for target, axis in axes.items())


@functools.partial(jax.jit, static_argnames="columns")
def _gains(
    kernels: Mapping[str, Kernel], slot: Slot, scale: Float[Array, ""], columns: tuple[tuple[str, str | None], ...]
) -> dict[str, Float[Array, "L out"]]:
    lengths = jax.lax.stop_gradient(_lengths(kernels, slot, scale, columns))
    return {target: low.magnitude / lengths[target] for target, low in slot.items()}


@functools.partial(jax.jit, static_argnames="columns")
def _lengths(
    kernels: Mapping[str, Kernel], slot: Slot, scale: Float[Array, ""], columns: tuple[tuple[str, str | None], ...]
) -> dict[str, Float[Array, "L out"]]:
    """‖w + s a b‖² = ‖w‖² + 2 s (wᵀa) b + s² bᵀ(aᵀa) b, of every column w of W with its column of b.

    So nothing of the size of W is made but one layer in float32, which is not gathered where it is kept in parts.
    """

    def of_layer(layer: tuple[Kernel, Array, Array]) -> Float[Array, " out"]:
        kernel, a, b = layer
        weights = _in_full(kernel)
        crossed = jnp.einsum("ro,ro->o", a.T @ weights, b)
        own = jnp.einsum("ro,ro->o", (a.T @ a) @ b, b)
        return jnp.sqrt(jnp.maximum(jnp.sum(weights**2, axis=0) + 2 * scale * crossed + scale**2 * own, TINY))

    def of_all(target: str, axis: str | None) -> Float[Array, "L out"]:
        low = slot[target]
        return cut(jax.lax.map(of_layer, (_layers(kernels[target]), low.a, low.b)), None, axis)

    return {target: of_all(target, axis) for target, axis in columns}
