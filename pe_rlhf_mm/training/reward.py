"""Reward modelling: the role `reward` learns to score replies, from pairs or from right/wrong labels.

A pair is one row of two completions behind one prompt, so the prompt and its image are computed once for both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.algorithms import losses
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.padding import rounded
from pe_rlhf_mm.data.pipeline import batches
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.config import RewardConfig
from pe_rlhf_mm.training.loop import train
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.step import Loss, adam
from pe_rlhf_mm.types import Completions, Prompts


class Comparison(NamedTuple):
    """A prompt, two replies, and the probability that the first is the better one.

    For pointwise training the same record says that the first is right with that probability, and the second wrong.
    """

    prompt: EncodedPrompt
    chosen: list[int]
    rejected: list[int]
    probability: float


class PairBatch(NamedTuple):
    prompts: Prompts
    completions: Completions
    probability: Any


def _scores(config: VLMConfig, roles: Roles, batch: PairBatch, how: forward.Pass) -> tuple[jax.Array, jax.Array]:
    weights, head = roles.weights("reward"), roles.heads["reward"]
    both = forward.rewards(config, weights, head, batch.prompts, batch.completions, how)
    return both[:, 0], both[:, 1]


def ranked_right(
    chosen: Float[Any, " N"], rejected: Float[Any, " N"], probability: Float[Any, " N"]
) -> Float[Array, " N"]:
    """1 for a pair ranked right, 0 for wrong, 0.5 for a tie, and where neither reply is the better one."""
    first = (chosen > rejected) + 0.5 * (chosen == rejected)
    return jnp.where(probability > 0.5, first, jnp.where(probability < 0.5, 1 - first, 0.5))


def pairwise(
    config: VLMConfig, dropout: float, remat: bool, trainable: Trainable, roles: Roles, batch: PairBatch, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Bradley-Terry on the two scores of each row."""
    chosen, rejected = _scores(config, roles.put(trainable), batch, forward.Pass(dropout, key, remat))
    metrics = {
        "accuracy": ranked_right(chosen, rejected, batch.probability).mean(),
        "margin": jnp.mean(chosen - rejected),
    }
    return losses.pairwise(chosen, rejected, batch.probability), metrics


def pointwise(
    config: VLMConfig, dropout: float, remat: bool, trainable: Trainable, roles: Roles, batch: PairBatch, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Binary cross-entropy on each score by itself."""
    chosen, rejected = _scores(config, roles.put(trainable), batch, forward.Pass(dropout, key, remat))
    scores = jnp.concatenate([chosen, rejected])
    labels = jnp.concatenate([batch.probability, 1 - batch.probability])
    metrics = {"accuracy": jnp.mean((scores > 0) == (labels > 0.5)), "margin": jnp.mean(chosen - rejected)}
    return losses.pointwise(scores, labels), metrics


LOSSES = {"pairwise": pairwise, "pointwise": pointwise}


class PairScores(NamedTuple):
    """Raw scores of both replies of every pair, and the probability that the first is the better one."""

    chosen: np.ndarray
    rejected: np.ndarray
    probability: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """1 for a pair ranked right, 0.5 for a tie, 0 for wrong."""
        return np.asarray(ranked_right(self.chosen, self.rejected, self.probability))


def collator(processor: Processor, gallery: Gallery, pairs: Sequence[Comparison]) -> functools.partial[PairBatch]:
    """How pairs become batches of one fixed shape, wide enough for all of them."""
    length = rounded(max((len(p.prompt.tokens) for p in pairs), default=0))
    steps = rounded(max((len(r) for p in pairs for r in (p.chosen, p.rejected)), default=0))
    return functools.partial(_collate, processor, gallery, length, steps)


def _collate(processor: Processor, gallery: Gallery, length: int, steps: int, pairs: Sequence[Comparison]) -> PairBatch:
    prompts = processor.prompts([p.prompt for p in pairs], gallery, length=length)
    completions = processor.completions([[p.chosen, p.rejected] for p in pairs], length=steps)
    return PairBatch(prompts, completions, np.array([p.probability for p in pairs], np.float32))


def score_pairs(
    roles: Roles, processor: Processor, gallery: Gallery, pairs: Sequence[Comparison], *, batch_size: int = 128
) -> PairScores:
    """Scores pairs with the role `reward`; the last batch is filled up with its own first pair, and cut again."""
    collate, found = collator(processor, gallery, pairs), []
    weights, head = roles.weights("reward"), roles.heads["reward"]
    for start in range(0, len(pairs), batch_size):
        block = list(pairs[start : start + batch_size])
        batch = collate(block + block[:1] * (batch_size - len(block)))
        scores = forward.score_rewards(processor.config, weights, head, batch.prompts, batch.completions)
        found.append(np.asarray(scores)[: len(block)])
    chosen, rejected = np.concatenate(found).T
    return PairScores(chosen, rejected, np.array([p.probability for p in pairs], np.float32))


def train_reward_model(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    pairs: Sequence[Comparison],
    validation: Sequence[Comparison],
    settings: RewardConfig,
    *,
    remat: bool = False,
    seed: int = 0,
    observer: Observer = Silent(),
) -> Roles:
    """Trains the role `reward` (which must exist, with a head) and returns the roles with its best checkpoint in place.

    At the end the head is standardised on the validation pairs: mean 0, standard deviation 1 over all their replies. A
    Bradley-Terry score has no zero and no unit of its own, and the weight (1 - beta) of the reward needs both.
    """
    if not validation:
        raise UserError(
            "there are no preference pairs to validate the reward model on. Does the task have a split 'validation'?"
        )
    loss: Loss = functools.partial(LOSSES[settings.loss], processor.config, settings.dropout, remat)

    def validate(trainable: Trainable) -> float:
        return float(score_pairs(roles.put(trainable), processor, gallery, validation).right.mean())

    stream = batches(
        pairs,
        collator(processor, gallery, pairs),
        batch_size=settings.batch_size,
        seed=seed,
        what="preference pairs",
    )
    trained = train(
        "reward_model",
        roles,
        roles.pick("reward"),
        stream,
        loss,
        adam(settings.learning_rate, settings.steps, warmup=min(20, settings.steps // 10), decay=True),
        steps=settings.steps,
        key=jax.random.key(seed),
        observer=observer,
        validate=validate,
        validate_every=settings.validate_every,
    )
    return standardised(roles.put(trained), processor, gallery, validation)


def standardised(roles: Roles, processor: Processor, gallery: Gallery, pairs: Sequence[Comparison]) -> Roles:
    """The reward head rescaled to mean 0 and standard deviation 1 on the replies of these pairs; no ranking changes."""
    found = score_pairs(roles, processor, gallery, pairs)
    scores = np.concatenate([found.chosen, found.rejected])
    mean, deviation = float(scores.mean()), max(float(scores.std()), 1e-6)
    head = roles.heads["reward"]
    rescaled = head._replace(weight=head.weight / deviation, bias=(head.bias - mean) / deviation)
    return roles._replace(heads={**roles.heads, "reward": rescaled})
