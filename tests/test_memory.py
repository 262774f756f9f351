"""What the backward pass keeps of the forward pass, read off the compiled program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from pe_rlhf_mm.models.attention import Sight
from pe_rlhf_mm.models.config import BlockConfig, LayerKind, Remat, Rope
from pe_rlhf_mm.models.stack import Stack

LAYERS, HEADS, WIDTH, LENGTH = 6, 4, 32, 256
CONFIG = BlockConfig(
    layers=LAYERS, width=WIDTH, heads=HEADS, kv_heads=2, head_width=8, mlp_width=64, kinds=(LayerKind(Rope(1e4)),)
)  # fmt: skip
ALL_SCORES = LAYERS * HEADS * LENGTH**2 * 4
"""Bytes of the scores of attention in all layers."""


def working_memory(*, remat: Remat) -> int:
    stack = Stack(CONFIG, rngs=nnx.Rngs(0))
    x, at = jnp.ones((1, LENGTH, WIDTH)), jnp.arange(LENGTH)[None, None]
    sight = Sight(at, at, at, at, at + LENGTH, at + LENGTH)  # all that came before

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(stack(x, None, sight, remat=remat).x ** 2)

    return jax.jit(jax.grad(loss)).lower(x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("remat", ["products", "host", "layers"])
def test_no_layer_keeps_its_scores(remat: Remat) -> None:
    assert working_memory(remat=remat) < ALL_SCORES


def test_less_is_kept_of_layers_than_of_products_and_most_of_everything() -> None:
    products = LAYERS * LENGTH * (2 * WIDTH + 2 * 16 + 3 * 64) * 4 / 2  # at least half of them
    assert working_memory(remat="layers") < working_memory(remat="products") - products
    assert working_memory(remat="everything") > ALL_SCORES
