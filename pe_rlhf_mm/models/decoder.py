"""The decoder: token vectors through a stack of blocks, and logits from the tied embeddings or a head of its own."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.gates import usage
from pe_rlhf_mm.adapters.lora import Bank, within
from pe_rlhf_mm.models.attention import EARLIER, FURTHEST, NO_TOKEN, NOBODY, KeyValues, Memory, Sight, capped
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.models.history import History
from pe_rlhf_mm.models.layers import Norm, Rate
from pe_rlhf_mm.models.sharding import cut, gathered, looked_up
from pe_rlhf_mm.models.stack import Stack, kind_angles


class Read(NamedTuple):
    """Normed hidden states of every token, all layers' keys and values, [layers, ..], and of a mixture of adapters how
    much each expert was used."""

    states: Float[Array, "B S D"]
    past: KeyValues
    usage: Float[Array, " N"] | None


class Decoder(nnx.Module):
    """A causal transformer over a vocabulary; who sees whom is the caller's to say."""

    def __init__(self, config: VLMConfig, *, rngs: nnx.Rngs):
        self.config, block = config, config.decoder
        table = jax.random.normal(rngs.params(), (config.vocabulary, block.width)) * block.width**-0.5
        self.embedding = nnx.Param(table, axes=("vocabulary", "embed"))
        self.layers = Stack(block, rngs=rngs)
        self.norm = Norm(block.width, block.norm, block.norm_epsilon)
        if not config.tied:
            self.head = nnx.Param(jnp.array(table), axes=("vocabulary", "embed"))

    def embed(self, tokens: Int[Array, ...]) -> Float[Array, "... D"]:
        """Token vectors. A tied table is scaled for the logits; some families scale it back to unit variance here."""
        x = looked_up(self.embedding[...], tokens)
        # Gemma was trained with the factor rounded to the type of the weights.
        return x * jnp.asarray(self.config.decoder.width**0.5, x.dtype) if self.config.scaled_embedding else x

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        table = gathered(self.embedding[...] if self.config.tied else self.head[...], "vocabulary", "embed")
        # Of hidden states and the table, the table is the larger by far: it stays where it is, and they go to it.
        products = jnp.einsum("...d,vd->...v", cut(hidden, "shared rows"), table, preferred_element_type=jnp.float32)
        others = [None] * (hidden.ndim - 2)
        return capped(cut(products, "shared rows", *others, "vocabulary"), self.config.logit_cap)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B S A"],
        enter: Int[Array, "B S"],
        leave: Int[Array, "B S"],
        bank: Bank | None = None,
        *,
        before: History | None = None,
        added: Float[Array, "levels B S D"] | None = None,
        dropout: Rate = 0.0,
        key: jax.Array | None = None,
        remat: Remat = "products",
    ) -> Read:
        """Runs all layers.

        A token sees those that `enter` before it, or with it, and `leave` after it (`vlm.Rows`), and what was read
        `before`.
        """
        passed = self.layers(
            x,
            kind_angles(self.config.decoder, positions),
            self._sight(positions[..., 0], enter, leave, before),
            within(bank),
            before=None if before is None else before.memory,
            added=added,
            dropout=dropout,
            key=key,
            remat=remat,
        )
        used = usage(passed.shares, leave > NOBODY) if passed.shares else None
        return Read(self.norm(passed.x), passed.past, used)

    def decode(
        self,
        x: Float[Array, "B G D"],
        positions: Int[Array, "B A"],
        prompt: Memory,
        prompt_positions: Int[Array, "B L A"],
        prompt_mask: Bool[Array, "B L"],
        own: Memory,
        step: Int[Array, ""],
        bank: Bank | None = None,
    ) -> tuple[Float[Array, "B G D"], Memory]:
        """One decoding step for G completions of each prompt; `positions` are those of the new tokens."""
        at = jnp.arange(own.keys.shape[-1])
        to_prompt = self._near(positions[:, None, 0], prompt_positions[..., 0])
        turned = jnp.broadcast_to(positions[:, None], (*x.shape[:2], positions.shape[-1]))
        hidden, own = self.layers.decode(
            x,
            kind_angles(self.config.decoder, turned),
            prompt,
            jnp.stack([prompt_mask if n is None else prompt_mask & n for n in to_prompt]),
            own,
            jnp.stack([(at < step) if n is None else (at < step) & n for n in self._near(step, at)]),
            step,
            within(bank),
        )
        return self.norm(hidden), own

    def _sight(
        self, at: Int[Array, "B S"], enter: Int[Array, "B S"], leave: Int[Array, "B S"], before: History | None
    ) -> Sight:
        """Who sees whom in every kind of layer. What was read before has entered before all, and never leaves."""
        key_at, key_enter = at, enter
        if before is not None:
            real = jnp.where(before.mask, FURTHEST, NOBODY)
            earlier = (before.positions[..., 0], jnp.full_like(real, EARLIER), real)
            both = zip(earlier, (at, enter, leave), strict=True)
            key_at, key_enter, leave = (jnp.concatenate(pair, axis=1) for pair in both)
        windows = [kind.window for kind in self.config.decoder.kinds]
        reach = [jnp.full_like(key_at, FURTHEST) if window is None else key_at + window for window in windows]
        # There, windows end the view of replies only (PaliGemma 2).
        united = enter if self.config.seen_at_once == "prompt" else jnp.full_like(enter, NO_TOKEN)
        same = (jnp.broadcast_to(x, (len(windows), *x.shape)) for x in (enter, at, united, key_enter, leave))
        return Sight._make([*same, jnp.stack(reach)])

    def _near(self, query: Int[Array, "*q"], key: Int[Array, "*k"]) -> list[Bool[Array, "*qk"] | None]:
        """For every kind of layer, whether a key is within the window of a query; None where all are."""
        return [None if kind.window is None else query - key < kind.window for kind in self.config.decoder.kinds]
