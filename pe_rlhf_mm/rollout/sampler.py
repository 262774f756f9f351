"""Sampling: every prompt is read once, then its G completions are decoded together from the shared keys and values.

The whole decode is one jitted loop that ends when every completion has stopped. What comes out is what the trainer
trains on: token ids, a mask that includes the stop token, and the log-probability each token was drawn with.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.lora import Bank
from pe_rlhf_mm.algorithms import logprobs
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.layers import Memory, remembered
from pe_rlhf_mm.rollout.sampling import draw, tempered, truncated
from pe_rlhf_mm.rollout.settings import Sampling
from pe_rlhf_mm.types import Completions, Prompts


class Sampled(NamedTuple):
    """Completions, the log-probability each token was drawn with, and which completions ended by themselves."""

    completions: Completions
    logprobs: Float[Array, "B G T"]
    finished: Bool[Array, "B G"]


class _Decoding(NamedTuple):
    step: Int[Array, ""]
    tokens: Int[Array, "B G T"]
    mask: Bool[Array, "B G T"]
    logprobs: Float[Array, "B G T"]
    stopped: Bool[Array, "B G"]
    hidden: Float[Array, "B G D"]
    own: Memory


@functools.partial(jax.jit, static_argnames=("config", "group", "sampling"))
def sample(
    config: VLMConfig,
    state: nnx.State,
    bank: Bank | None,
    prompts: Prompts,
    key: jax.Array,
    *,
    group: int,
    sampling: Sampling,
) -> Sampled:
    """Draws `group` completions of each prompt with the given weights.

    A completion that reaches `max_tokens` without a stop token is cut there, and `finished` is false for it.
    """
    model = vlm.bind(config, state)
    rows = len(prompts.tokens)
    steps, block = sampling.max_tokens, config.decoder
    read, past = model.hidden(vlm.prompt_rows(config, prompts), prompts.images, bank)
    prompt = remembered(past)
    cache = jnp.zeros((block.layers, rows, block.kv_heads, group, block.head_width, steps), read.dtype)
    prompt_positions, starts = vlm.prompt_positions(config, prompts), vlm.next_positions(config, prompts)
    stops = jnp.array(config.stop_ids)

    def one_more(now: _Decoding) -> _Decoding:
        full = tempered(model.logits(now.hidden), sampling, config.forbidden_ids)
        shaped = truncated(full, sampling)
        token = draw(jax.random.fold_in(key, now.step), shaped, sampling)
        token = jnp.where(now.stopped, config.pad_id, token)
        # At temperature 0 nothing is left to chance; what is reported then is the untruncated log-probability.
        chosen = logprobs.of_tokens(shaped if sampling.temperature else full, token).logprobs
        x, positions = model.decoder.embed(token), starts + now.step
        hidden, own = model.decoder.decode(
            x, positions, prompt, prompt_positions, prompts.mask, now.own, now.step, bank
        )
        return _Decoding(
            now.step + 1,
            now.tokens.at[:, :, now.step].set(token),
            now.mask.at[:, :, now.step].set(~now.stopped),
            now.logprobs.at[:, :, now.step].set(jnp.where(now.stopped, 0, chosen)),
            now.stopped | jnp.isin(token, stops),
            hidden,
            own,
        )

    shape = (rows, group, steps)
    start = _Decoding(
        jnp.int32(0),
        jnp.full(shape, config.pad_id),
        jnp.zeros(shape, bool),
        jnp.zeros(shape),
        jnp.zeros((rows, group), bool),
        jnp.broadcast_to(read[:, -1][:, None], (rows, group, block.width)),
        Memory(cache, cache.swapaxes(-1, -2)),
    )
    end = jax.lax.while_loop(lambda now: (now.step < steps) & ~now.stopped.all(), one_more, start)
    return Sampled(Completions(end.tokens, end.mask), end.logprobs, end.stopped)
