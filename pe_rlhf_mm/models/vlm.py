"""The vision-language model: image tokens merged into text, rows of prompts with their completions, logits.

A row is one prompt followed by its G completions, [prompt | c1 | .. | cG]. A completion sees the prompt and itself
only, so the prompt is computed once for all of them, and the result equals G separate rows exactly. The mask is an
ancestor test on a depth-first numbering of the tokens, two integers each: q sees k iff enter[k] <= enter[q] < leave[k].
A prompt with completions is a tree of depth one; episodes that branch at a later turn need nothing new.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.lora import Bank
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.decoder import Decoder
from pe_rlhf_mm.models.layers import KeyValues
from pe_rlhf_mm.models.vision import VisionTower
from pe_rlhf_mm.types import Completions, Features, Pixels, Prompts

NOBODY = -1
"""`leave` of a padding token: no query enters before it, so nobody sees it."""


class Rows(NamedTuple):
    """Tokens in the order they are computed, with what decides who sees whom."""

    tokens: Int[Array, "B S"]
    positions: Int[Array, "B S"]
    enter: Int[Array, "B S"]
    leave: Int[Array, "B S"]


def prompt_rows(prompts: Prompts) -> Rows:
    """Left-padded prompts as rows; every prompt token is visible to all that comes after it."""
    rows, length = prompts.tokens.shape
    positions = jnp.maximum(jnp.cumsum(prompts.mask, axis=1) - 1, 0)
    enter = jnp.broadcast_to(jnp.arange(length), (rows, length))
    leave = jnp.where(prompts.mask, jnp.iinfo(jnp.int32).max, NOBODY)
    return Rows(prompts.tokens, positions, enter, leave)


def join(prompts: Prompts, completions: Completions) -> Rows:
    """[prompt | c1 | .. | cG], S = L + G·T. Positions of every completion go on from the end of its prompt."""
    left = prompt_rows(prompts)
    (rows, group, steps), length = completions.tokens.shape, prompts.tokens.shape[1]
    start = prompts.mask.sum(axis=1)[:, None, None]
    positions = jnp.broadcast_to(start + jnp.arange(steps), (rows, group, steps))
    enter = length + jnp.arange(group * steps).reshape(group, steps)
    leave = jnp.where(completions.mask, length + steps * jnp.arange(1, group + 1)[:, None], NOBODY)
    right = (completions.tokens, positions, jnp.broadcast_to(enter, leave.shape), leave)
    return Rows(*(jnp.concatenate([a, b.reshape(rows, -1)], axis=1) for a, b in zip(left, right, strict=True)))


def sight(rows: Rows) -> Bool[Array, "B S S"]:
    """Who sees whom: mask[b, q, k] iff enter[k] <= enter[q] < leave[k].

    A padding query would see nobody, and a softmax over nothing is not a number: it is let see itself, and whatever
    it computes is seen by nobody.
    """
    q, k = rows.enter[:, :, None], rows.enter[:, None, :]
    return ((k <= q) & (q < rows.leave[:, None, :])) | jnp.eye(rows.tokens.shape[1], dtype=bool)


class VLM(nnx.Module):
    """A decoder that reads text and the image tokens of a vision tower."""

    def __init__(self, config: VLMConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTower(config.vision, config.decoder.width, rngs=rngs)
        self.decoder = Decoder(config.decoder, config.vocabulary, rngs=rngs)

    def look(self, images: Pixels | Features | None) -> Features | None:
        """Image features; what has been looked at already is returned as it is."""
        return Features(self.vision(images.patches)) if isinstance(images, Pixels) else images

    def embed(self, tokens: Int[Array, "B S"], images: Pixels | Features | None) -> Float[Array, "B S D"]:
        """Token vectors, with the n-th image placeholder of a row replaced by its n-th image vector."""
        x = self.decoder.embed(tokens)
        features = self.look(images)
        if features is None:
            return x
        is_image = tokens == self.config.image_id
        nth = jnp.clip(jnp.cumsum(is_image, axis=1) - 1, 0, features.vectors.shape[1] - 1)
        return jnp.where(is_image[..., None], jnp.take_along_axis(features.vectors, nth[..., None], axis=1), x)

    def hidden(
        self,
        rows: Rows,
        images: Pixels | Features | None,
        bank: Bank | None = None,
        *,
        dropout: float = 0.0,
        key: jax.Array | None = None,
        remat: bool = False,
    ) -> tuple[Float[Array, "B S D"], KeyValues]:
        """Final hidden states of every token, and the keys and values of every layer."""
        x = self.embed(rows.tokens, images)
        return self.decoder(x, rows.positions, sight(rows), bank, dropout=dropout, key=key, remat=remat)

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


def adapter_shapes(config: VLMConfig, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """(in, out) of each adapted matrix of the decoder. Raises ValueError for a target the decoder does not have."""
    block = config.decoder
    queries, keys = block.heads * block.head_width, block.kv_heads * block.head_width
    known = {
        "q": (block.width, queries),
        "k": (block.width, keys),
        "v": (block.width, keys),
        "o": (queries, block.width),
        "gate": (block.width, block.mlp_width),
        "up": (block.width, block.mlp_width),
        "down": (block.mlp_width, block.width),
    }
    unknown = [t for t in targets if t not in known]
    if unknown:
        raise ValueError(f"no such adapter target: {', '.join(unknown)}; this decoder has {', '.join(known)}")
    return {target: known[target] for target in targets}


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
