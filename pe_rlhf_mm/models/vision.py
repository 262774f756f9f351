"""From patches to image tokens: a bidirectional tower, then neighbouring patches merged and projected."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Array, Float, UInt8

from pe_rlhf_mm.models.config import VisionConfig
from pe_rlhf_mm.models.layers import Block, Linear, RMSNorm, stacked


class VisionTower(nnx.Module):
    """Patches of square images to vectors of the decoder's width, `merge`² patches to an image token."""

    def __init__(self, config: VisionConfig, width_out: int, *, rngs: nnx.Rngs):
        self.config = config
        block = config.block
        self.patches = Linear(config.patch_numbers, block.width, ("pixels", "embed"), rngs=rngs)
        positions = jax.random.normal(rngs.params(), (config.patches, block.width)) * 0.02
        self.positions = nnx.Param(positions, axes=("patches", "embed"))
        self.layers = stacked(lambda r: Block(block, rngs=r), block.layers, rngs)
        self.norm = RMSNorm(block.width, block.norm_epsilon)
        self.project = Linear(block.width * config.merge**2, width_out, ("merged", "embed"), rngs=rngs)

    def __call__(self, patches: UInt8[Array, "B P X"]) -> Float[Array, "B M D"]:
        """Looks at every image on its own; bytes become [-1, 1]. P and M count over all images of a row."""
        config, (rows, _, numbers) = self.config, patches.shape
        unit = patches.reshape(-1, config.patches, numbers).astype(self.patches.kernel.dtype) / 127.5 - 1
        x = self.patches(unit) + self.positions[...]
        graph, layers = nnx.split(self.layers)
        x, _ = jax.lax.scan(lambda x, layer: (nnx.merge(graph, layer)(x)[0], None), x, layers)
        side, merge = config.grid // config.merge, config.merge
        x = self.norm(x).reshape(-1, side, merge, side, merge, config.block.width)
        merged = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side, merge * merge * config.block.width)
        return self.project(merged).reshape(rows, -1, self.project.kernel.shape[-1])
