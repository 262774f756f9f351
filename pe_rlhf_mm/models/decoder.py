"""The decoder: token vectors through a stack of blocks run by `jax.lax.scan`, and logits from tied embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.lora import Bank
from pe_rlhf_mm.models.config import BlockConfig
from pe_rlhf_mm.models.layers import Block, KeyValues, LayerAdapters, RMSNorm, stacked


def _layer_keys(key: jax.Array | None, layers: int) -> jax.Array | None:
    return None if key is None else jax.random.split(key, layers)


def _cut(bank: Bank | None, matrices: dict, dropout: float, key: jax.Array | None) -> LayerAdapters | None:
    return None if bank is None else LayerAdapters(matrices, bank.scale, bank.ids, dropout, key)


class Decoder(nnx.Module):
    """A causal transformer over a vocabulary; its layers are one stacked module."""

    def __init__(self, config: BlockConfig, vocabulary: int, *, rngs: nnx.Rngs):
        self.config = config
        table = jax.random.normal(rngs.params(), (vocabulary, config.width)) * config.width**-0.5
        self.embedding = nnx.Param(table, axes=("vocabulary", "embed"))
        self.layers = stacked(lambda r: Block(config, rngs=r), config.layers, rngs)
        self.norm = RMSNorm(config.width, config.norm_epsilon)

    def embed(self, tokens: Int[Array, ...]) -> Float[Array, "... D"]:
        # sqrt(width) brings the tied table, which is scaled for the logits, to unit variance for the layers.
        return self.embedding[...][tokens] * self.config.width**0.5

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        return jnp.einsum("...d,vd->...v", hidden, self.embedding[...], preferred_element_type=jnp.float32)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B S"],
        mask: Bool[Array, "B S S"],
        bank: Bank | None = None,
        *,
        dropout: float = 0.0,
        key: jax.Array | None = None,
        remat: bool = False,
    ) -> tuple[Float[Array, "B S D"], KeyValues]:
        """Runs all layers; returns normed hidden states and every layer's keys and values (leading axis: layer).

        `dropout` with a `key` applies to the adapters' inputs. `remat` keeps one layer's input instead of everything
        it computed, for about a third more arithmetic in the backward pass.
        """
        graph, layers = nnx.split(self.layers)

        def body(x: Array, layer: tuple) -> tuple[Array, KeyValues]:
            state, matrices, layer_key = layer
            return nnx.merge(graph, state)(x, positions, mask, _cut(bank, matrices, dropout, layer_key))

        body = jax.checkpoint(body) if remat else body
        matrices = {} if bank is None else bank.matrices
        x, past = jax.lax.scan(body, x, (layers, matrices, _layer_keys(key, self.config.layers)))
        return self.norm(x), past

    def decode(
        self,
        x: Float[Array, "B G D"],
        positions: Int[Array, "B G"],
        prompt: KeyValues,
        prompt_mask: Bool[Array, "B L"],
        own: KeyValues,
        step: Int[Array, ""],
        bank: Bank | None = None,
    ) -> tuple[Float[Array, "B G D"], KeyValues]:
        """One decoding step for G completions of each prompt, against the prompt's keys and values kept once."""
        graph, layers = nnx.split(self.layers)

        def body(x: Array, layer: tuple) -> tuple[Array, KeyValues]:
            state, matrices, prompt_layer, own_layer = layer
            block: Block = nnx.merge(graph, state)
            return block.decode(x, positions, prompt_layer, prompt_mask, own_layer, step, _cut(bank, matrices, 0, None))

        matrices = {} if bank is None else bank.matrices
        x, own = jax.lax.scan(body, x, (layers, matrices, prompt, own))
        return self.norm(x), own
