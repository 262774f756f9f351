"""A stack of blocks, run by one `jax.lax.scan` over their stacked weights: the body of the decoder and of the tower.

Layers may be of several kinds (near-sighted or not, two sets of rotary positions). What differs is computed once for
each kind, outside the scan, with a leading axis of kinds; every layer picks its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.gates import Gates, Shares
from pe_rlhf_mm.adapters.lora import Bank, Gains, Slot
from pe_rlhf_mm.models.attention import KeyValues, Memory, Sight
from pe_rlhf_mm.models.config import BlockConfig, Remat
from pe_rlhf_mm.models.kernels import kernel_for
from pe_rlhf_mm.models.layers import Block, LayerAdapters, Rate, stacked
from pe_rlhf_mm.models.rope import angles

DEAR = ("product", "attended")
"""What of a layer is dear to compute: its products, and what attention mixed, but not its scores, [B, H, S, S]."""
KEPT: dict[Remat, Callable[..., Any] | None] = {
    "everything": jax.checkpoint_policies.everything_saveable,
    "products": jax.checkpoint_policies.save_only_these_names(*DEAR),
    "host": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=DEAR, offload_src="device", offload_dst="pinned_host"
    ),
    "layers": None,
}
"""What a layer keeps for its backward pass, which computes all else again; `layers`: nothing but its input."""


class Passed(NamedTuple):
    """What a stack gives back: its output, all layers' keys and values, the outputs of the layers asked for, and what
    the gates of all layers said."""

    x: Float[Array, "B S D"]
    past: KeyValues
    tapped: Float[Array, "taps B S D"]
    shares: Shares


def kind_angles(config: BlockConfig, positions: Int[Array, "*rows A"]) -> Float[Array, "kinds *rows F"] | None:
    """Rotary angles for every kind of layer; None where the stack does not rotate."""
    ropes = [kind.rope for kind in config.kinds]
    if None in ropes:
        return None
    return jnp.stack([angles(rope, config.head_width // 2, positions) for rope in ropes if rope is not None])


def _of(kind: Int[Array, ""], tables: Any) -> Any:
    """The rows of a layer's kind, of any number of tables. With one kind nothing is copied."""

    def row(table: Array) -> Array:
        return table[0] if len(table) == 1 else jax.lax.dynamic_index_in_dim(table, kind, keepdims=False)

    return jax.tree.map(row, tables)


def _cut(bank: Bank | None, layer: tuple, dropout: Rate, key: jax.Array | None) -> LayerAdapters | None:
    matrices, gains, gates = layer
    return None if bank is None else LayerAdapters(matrices, bank.scale, gains, bank.ids, dropout, key, gates)


def _by_layer(bank: Bank | None) -> tuple[Slot, Gains, Gates | None]:
    """What of a bank every layer has its own part of."""
    return ({}, {}, None) if bank is None else (bank.matrices, bank.gains, bank.gates)


class Stack(nnx.Module):
    """Blocks of one config, stacked along a leading layer axis."""

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.blocks = stacked(lambda r: Block(config, rngs=r), config.layers, rngs)

    def _layers(self) -> tuple[Int[Array, " layers"], Int[Array, " layers"]]:
        layers = self.config.layers
        return jnp.arange(layers), jnp.array(self.config.pattern or (0,) * layers)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        angles: Float[Array, "kinds B S F"] | None = None,
        sight: Sight | None = None,
        bank: Bank | None = None,
        *,
        before: Memory | None = None,
        added: Float[Array, "levels B S D"] | None = None,
        taps: tuple[int, ...] = (),
        dropout: Rate = 0.0,
        key: jax.Array | None = None,
        remat: Remat = "products",
    ) -> Passed:
        """Runs all layers.

        `sight`: who sees whom, for every kind of layer; without it all see all. `before`: every layer's memory of what
        stands before x, the first keys of `sight`. `added`: level n is added to the output of layer n. `taps`: layers
        whose output is given back. `dropout` with a `key` applies to the adapters' inputs. `remat`: which of KEPT is
        kept for the backward pass.
        """
        graph, blocks = nnx.split(self.blocks)
        kernel = kernel_for(self.config, x.dtype, x.shape[1])
        prepared = kernel.prepare(sight, x.shape[:2])

        def body(carry: tuple[Array, Array], layer: tuple) -> tuple[tuple[Array, Array], tuple[KeyValues, Shares]]:
            (x, tapped), (state, matrices, earlier, layer_key, index, kind) = carry, layer
            adapters, seen = _cut(bank, matrices, dropout, layer_key), _of(kind, prepared)

            def attend(query: Array, past: KeyValues) -> Array:
                return kernel.attend(query, past, seen, self.config)

            x, past, shares = nnx.merge(graph, state)(x, _of(kind, angles), attend, adapters, earlier)
            if added is not None:
                x = x + jnp.where(index < len(added), added[jnp.minimum(index, len(added) - 1)], 0).astype(x.dtype)
            for n, tap in enumerate(taps):
                tapped = tapped.at[n].set(jnp.where(index == tap, x, tapped[n]))
            return (x, tapped), (past, shares)

        body = jax.checkpoint(body, prevent_cse=False, policy=KEPT[remat])
        keys = None if key is None else jax.random.split(key, self.config.layers)
        matrices = _by_layer(bank)
        start = (x, jnp.zeros((len(taps), *x.shape), x.dtype))
        (x, tapped), (past, shares) = jax.lax.scan(body, start, (blocks, matrices, before, keys, *self._layers()))
        return Passed(x, past, tapped, shares)

    def decode(
        self,
        x: Float[Array, "B G D"],
        angles: Float[Array, "kinds B G F"] | None,
        prompt: Memory,
        prompt_masks: Bool[Array, "kinds B L"],
        own: Memory,
        own_masks: Bool[Array, "kinds T"],
        step: Int[Array, ""],
        bank: Bank | None = None,
    ) -> tuple[Float[Array, "B G D"], Memory]:
        """One decoding step for G completions of each prompt, against the prompt's keys and values kept once.

        The scan only reads memory, and all layers' new keys and values are written at once behind it, in place: a
        memory that went through the scan would be copied by every layer.
        """
        graph, blocks = nnx.split(self.blocks)

        def body(x: Array, layer: tuple) -> tuple[Array, KeyValues]:
            state, matrices, prompt_layer, own_layer, kind = layer
            block: Block = nnx.merge(graph, state)
            masks = _of(kind, prompt_masks), _of(kind, own_masks)
            adapters = _cut(bank, matrices, 0, None)
            return block.decode(x, _of(kind, angles), prompt_layer, masks[0], own_layer, masks[1], adapters)

        matrices = _by_layer(bank)
        x, new = jax.lax.scan(body, x, (blocks, matrices, prompt, own, self._layers()[1]))
        return x, own.with_token(new, step)
