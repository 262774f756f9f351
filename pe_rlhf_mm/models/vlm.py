"""The vision-language model: image tokens merged into text, rows of prompts with their completions, logits.

A row is one prompt followed by its G completions, [prompt | c1 | .. | cG]. A completion sees the prompt and itself
only, so the prompt is computed once for all of them, and the result equals G separate rows exactly. The mask is an
ancestor test on a depth-first numbering of the tokens, two integers each: q sees k iff enter[k] <= enter[q] < leave[k].
A prompt with completions is a tree of depth one; episodes that branch at a later turn need nothing new.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.lora import Bank
from pe_rlhf_mm.adapters.targets import path_of
from pe_rlhf_mm.models.attention import FURTHEST, NOBODY
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.models.decoder import Decoder, Read
from pe_rlhf_mm.models.history import History
from pe_rlhf_mm.models.layers import Rate
from pe_rlhf_mm.models.vision import VisionTower, of_views
from pe_rlhf_mm.types import Completions, Features, Merged, Packed, Pictures, Pixels, Prompts


class Rows(NamedTuple):
    """Tokens in the order they are computed, with what decides who sees whom."""

    tokens: Int[Array, "B S"]
    positions: Int[Array, "B S A"]
    enter: Int[Array, "B S"]
    leave: Int[Array, "B S"]


def prompt_positions(config: VLMConfig, prompts: Prompts) -> Int[Array, "B L A"]:
    """The positions that came with the prompts, or their tokens counted."""
    if prompts.positions is not None:
        return jnp.asarray(prompts.positions)
    counted = jnp.maximum(jnp.cumsum(prompts.mask, axis=1) - 1, 0)
    return jnp.repeat(counted[..., None], config.decoder.position_axes, axis=-1)


def next_positions(config: VLMConfig, prompts: Prompts) -> Int[Array, "B A"]:
    """Where a completion's first token stands: one beyond the furthest of its prompt, on every axis."""
    positions = prompt_positions(config, prompts)
    furthest = jnp.where(prompts.mask[..., None], positions, -1).max(axis=(1, 2))
    return jnp.repeat(furthest[:, None] + 1, positions.shape[-1], axis=1)


def _enter(
    config: VLMConfig, tokens: Int[Array, "B S"], index: Int[Array, "B S"], prompt: Int[Array, "B S"]
) -> Int[Array, "B S"]:
    """Depth-first numbers, by default a token's `index`. Tokens that see each other both ways share the number of their
    first: `prompt` has the numbers where that is all of a prompt, or of what is read between two replies."""
    if config.seen_at_once == "prompt":
        return prompt
    if config.seen_at_once == "images":
        is_image = tokens == config.image_id
        starts = is_image & ~jnp.pad(is_image, ((0, 0), (1, 0)))[:, :-1]
        first = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
        return jnp.where(is_image, first, index)
    return index


def prompt_rows(config: VLMConfig, prompts: Prompts) -> Rows:
    """Left-padded prompts as rows; every prompt token is visible to all that comes after it."""
    leave = jnp.where(prompts.mask, FURTHEST, NOBODY)
    index = jnp.broadcast_to(jnp.arange(prompts.tokens.shape[1]), prompts.tokens.shape)
    enter = _enter(config, prompts.tokens, index, jnp.zeros_like(index))
    return Rows(prompts.tokens, prompt_positions(config, prompts), enter, leave)


def packed_rows(config: VLMConfig, packed: Packed) -> Rows:
    """Rows of several conversations: a token leaves where its own one ends, so no other is seen from there."""
    index = jnp.broadcast_to(jnp.arange(packed.tokens.shape[1]), packed.tokens.shape)
    first = jnp.pad(packed.leave[:, 1:] != packed.leave[:, :-1], ((0, 0), (1, 0)))
    # Every reply token by itself; what is read before it, or between two replies, as one.
    after_reply = jnp.pad(packed.replied, ((0, 0), (1, 0)))[:, :-1]
    read_at_once = jax.lax.cummax(jnp.where(first | after_reply | packed.replied, index, 0), axis=1)
    enter = _enter(config, packed.tokens, index, read_at_once)
    return Rows(packed.tokens, packed.positions, enter, packed.leave)


