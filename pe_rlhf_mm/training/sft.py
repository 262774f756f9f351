"""Supervised fine-tuning: the role `sft` learns to write the demonstrated replies."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from pe_rlhf_mm.adapters.mixture import balanced
from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.algorithms import losses, masked
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.packing import every_token, pack
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.data.streams import Fed, bucketed, packed
from pe_rlhf_mm.data.transcript import Transcript, Turn, length
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.accumulation import Parts
from pe_rlhf_mm.training.config import SFTConfig
from pe_rlhf_mm.training.keeper import Forgetful, Keeper
from pe_rlhf_mm.training.loop import AS_FED, train
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.optimizers import OPTIMIZERS
from pe_rlhf_mm.training.step import Loss, Technique
from pe_rlhf_mm.types import Completions, Packed, Prompts


class Demonstration(NamedTuple):
    """A prompt and the reply to imitate, stop token included."""

    prompt: EncodedPrompt
    reply: list[int]


def loss(
    config: VLMConfig, dropout: float, remat: Remat, trainable: Trainable, roles: Roles, batch: tuple, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Negative log-likelihood of the demonstrated tokens, one demonstration a row."""
    prompts, completions = batch
    how = forward.Pass(dropout, key, remat)
    statistics = forward.policy(config, roles.put(trainable).weights("sft"), prompts, completions, how=how)
    return _imitation(roles, statistics, completions.mask)


def packed_loss(
    config: VLMConfig, dropout: float, remat: Remat, trainable: Trainable, roles: Roles, batch: Packed, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The same of packed rows."""
    how = forward.Pass(dropout, key, remat)
    statistics = forward.packed_policy(config, roles.put(trainable).weights("sft"), batch, how=how)
    return _imitation(roles, statistics, batch.mask)


def _imitation(roles: Roles, found: forward.PolicyStatistics, mask: Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    metrics = {"entropy": masked.token_mean(found.entropy, mask)}
    return balanced(roles.mixtures.get("sft"), found.usage, losses.sft(found.logprobs, mask), metrics)


def tokens(batch: tuple[Prompts, Completions] | Packed) -> Array:
    """How many are imitated: what the loss of a batch is divided by."""
    return batch.mask.sum() if isinstance(batch, Packed) else batch[1].mask.sum()


def one_a_row(
    processor: Processor, gallery: Gallery, demonstrations: Sequence[Demonstration], *, batch_size: int, seed: int
) -> Fed[tuple[Prompts, Completions]]:
    """Batches of one demonstration a row, padded to a few lengths."""
    sizes = np.array([(len(d.prompt.tokens), len(d.reply)) for d in demonstrations]).reshape(-1, 2)

    def collate(group: list[Demonstration], shape: Sequence[int]) -> tuple[Prompts, Completions]:
        prompts = processor.prompts([d.prompt for d in group], gallery, length=shape[0])
        return prompts, processor.completions([[d.reply] for d in group], length=shape[1])

    return bucketed(demonstrations, sizes, collate, batch_size=batch_size, seed=seed, what="demonstrations")


def several_a_row(
    processor: Processor,
    gallery: Gallery,
    transcripts: Sequence[Transcript],
    *,
    capacity: int,
    batch_size: int,
    seed: int,
) -> Fed[Packed]:
    """Batches of rows that hold `capacity` tokens of demonstrations each, be they of one turn or of several."""

    def collate(bins: list[list[Transcript]]) -> Packed:
        return pack(processor.config, gallery, bins, capacity=capacity, asked=every_token)

    size = {"capacity": capacity, "batch_size": batch_size, "seed": seed}
    return packed(transcripts, [length(turns) for turns in transcripts], collate, what="demonstrations", **size)


def sft(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    demonstrations: Sequence[Demonstration],
    settings: SFTConfig,
    *,
    dropout: float = 0.0,
    technique: Technique = Technique(),
    seed: int = 0,
    observer: Observer = Silent(),
    keeper: Keeper = Forgetful(),
) -> Roles:
    """Trains the role `sft` (which must exist) and returns the roles with it in place."""
    batch_size, capacity = settings.batch_size, settings.packed_length
    if capacity:
        turns = [(Turn(*shown),) for shown in demonstrations]
        fed: Fed = several_a_row(processor, gallery, turns, capacity=capacity, batch_size=batch_size, seed=seed)
    else:
        fed = one_a_row(processor, gallery, demonstrations, batch_size=batch_size, seed=seed)
    objective = functools.partial(packed_loss if capacity else loss, processor.config, dropout, technique.remat)
    return _imitate(roles, fed, objective, settings, technique, seed=seed, observer=observer, keeper=keeper)


def sft_episodes(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    transcripts: Sequence[Transcript],
    settings: SFTConfig,
    *,
    dropout: float = 0.0,
    technique: Technique = Technique(),
    seed: int = 0,
    observer: Observer = Silent(),
    keeper: Keeper = Forgetful(),
) -> Roles:
    """The same from whole episodes, of which every reply is imitated; rows are as long as the longest, or as packed."""
    longest = max((length(turns) for turns in transcripts), default=0)
    capacity = settings.packed_length or rounded(longest)
    size = {"capacity": capacity, "batch_size": settings.batch_size, "seed": seed}
    fed = several_a_row(processor, gallery, transcripts, **size)
    objective = functools.partial(packed_loss, processor.config, dropout, technique.remat)
    return _imitate(roles, fed, objective, settings, technique, seed=seed, observer=observer, keeper=keeper)


def _imitate(
    roles: Roles,
    fed: Fed,
    objective: Loss[Trainable],
    settings: SFTConfig,
    technique: Technique,
    *,
    seed: int,
    observer: Observer,
    keeper: Keeper,
) -> Roles:
    make = OPTIMIZERS[technique.optimizer]
    optimizer = make(settings.learning_rate, settings.steps, warmup=min(20, settings.steps // 10), decay=True)
    trained = train(
        "sft",
        roles,
        roles.pick("sft"),
        fed,
        objective,
        optimizer,
        steps=settings.steps,
        key=jax.random.key(seed),
        observer=observer,
        keeper=keeper,
        drawing=AS_FED._replace(parts=Parts(technique.accumulate, tokens)),
    )
    return roles.put(trained)
