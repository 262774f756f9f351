"""From patches to image tokens: a bidirectional tower, then neighbouring patches merged and projected.

Patches come in *block order*: the merge x merge patches of one image token stand together, so merging is a reshape
whatever the shape of the picture. Where a patch stands in its picture follows from its number and the grid.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.lora import Bank, within
from pe_rlhf_mm.models.attention import NOBODY, Sight
from pe_rlhf_mm.models.config import Connector, Native, VisionConfig
from pe_rlhf_mm.models.layers import Linear, Norm, Rate, alone
from pe_rlhf_mm.models.sharding import cut, gathered
from pe_rlhf_mm.models.stack import Stack, kind_angles
from pe_rlhf_mm.types import Pixels


class Places(NamedTuple):
    """Where each patch of I views stands, and whether it is there at all."""

    row: Int[Array, "I P"]
    column: Int[Array, "I P"]
    real: Bool[Array, "I P"]


def places(grid: Int[Array, "I 2"], patches: int, merge: int) -> Places:
    """Block order undone: the row and column of the n-th of `patches` patches of each view."""
    number, across = jnp.arange(patches), jnp.maximum(grid[:, 1:] // merge, 1)
    block, inner = number // merge**2, number % merge**2
    row = block // across * merge + inner // merge
    column = block % across * merge + inner % merge
    return Places(row, column, number < (grid[:, :1] * grid[:, 1:]))


def stretched(table: Float[Array, "Q D"], side: int, at: Places, grid: Int[Array, "I 2"]) -> Float[Array, "I P D"]:
    """Learned positions of a side x side table, interpolated bilinearly over each view, corners on corners."""

    def taps(index: Int[Array, "I P"], size: Int[Array, "I 1"]) -> tuple[Array, Array]:
        source = index * (side - 1) / jnp.maximum(size - 1, 1)
        low = jnp.clip(jnp.floor(source).astype(int), 0, side - 1)
        share = (source - low)[..., None]
        return jnp.stack([low, jnp.minimum(low + 1, side - 1)]), jnp.stack([1 - share, share])

    (rows, row_shares), (columns, column_shares) = taps(at.row, grid[:, :1]), taps(at.column, grid[:, 1:])
    corners = [(r, c) for r in (0, 1) for c in (0, 1)]
    parts = [row_shares[r] * column_shares[c] * table[rows[r] * side + columns[c]] for r, c in corners]
    return jnp.sum(jnp.stack(parts), axis=0).astype(table.dtype)


class Projector(nnx.Module):
    """Merged patches to vectors of the decoder's width."""

    def __init__(self, config: VisionConfig, kind: Connector, width_out: int, *, rngs: nnx.Rngs):
        self.kind, width = kind, config.block.width * (1 if kind.pool else config.merge**2)
        if kind.norm is not None:
            self.norm = Norm(width, kind.norm, config.block.norm_epsilon)
        if kind.hidden:
            self.hidden = Linear(width, width, ("merged", "mlp"), bias=kind.bias, rngs=rngs)
        self.project = Linear(width, width_out, ("merged", "embed"), bias=kind.bias, rngs=rngs)

    def merge(self, blocks: Float[Array, "I M Q D"]) -> Float[Array, "I M V"]:
        """The patches of an image token as one vector."""
        return blocks.mean(axis=2) if self.kind.pool else blocks.reshape(*blocks.shape[:2], -1)

    def __call__(
        self, x: Float[Array, "I M V"], bank: Bank | None = None, *, dropout: Rate = 0.0, key: jax.Array | None = None
    ) -> Float[Array, "I M W"]:
        adapters = alone(within(bank), dropout, key)
        x = self.norm(x) if self.kind.norm is not None else x
        x = jax.nn.gelu(self.hidden(x, adapters, "hidden"), approximate=False) if self.kind.hidden else x
        return self.project(x, adapters, "project")


def of_views(bank: Bank | None, views: int) -> Bank | None:
    """A bank whose rows chose by row, for the views of all rows."""
    return bank if bank is None or bank.ids is None else bank._replace(ids=jnp.repeat(bank.ids, views))