def join(config: VLMConfig, prompts: Prompts, completions: Completions) -> Rows:
    """[prompt | c1 | .. | cG], S = L + G·T. Positions of every completion go on from the end of its prompt."""
    left = prompt_rows(config, prompts)
    (rows, group, steps), length = completions.tokens.shape, prompts.tokens.shape[1]
    start = next_positions(config, prompts)[:, None, None]
    positions = start + jnp.arange(steps)[None, None, :, None]
    positions = jnp.broadcast_to(positions, (rows, group, steps, start.shape[-1]))
    enter = length + jnp.arange(group * steps).reshape(group, steps)
    leave = jnp.where(completions.mask, length + steps * jnp.arange(1, group + 1)[:, None], NOBODY)
    right = Rows(completions.tokens, positions, jnp.broadcast_to(enter, leave.shape), leave)
    flat = (x.reshape(rows, group * steps, *x.shape[3:]) for x in right)
    return Rows(*(jnp.concatenate([a, b], axis=1) for a, b in zip(left, flat, strict=True)))


class Embedded(NamedTuple):
    """Token vectors, and what is added to the outputs of the first layers where an image stands (deepstack)."""

    x: Float[Array, "B S D"]
    added: Float[Array, "levels B S D"] | None


class VLM(nnx.Module):
    """A decoder that reads text and, if it has a vision tower, image tokens."""

    def __init__(self, config: VLMConfig, *, rngs: nnx.Rngs):
        self.config = config
        if config.vision is not None:
            self.vision = VisionTower(config.vision, config.decoder.width, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def see(self, pixels: Pixels) -> Merged:
        """What the tower sees, for a projector that is applied later; each row's real image tokens first."""
        return Merged(self._in_rows(self.vision.see(pixels), pixels))

    def look(
        self,
        images: Pictures | None,
        bank: Bank | None = None,
        *,
        dropout: Rate = 0.0,
        key: jax.Array | None = None,
    ) -> Features | None:
        """Image features, each row's real image tokens first; what has been looked at already is returned as it is."""
        if images is None or isinstance(images, Features):
            return images
        if isinstance(images, Merged):
            return Features(self.vision.project(images.vectors, bank, dropout=dropout, key=key))
        merged = self.vision.see(images, bank, dropout=dropout, key=key)
        of_view = of_views(bank, images.grid.shape[1])
        return Features(self._in_rows(self.vision.project(merged, of_view, dropout=dropout, key=key), images))

    def _in_rows(self, seen: Float[Array, "I M W"], pixels: Pixels) -> Float[Array, "B M W"]:
        """The image tokens of all views of a row, the real ones first."""
        assert self.config.vision is not None  # or there would be no pixels
        (rows, views), (_, most, width) = pixels.grid.shape[:2], seen.shape
        counts = pixels.grid.prod(axis=-1) // self.config.vision.merge**2
        real = (jnp.arange(most) < counts[..., None]).reshape(rows, views * most)
        order = jnp.argsort(~real, axis=1, stable=True)
        return jnp.take_along_axis(seen.reshape(rows, views * most, width), order[..., None], axis=1)

    def embed(
        self,
        tokens: Int[Array, "B S"],
        images: Pictures | None,
        bank: Bank | None = None,
        *,
        dropout: Rate = 0.0,
        key: jax.Array | None = None,
    ) -> Embedded:
        """Token vectors, with the n-th image placeholder of a row replaced by its n-th image vector."""
        is_image = tokens == self.config.image_id
        # The placeholder's own vector is never used, and its id may lie beyond the table.
        x = self.decoder.embed(jnp.where(is_image, 0, tokens))
        # Other draws than those of the decoder's layers, which are split off the same key.
        key = None if key is None else jax.random.fold_in(key, self.config.decoder.layers)
        features = self.look(images, bank, dropout=dropout, key=key)
        if features is None or self.config.vision is None:
            return Embedded(x, None)
        nth = jnp.clip(jnp.cumsum(is_image, axis=1) - 1, 0, features.vectors.shape[1] - 1)
        vectors = jnp.take_along_axis(features.vectors, nth[..., None], axis=1)
        base, *deep = jnp.split(vectors, self.config.vision.levels, axis=-1)
        added = jnp.stack([jnp.where(is_image[..., None], level, 0) for level in deep]) if deep else None
        return Embedded(jnp.where(is_image[..., None], base.astype(x.dtype), x), added)

    def hidden(
        self,
        rows: Rows,
        images: Pictures | None,
        bank: Bank | None = None,
        *,
        before: History | None = None,
        dropout: Rate = 0.0,
        key: jax.Array | None = None,
        remat: Remat = "products",
    ) -> Read:
        """Reads rows; `before` was read earlier."""
        x, added = self.embed(rows.tokens, images, bank, dropout=dropout, key=key)
        return self.decoder(
            x,
            rows.positions,
            rows.enter,
            rows.leave,
            bank,
            before=before,
            added=added,
            dropout=dropout,
            key=key,
            remat=remat,
        )

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        return self.decoder.logits(hidden)


@functools.cache
def graph_of(config: VLMConfig) -> nnx.GraphDef:
    """The model's structure without a single number, made once a config."""
    return nnx.graphdef(nnx.eval_shape(lambda: VLM(config, rngs=nnx.Rngs(0))))


def bind(config: VLMConfig, state: nnx.State) -> VLM:
    """The model with the given weights, for use inside a jitted function."""
    return nnx.merge(graph_of(config), state)


@functools.partial(jax.jit, static_argnames="config")
def initial_state(config: VLMConfig, key: jax.Array) -> nnx.State:
    """Random weights."""
    return nnx.state(VLM(config, rngs=nnx.Rngs(params=key)))


def abstract_state(config: VLMConfig) -> nnx.State:
    """Shapes and dtypes of the weights, without allocating them."""
    return jax.eval_shape(lambda: nnx.state(VLM(config, rngs=nnx.Rngs(0))))


def kernel_at(state: nnx.State, target: str) -> Any:
    """The variable of the matrix of that name (`adapters/targets.py`)."""
    module: Any = state
    for step in path_of(target):
        module = module[step]
    return module["kernel"]


def before_each(hidden: Float[Array, "B S D"], group: int, steps: int) -> Float[Array, "B G T D"]:
    """Hidden states at the position *before* each completion token: the last prompt token's for the first one."""
    rows, _, width = hidden.shape
    own = hidden[:, -group * steps :].reshape(rows, group, steps, width)
    length = hidden.shape[1] - group * steps
    first = jnp.broadcast_to(hidden[:, length - 1][:, None, None], (rows, group, 1, width))
    return jnp.concatenate([first, own[:, :, :-1]], axis=2)


def at_last(hidden: Float[Array, "B S D"], mask: Bool[Array, "B G T"]) -> Float[Array, "B G D"]:
    """Hidden states at the last token of each completion (of an empty completion: its first column)."""
    rows, group, steps = mask.shape
    own = hidden[:, -group * steps :].reshape(rows, group, steps, -1)
    last = jnp.maximum(mask.sum(axis=-1) - 1, 0)
    return jnp.take_along_axis(own, last[:, :, None, None], axis=2)[:, :, 0]


def at(hidden: Float[Array, "B S D"], columns: Int[Array, "B K"]) -> Float[Array, "B K D"]:
    """Hidden states at the given columns of each row."""
    return jnp.take_along_axis(hidden, columns[..., None], axis=1)
