"""What a model remembers of conversations between turns, so that no token is read twice.

A history has room for a fixed number of columns, so that one compiled program serves every turn. Each turn fills the
next ones: first those of what is read, then those of the reply. Padding fills columns too, and nobody sees it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.models.attention import Memory
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.sharding import cut


class History(NamedTuple):
    """Keys and values of every layer, [layers, B, K, ..], where their tokens stand, which are real, and how many
    columns are in use."""

    memory: Memory
    positions: Int[Array, "B C A"]
    mask: Bool[Array, "B C"]
    used: Int[Array, ""]

    def followed_by(self, new: Memory, positions: Int[Array, "B N A"], mask: Bool[Array, "B N"]) -> History:
        """The history with N more columns. The caller sees to it that there is room: what does not fit would be written
        over the last columns."""
        write = jax.lax.dynamic_update_slice_in_dim
        keys = write(self.memory.keys, new.keys, self.used, -1)
        values = write(self.memory.values, new.values, self.used, -2)
        return History(
            Memory(keys, values),
            write(self.positions, positions, self.used, 1),
            write(self.mask, mask, self.used, 1),
            self.used + mask.shape[1],
        )


@functools.partial(jax.jit, static_argnames=("config", "rows", "columns", "dtype"))
def nothing_read(config: VLMConfig, rows: int, columns: int, dtype: jnp.dtype) -> History:
    """The history of `rows` conversations that have not begun, with room for so many columns."""
    block = config.decoder
    shape, cuts = (block.layers, rows, block.kv_heads, block.head_width, columns), (None, "rows", "kv_heads")
    keys: Float[Array, ...] = cut(jnp.zeros(shape, dtype), *cuts)
    values = cut(keys.swapaxes(-1, -2), *cuts)
    positions = cut(jnp.zeros((rows, columns, block.position_axes), jnp.int32), "rows")
    return History(Memory(keys, values), positions, cut(jnp.zeros((rows, columns), bool), "rows"), jnp.int32(0))


def with_room(history: History, columns: int) -> History:
    """The history with room for so many columns at least."""
    more = columns - history.mask.shape[1]
    if more <= 0:
        return history

    def wider(x: Array, axis: int) -> Array:
        return jnp.pad(x, [(0, more if n == axis % x.ndim else 0) for n in range(x.ndim)])

    memory = Memory(wider(history.memory.keys, -1), wider(history.memory.values, -2))
    return History(memory, wider(history.positions, 1), wider(history.mask, 1), history.used)