class VisionTower(nnx.Module):
    """Patches to vectors of the decoder's width, `merge`² patches to an image token."""

    def __init__(self, config: VisionConfig, width_out: int, *, rngs: nnx.Rngs):
        self.config, block = config, config.block
        numbers = config.patch_numbers * config.frames
        self.patches = Linear(numbers, block.width, ("pixels", "embed"), bias=config.patch_bias, rngs=rngs)
        if config.side:
            positions = jax.random.normal(rngs.params(), (config.side**2, block.width)) * 0.02
            self.positions = nnx.Param(positions, axes=("patches", "embed"))
        self.layers = Stack(block, rngs=rngs)
        self.norm = Norm(block.width, block.norm, block.norm_epsilon)
        self.connector = Projector(config, config.connector, width_out, rngs=rngs)
        deep = Connector(norm="layer", hidden=True, bias=True)
        self.deepstack = nnx.List([Projector(config, deep, width_out, rngs=rngs) for _ in config.deepstack])

    def see(
        self, pixels: Pixels, bank: Bank | None = None, *, dropout: Rate = 0.0, key: jax.Array | None = None
    ) -> Float[Array, "I M V"]:
        """Every one of I = B·N views on its own. V: what the projectors of all levels are given, side by side.

        Views are padded to one number of patches, P; image tokens beyond a view's own are meaningless.
        """
        config, (rows, views, count, _) = self.config, pixels.patches.shape
        grid = pixels.grid.reshape(-1, 2)
        at = places(grid, count, config.merge)
        x = cut(self._embed(pixels.patches.reshape(rows * views, count, -1)), "rows")
        learned = gathered(self.positions[...], "patches", "embed") if config.side else None
        if learned is not None and isinstance(config.views, Native):
            x = x + stretched(learned, config.side, at, grid)
        elif learned is not None:
            x = x + learned[at.row * config.side + at.column]
        angles = kind_angles(config.block, jnp.stack([at.row, at.column], axis=-1))
        own = of_views(within(bank, "tower."), views)
        passed = self.layers(x, angles, self._sight(at), own, taps=config.deepstack, dropout=dropout, key=key)
        levels = [self.connector.merge(self._blocks(self.norm(passed.x)))]
        levels += [deep.merge(self._blocks(x)) for deep, x in zip(self.deepstack, passed.tapped, strict=True)]
        return jnp.concatenate(levels, axis=-1)

    def project(
        self,
        merged: Float[Array, "I M V"],
        bank: Bank | None = None,
        *,
        dropout: Rate = 0.0,
        key: jax.Array | None = None,
    ) -> Float[Array, "I M W"]:
        """What the decoder is given. W: vectors of its width side by side, one for each level."""
        own, ends = within(bank, "projector."), np.cumsum(self.config.merged_widths)[:-1]
        first, *deep = jnp.split(merged, ends, axis=-1)
        levels = [self.connector(first, own, dropout=dropout, key=key)]
        for n, (project, x) in enumerate(zip(self.deepstack, deep, strict=True)):
            inner = None if key is None else jax.random.fold_in(key, n)
            levels.append(project(x, within(own, f"{n}."), dropout=dropout, key=inner))
        return jnp.concatenate(levels, axis=-1)

    def _embed(self, patches: Array) -> Float[Array, "I P D"]:
        """Bytes become numbers of the mean and spread that the tower was trained on."""
        config, dtype = self.config, self.patches.kernel.dtype
        colours = patches.reshape(*patches.shape[:-1], -1, 3).astype(jnp.float32) / 255
        unit = (colours - jnp.array(config.mean)) / jnp.array(config.std)
        flat = unit.reshape(patches.shape).astype(dtype)
        return self.patches(jnp.tile(flat, config.frames))

    def _blocks(self, x: Float[Array, "I P D"]) -> Float[Array, "I M Q D"]:
        return x.reshape(len(x), -1, self.config.merge**2, x.shape[-1])

    def _sight(self, at: Places) -> Sight | None:
        """Who sees whom: everybody in views of one fixed size; else real patches, in some layers of one window."""
        if not isinstance(self.config.views, Native):
            return None
        sides = [kind.window for kind in self.config.block.kinds]
        windows = [at.row * 0 if side is None else at.row // side * 2**15 + at.column // side for side in sides]
        window = jnp.stack(windows)  # patches of one enter at once, and leave before the next
        return Sight(window, window, window, window, jnp.where(at.real, window + 1, NOBODY), window + 1)
