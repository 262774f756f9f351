"""Supervised fine-tuning: the role `sft` learns to write the demonstrated replies."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax

from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.algorithms import losses, masked
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.pipeline import batches
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.config import SFTConfig
from pe_rlhf_mm.training.loop import train
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.step import adam
from pe_rlhf_mm.types import Completions, Prompts


class Demonstration(NamedTuple):
    """A prompt and the reply to imitate, stop token included."""

    prompt: EncodedPrompt
    reply: list[int]


def loss(
    config: VLMConfig, dropout: float, remat: bool, trainable: Trainable, roles: Roles, batch: tuple, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Negative log-likelihood of the demonstrated tokens."""
    prompts, completions = batch
    how = forward.Pass(dropout, key, remat)
    statistics = forward.policy(config, roles.put(trainable).weights("sft"), prompts, completions, how=how)
    metrics = {"entropy": masked.token_mean(statistics.entropy, completions.mask)}
    return losses.sft(statistics.logprobs, completions.mask), metrics


def sft(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    demonstrations: Sequence[Demonstration],
    settings: SFTConfig,
    *,
    dropout: float = 0.0,
    remat: bool = False,
    seed: int = 0,
    observer: Observer = Silent(),
) -> Roles:
    """Trains the role `sft` (which must exist) and returns the roles with it in place."""
    length = rounded(max((len(d.prompt.tokens) for d in demonstrations), default=0))
    steps = rounded(max((len(d.reply) for d in demonstrations), default=0))

    def collate(group: list[Demonstration]) -> tuple[Prompts, Completions]:
        prompts = processor.prompts([d.prompt for d in group], gallery, length=length)
        return prompts, processor.completions([[d.reply] for d in group], length=steps)

    stream = batches(demonstrations, collate, batch_size=settings.batch_size, seed=seed, what="demonstrations")
    trained = train(
        "sft",
        roles,
        roles.pick("sft"),
        stream,
        functools.partial(loss, processor.config, dropout, remat),
        adam(settings.learning_rate, settings.steps, warmup=min(20, settings.steps // 10), decay=True),
        steps=settings.steps,
        key=jax.random.key(seed),
        observer=observer,
    )
    return roles.put(trained)
