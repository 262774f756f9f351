"""Sampling: every prompt is read once, then its G completions are decoded together from the shared keys and values.

The whole decode is one jitted loop that ends when every completion has stopped. In an episode of several turns, what
was read and replied is remembered, and each turn reads only what is new. What comes out is what the trainer
trains on: token ids, a mask that includes the stop token, and the log-probability each token was drawn with.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from pe_rlhf_mm.adapters.lora import Bank
from pe_rlhf_mm.algorithms import logprobs
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.attention import Memory, remembered
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.history import History
from pe_rlhf_mm.models.sharding import cut
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
    keys: Key[Array, "B"],
    *,
    group: int,
    sampling: Sampling,
) -> Sampled:
    """Draws `group` completions of each prompt with the given weights, and with the prompt's own random key.

    A completion that reaches `max_tokens` without a stop token is cut there, and `finished` is false for it.
    """
    model = vlm.bind(config, state)
    read = model.hidden(vlm.prompt_rows(config, prompts), prompts.images, bank)
    positions = vlm.prompt_positions(config, prompts)
    seen = History(remembered(read.past), positions, prompts.mask, jnp.int32(prompts.mask.shape[1]))
    idle = jnp.zeros((len(prompts.tokens), group), bool)
    return _decode(model, bank, seen, read.states[:, -1], vlm.next_positions(config, prompts), idle, keys, sampling)[0]


@functools.partial(jax.jit, static_argnames=("config", "sampling"), donate_argnames="history")
def take_turn(
    config: VLMConfig,
    state: nnx.State,
    bank: Bank | None,
    history: History,
    turn: Prompts,
    keys: Key[Array, "B"],
    *,
    sampling: Sampling,
) -> tuple[Sampled, History]:
    """One reply in each of B conversations, and the history with what was read and what was replied.

    `turn` is what came since the last reply; its positions go on from there and must be given. A row without a token is
    a conversation that is over: it is given no reply.
    """
    model = vlm.bind(config, state)
    read = model.hidden(vlm.prompt_rows(config, turn), turn.images, bank, before=history)
    positions = vlm.prompt_positions(config, turn)
    history = history.followed_by(remembered(read.past), positions, turn.mask)
    idle, start = ~turn.mask.any(axis=1, keepdims=True), vlm.next_positions(config, turn)
    sampled, own = _decode(model, bank, history, read.states[:, -1], start, idle, keys, sampling)
    steps = jnp.arange(sampling.max_tokens)[None, :, None]
    own_of_one = Memory(*(x[:, :, :, 0] for x in own))
    return sampled, history.followed_by(own_of_one, start[:, None] + steps, sampled.completions.mask[:, 0])


def _decode(
    model: vlm.VLM,
    bank: Bank | None,
    seen: History,
    last: Float[Array, "B D"],
    starts: Int[Array, "B A"],
    idle: Bool[Array, "B G"],
    keys: Key[Array, "B"],
    sampling: Sampling,
) -> tuple[Sampled, Memory]:
    """Token by token until all completions have stopped; `idle` ones do not begin.

    `last`: hidden state of the last token read; `starts`: where the first token of a completion stands.
    """
    config, (rows, group) = model.config, idle.shape
    steps, block = sampling.max_tokens, config.decoder
    memory, cuts = (block.layers, rows, block.kv_heads, group, block.head_width, steps), (None, "rows", "kv_heads")
    cache = cut(jnp.zeros(memory, last.dtype), *cuts)
    stops = jnp.array(config.stop_ids)

    def one_more(now: _Decoding) -> _Decoding:
        full = tempered(model.logits(now.hidden), sampling, config.forbidden_ids)
        shaped = truncated(full, sampling)
        token = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, now.step), shaped, sampling)
        token = jnp.where(now.stopped, config.pad_id, token)
        # At temperature 0 nothing is left to chance; what is reported then is the untruncated log-probability.
        chosen = logprobs.of_tokens(shaped if sampling.temperature else full, token).logprobs
        x, positions = model.decoder.embed(token), starts + now.step
        hidden, own = model.decoder.decode(
            x, positions, seen.memory, seen.positions, seen.mask, now.own, now.step, bank
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
        idle,
        jnp.broadcast_to(last[:, None], (rows, group, block.width)),
        Memory(cache, cut(cache.swapaxes(-1, -2), *cuts)),
    )
    end = jax.lax.while_loop(lambda now: (now.step < steps) & ~now.stopped.all(), one_more, start)
    return Sampled(Completions(end.tokens, end.mask), end.logprobs, end.stopped), end.own
