"""Kernels of attention on four devices, beside plain attention on one; run by `test_attention.py`.

    python attention_on_a_mesh.py

prints the largest difference of outputs and gradients, and over which grids the kernels go.
"""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from models import CONFIG
from test_attention import BLOCK, LENGTH, SIGHTS, by, drawn, together, with_gradients

import pe_rlhf_mm as pe
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.models import cudnn, flash
from pe_rlhf_mm.models.config import with_attention
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.models.stack import Stack

flash.BLOCKS, cudnn.IMPLEMENTATION = (16,), "xla"


def apart(found: object, expected: object) -> float:
    """The largest difference, in the largest number of its array."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(one) - np.asarray(other)).max() / np.abs(other).max()) for one, other in pairs)


def trained(kernel: str) -> object:
    """The gradients of two layers, which are scanned and computed again in the backward pass."""
    graph, weights = nnx.split(Stack(dataclasses.replace(BLOCK, attention=kernel), rngs=nnx.Rngs(0)))
    sight = jax.tree.map(lambda x: jnp.concatenate([x, x])[None], SIGHTS["prompt once"]())

    def loss(weights: nnx.State, x: jax.Array) -> jax.Array:
        return jnp.sum(nnx.merge(graph, weights)(x, None, sight, remat="layers").x ** 2)

    x = np.random.default_rng(1).normal(size=(4, LENGTH, 32)).astype(np.float32)
    return jax.jit(jax.grad(loss, argnums=(0, 1)))(weights, by_rows(x))


def main() -> None:
    sight = together()
    given = drawn(sight, 2)  # two roles side by side
    expected, learned = with_gradients(jax.vmap(by("xla", sight)), *given), trained("xla")
    with jax.set_mesh(pe.make_mesh(fsdp=2, model=2)):
        program = str(jax.make_jaxpr(by("flash", sight))(*(x[0] for x in given[:3])))
        ours = {kernel: with_gradients(jax.vmap(by(kernel, sight)), *given) for kernel in ("flash", "cudnn")}
        found = {kernel: apart(got, expected) for kernel, got in ours.items()}
        found["layers"] = apart(trained("flash"), learned)
        tower = Gallery(with_attention(CONFIG, "flash"))._plain.vision
    print(
        json.dumps(
            {
                **found,
                "grids": re.findall(r"grid=(\([^)]*\))", program),
                "looks with": tower.block.attention,
            }
        )
    )


if __name__ == "__main__":
    main()
