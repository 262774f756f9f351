"""The kernels of a frozen backbone in 8 or 4 bits: weights only, the arithmetic stays in the type of the activations.

Quantised are the matrices of all layers, of the decoder and of the tower. Embeddings, norms, biases and the connector
stay as they are: they are few, and errors in them are felt everywhere.

    int8    W[i, j] ≈ s[j] · c[i, j],            s[j] = max_i |W[i, j]| / 127,    c a whole number in [-127, 127]
    nf4     W[i, j] ≈ s[i // 64, j] · NF4[c[i, j]],    s = the largest |W| of 64 rows,    c in [0, 16)

Both round to the nearest value there is, so an entry is off by s / 2 at most in int8, and in nf4 by 0.152 s, half of
the widest gap of its 16 values. Bits a weight, with n = rows of the matrix: 8 + 32 / n, and 4 + 32 / 64.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int8, UInt8

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import Quantization

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of the normal distribution, 7 below zero and 8 above, over the outermost one, and zero itself
(Dettmers et al. 2023, arXiv 2305.14314, appendix E)."""
BLOCK = 64
"""Rows of one column that share a scale in nf4; the last block of a column may be shorter."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values", "scales"], meta_fields=["kind"])
@dataclass(frozen=True)
class Quantized:
    """What stands in the place of a kernel [*L, in, out]. nf4 packs rows 2i and 2i + 1 into the halves of one byte:
    an array of 4-bit integers would take a whole byte for each on a CPU."""

    values: Int8[Array, "*L in out"] | UInt8[Array, "*L in/2 out"]
    scales: Float[Array, "*L blocks out"]
    kind: Quantization

    @property
    def size(self) -> int:
        """How many weights it stands for."""
        return self.values.size * (2 if self.kind == "nf4" else 1)


def checked(kind: str | None) -> Quantization | None:
    """A kind of quantisation that a user named. Raises UserError for one that there is not."""
    known = {None: None, **{k: k for k in get_args(Quantization)}}
    if kind not in known:
        raise UserError(f"no quantisation {kind!r}; there are {', '.join(get_args(Quantization))}, or None.")
    return known[kind]


def covers(name: str) -> bool:
    """Whether the weight of that dotted path is one of those that are quantised: a kernel of a stack of layers."""
    return ".layers.blocks." in name and name.endswith(".kernel")


@functools.partial(jax.jit, static_argnames="kind")
def quantized(kernel: Float[Array, "*L in out"], kind: Quantization) -> Quantized:
    """The nearest kernel that can be written as at the top of this file. Raises UserError for nf4 of an odd `in`."""
    kernel = kernel.astype(jnp.float32)
    if kind == "int8":
        scales = jnp.max(jnp.abs(kernel), axis=-2, keepdims=True) / 127
        return Quantized(jnp.round(kernel / _divisor(scales)).astype(jnp.int8), scales, kind)
    *layers, rows, columns = kernel.shape
    if rows % 2:
        raise UserError(f"nf4 packs rows in pairs, and this model has a matrix of {rows} rows: use int8.")
    padded = jnp.pad(kernel, (*[(0, 0)] * len(layers), (0, -rows % BLOCK), (0, 0)))
    scales = jnp.max(jnp.abs(padded.reshape(*layers, -1, BLOCK, columns)), axis=-2)
    values = jnp.array(NF4)
    codes = jnp.searchsorted((values[1:] + values[:-1]) / 2, kernel / _by_row(_divisor(scales), rows))
    pairs = codes.astype(jnp.uint8).reshape(*layers, rows // 2, 2, columns)
    return Quantized(pairs[..., 0, :] | pairs[..., 1, :] << 4, scales, kind)


def _divisor(scales: Array) -> Array:
    """A block of zeros has the scale 0, and is zeros again whatever it is divided by."""
    return jnp.where(scales == 0, 1, scales)


def _by_row(scales: Float[Array, "*L blocks out"], rows: int) -> Float[Array, "*L in out"]:
    return jnp.repeat(scales, BLOCK, axis=-2)[..., :rows, :]


def dequantized(kernel: Quantized) -> Float[Array, "*L in out"]:
    """The kernel that a quantised one stands for, in float32."""
    if kernel.kind == "int8":
        return kernel.values * kernel.scales
    *layers, half, columns = kernel.values.shape
    codes = jnp.stack([kernel.values & 15, kernel.values >> 4], axis=-2).reshape(*layers, 2 * half, columns)
    return jnp.array(NF4)[codes] * _by_row(kernel.scales, 2 * half)


def matmul(x: Float[Array, "*rows in"], kernel: Float[Array, "in out"] | Quantized) -> Float[Array, "*rows out"]:
    """x W, in the type of x; gradients go to x alone where the kernel is quantised."""
    return _matmul(x, kernel) if isinstance(kernel, Quantized) else x @ kernel


# Without the checkpoint the backward pass would keep the dequantised kernels of all layers, more than was saved. Its
# guard against merging the two passes is not needed: they are two loops over the layers.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _matmul(x: Float[Array, "*rows in"], kernel: Quantized) -> Float[Array, "*rows out"]:
    return x @ dequantized(kernel).astype(x.dtype)


def quantized_state(state: nnx.State, kind: Quantization) -> nnx.State:
    """The weights of a model with their kernels quantised, in the places where the kernels were."""
    return nnx.map_state(
        lambda path, variable: (
            variable.replace(quantized(variable.get_value(), kind)) if covers(".".join(map(str, path))) else variable
        ),
        state,
    )


def refuse(state: nnx.State, purpose: str, *, remedy: str = "Load the model without quantize for that.") -> None:
    """Raises UserError if weights are quantised, for a purpose that needs them in full; `remedy` is what to do."""
    leaves = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, Quantized))
    kinds = {leaf.kind for leaf in leaves if isinstance(leaf, Quantized)}
    if kinds:
        raise UserError(f"the backbone is quantised ({kinds.pop()}), and {purpose}. {remedy}")
