"""Reward modelling: the role `reward` learns to score replies, from pairs or from ratings.

An example is G replies with a label each: two of a pair, whose labels add up to 1, or one of a rating. Replies of text
share one row behind their prompt, so that the prompt and its image are computed once; a reply with pictures is read in
a row of its own, as a part of the prompt that only the stop token is left to complete. Scores come out as [B, G] either
way, and every loss, accuracy and test starts from them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.roles import Head, Roles, Trainable, Weights
from pe_rlhf_mm.algorithms import losses, masked
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.packing import last_token, pack
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.data.streams import Fed, blocks, bucketed, bucketed_for_each, packed
from pe_rlhf_mm.data.transcript import Turn
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.models.layers import Rate
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.accumulation import Parts, alike
from pe_rlhf_mm.training.config import RewardConfig
from pe_rlhf_mm.training.jury import ALONE, Jury
from pe_rlhf_mm.training.keeper import Forgetful, Keeper
from pe_rlhf_mm.training.loop import AS_FED, train
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.optimizers import OPTIMIZERS
from pe_rlhf_mm.training.step import Loss, Technique
from pe_rlhf_mm.types import Completions, Packed, Prompts

FED = "pairs or ratings"


class Row(NamedTuple):
    """A prompt and the completions that are read behind it."""

    prompt: EncodedPrompt
    completions: Sequence[list[int]]


class Judged(NamedTuple):
    """Rows that hold G replies to one prompt, in one row together or in a row each, and what was said of them.

    `labels`: the probability of each reply being the better one of its pair, or right. `margin`: by how much the better
    one of a pair is to win.
    """

    rows: Sequence[Row]
    labels: Sequence[float]
    margin: float = 0.0


class JudgedBatch(NamedTuple):
    """R rows of C completions, R · C = B · G: the replies of an example follow each other."""

    prompts: Prompts
    completions: Completions
    labels: Float[Any, "B G"]
    margin: Float[Any, " B"]


def _judge_of(roles: Roles, role: str = "reward") -> tuple[Weights, Head]:
    return roles.weights(role), roles.heads[role]


def _scores(config: VLMConfig, roles: Roles, batch: JudgedBatch, how: forward.Pass) -> Float[Array, "B G"]:
    weights, head = _judge_of(roles)
    read = forward.rewards(config, weights, head, batch.prompts, batch.completions, how)
    return read.reshape(batch.labels.shape)


def ranked_right(
    chosen: Float[Any, " N"], rejected: Float[Any, " N"], probability: Float[Any, " N"]
) -> Float[Array, " N"]:
    """1 for a pair ranked right, 0 for wrong, 0.5 for a tie, and where neither reply is the better one."""
    first = (chosen > rejected) + 0.5 * (chosen == rejected)
    return jnp.where(probability > 0.5, first, jnp.where(probability < 0.5, 1 - first, 0.5))


def rated_right(scores: Float[Any, "*n"], labels: Float[Any, "*n"]) -> Float[Array, "*n"]:
    """1 where a score above 0 meets a label above 1/2, or neither is; 0 where they differ; 0.5 for a label of 1/2."""
    return jnp.where(labels == 0.5, 0.5, (scores > 0) == (labels > 0.5))


def pairwise(
    config: VLMConfig,
    dropout: Rate,
    remat: Remat,
    trainable: Trainable,
    roles: Roles,
    batch: JudgedBatch,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Bradley-Terry on the two scores of each pair."""
    both = _scores(config, roles.put(trainable), batch, forward.Pass(dropout, key, remat))
    chosen, rejected, probability = both[:, 0], both[:, 1], batch.labels[:, 0]
    metrics = {
        "accuracy": ranked_right(chosen, rejected, probability).mean(),
        "margin": jnp.mean(chosen - rejected),
    }
    return losses.pairwise(chosen, rejected, probability, batch.margin), metrics


def pointwise(
    config: VLMConfig,
    dropout: Rate,
    remat: Remat,
    trainable: Trainable,
    roles: Roles,
    batch: JudgedBatch,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Binary cross-entropy on each score by itself."""
    scores = _scores(config, roles.put(trainable), batch, forward.Pass(dropout, key, remat))
    metrics = {
        "accuracy": rated_right(scores, batch.labels).mean(),
        # Of as many right replies as wrong ones: how far those lie above these.
        "margin": 2 * jnp.mean((2 * batch.labels - 1) * scores),
    }
    return losses.pointwise(scores, batch.labels, jnp.ones(scores.shape, bool)), metrics


LOSSES: dict[str, Callable[..., tuple[jax.Array, dict[str, jax.Array]]]] = {
    "pairwise": pairwise,
    "pointwise": pointwise,
}


class PackedBatch(NamedTuple):
    """Replies with their prompts, several in a row, and a label for each column that is asked about."""

    packed: Packed
    labels: Float[Any, "B K"]


def packed_pointwise(
    config: VLMConfig,
    dropout: Rate,
    remat: Remat,
    trainable: Trainable,
    roles: Roles,
    batch: PackedBatch,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Binary cross-entropy on the replies of packed rows."""
    (weights, head), how = _judge_of(roles.put(trainable)), forward.Pass(dropout, key, remat)
    scores, mask = forward.packed_rewards(config, weights, head, batch.packed, how), batch.packed.mask
    metrics = {
        "accuracy": masked.token_mean(rated_right(scores, batch.labels), mask),
        "margin": 2 * masked.token_mean((2 * batch.labels - 1) * scores, mask),
    }
    return losses.pointwise(scores, batch.labels, mask), metrics


def share(batch: JudgedBatch | PackedBatch) -> Array:
    """What the loss of a batch is divided by: examples, of which all parts have as many, or replies in packed rows."""
    return batch.packed.mask.sum() if isinstance(batch, PackedBatch) else alike(batch)


class Scored(NamedTuple):
    """Raw scores of all replies, and what was said of them."""

    scores: Float[np.ndarray, "N G"]
    labels: Float[np.ndarray, "N G"]

    @property
    def right(self) -> Float[np.ndarray, " N"]:
        """1 for an example judged right, 0.5 for a tie, 0 for wrong: pairs by rank, ratings by their score's sign."""
        if self.labels.shape[1] == 1:
            return np.asarray(rated_right(self.scores[:, 0], self.labels[:, 0]))
        chosen, rejected = self.scores.T
        return np.asarray(ranked_right(chosen, rejected, self.labels[:, 0]))


def _sizes(examples: Sequence[Sequence[Row]]) -> Int[np.ndarray, "N 2"]:
    """Tokens of each example's longest prompt and of its longest completion."""
    return np.array(
        [
            (max(len(row.prompt.tokens) for row in rows), max(len(c) for row in rows for c in row.completions))
            for rows in examples
        ]
    ).reshape(-1, 2)


def _read(
    processor: Processor, gallery: Gallery, examples: Sequence[Sequence[Row]], shape: Sequence[int]
) -> tuple[Prompts, Completions]:
    length, steps = shape
    rows = [row for example in examples for row in example]
    prompts = processor.prompts([row.prompt for row in rows], gallery, length=length)
    return prompts, processor.completions([row.completions for row in rows], length=steps)


def feed(
    processor: Processor,
    gallery: Gallery,
    examples: Sequence[Judged],
    *,
    batch_size: int,
    seed: int,
    margin: float = 0.0,
) -> Fed[JudgedBatch]:
    """Examples as endless batches of a few shapes; `margin`: how much theirs count. UserError if there is none."""
    collate = functools.partial(_collate, processor, gallery, margin)
    sizes, weights = _sizes([e.rows for e in examples]), _weights(examples)
    return bucketed(examples, sizes, collate, batch_size=batch_size, seed=seed, what=FED, weights=weights)


def feed_each(
    learners: int,
    processor: Processor,
    gallery: Gallery,
    examples: Sequence[Judged],
    *,
    batch_size: int,
    seed: int,
    margin: float = 0.0,
) -> Fed[tuple[JudgedBatch, ...]]:
    """The same for several learners at once, each in an order of its own; the first has what `feed` feeds."""
    collate = functools.partial(_collate, processor, gallery, margin)
    sizes, weights = _sizes([e.rows for e in examples]), _weights(examples)
    return bucketed_for_each(
        learners, examples, sizes, collate, batch_size=batch_size, seed=seed, what=FED, weights=weights
    )


def _collate(
    processor: Processor, gallery: Gallery, margin: float, group: list[Judged], shape: Sequence[int]
) -> JudgedBatch:
    read = _read(processor, gallery, [e.rows for e in group], shape)
    return JudgedBatch(*read, labels_of(group), margin * np.array([e.margin for e in group], np.float32))


def _weights(examples: Sequence[Judged]) -> tuple[int, int] | None:
    """Prompts and completions of an example, as many in each."""
    return (len(examples[0].rows), len(examples[0].labels)) if examples else None


def packed_feed(
    processor: Processor, gallery: Gallery, examples: Sequence[Judged], settings: RewardConfig, *, seed: int
) -> Fed[PackedBatch]:
    """Replies as endless batches of packed rows, each behind a prompt of its own. Raises UserError if there is none."""
    told = [
        (row.prompt, reply, label)
        for example in examples
        for (row, reply), label in zip(
            ((row, reply) for row in example.rows for reply in row.completions), example.labels, strict=True
        )
    ]
    capacity = settings.packed_length

    def collate(bins: list[list[tuple[EncodedPrompt, list[int], float]]]) -> PackedBatch:
        rows = [[(Turn(prompt, reply),) for prompt, reply, _ in chosen] for chosen in bins]
        row = pack(processor.config, gallery, rows, capacity=capacity, asked=last_token)
        labels = np.zeros(row.mask.shape, np.float32)
        labels[row.mask] = [label for chosen in bins for *_, label in chosen]
        return PackedBatch(row, labels)

    lengths = [len(prompt.tokens) + len(reply) for prompt, reply, _ in told]
    size = settings.batch_size
    return packed(told, lengths, collate, capacity=capacity, batch_size=size, seed=seed, what="replies")


def score_each(
    roles: Roles,
    names: Sequence[str],
    processor: Processor,
    gallery: Gallery,
    examples: Sequence[Sequence[Row]],
    *,
    batch_size: int = 128,
) -> dict[str, Float[np.ndarray, "N G"]]:
    """What each of the named roles says of all replies. Raises UserError if there are none."""
    judges = {name: _judge_of(roles, name) for name in names}
    replies = sum(len(row.completions) for row in examples[0]) if examples else 0
    scores = {name: np.zeros((len(examples), replies), np.float32) for name in names}
    per_example = (len(examples[0]), replies) if examples else None
    for block in blocks(_sizes(examples), weights=per_example, rows=batch_size):
        read = by_rows(_read(processor, gallery, [examples[i] for i in block.filled], block.shape))
        for name, judge in judges.items():
            found = hosts.fetched(forward.score_rewards(processor.config, *judge, *read))
            scores[name][block.indices] = found.reshape(block.rows, -1)[: len(block.indices)]
    return scores


def score(
    roles: Roles, processor: Processor, gallery: Gallery, examples: Sequence[Sequence[Row]], jury: Jury = ALONE
) -> Float[np.ndarray, "N G"]:
    """The verdict on all replies, of the role `reward` by default. Raises UserError if there are none."""
    return np.asarray(jury.verdict(score_each(roles, jury.roles, processor, gallery, examples)))


def score_judged(
    roles: Roles, processor: Processor, gallery: Gallery, examples: Sequence[Judged], jury: Jury = ALONE
) -> Scored:
    """The scores of examples beside their labels."""
    return Scored(score(roles, processor, gallery, [e.rows for e in examples], jury), labels_of(examples))


def labels_of(examples: Sequence[Judged]) -> Float[np.ndarray, "N G"]:
    """What was said of each reply of examples."""
    return np.array([e.labels for e in examples], np.float32)


def refuse_none(validation: Sequence[Judged]) -> None:
    """Raises UserError if there is nothing to validate a reward model on."""
    if not validation:
        raise UserError(
            "there are no pairs or ratings to validate the reward model on. Does the task have a split 'validation'?"
        )


def train_reward_model(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    examples: Sequence[Judged],
    validation: Sequence[Judged],
    settings: RewardConfig,
    *,
    technique: Technique = Technique(),
    seed: int = 0,
    observer: Observer = Silent(),
    keeper: Keeper = Forgetful(),
) -> Roles:
    """Trains the role `reward` (which must exist, with a head) and returns the roles with its best checkpoint in place.

    At the end the head is standardised on the validation examples (`standardised`): a Bradley-Terry score has no zero
    and no unit of its own, and the weight (1 - beta) of the reward needs a unit.
    """
    refuse_none(validation)
    fed: Fed
    objective: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    if settings.packed_length:
        fed, objective = packed_feed(processor, gallery, examples, settings, seed=seed), packed_pointwise
    else:
        size, margin = settings.batch_size, settings.margin
        fed = feed(processor, gallery, examples, batch_size=size, margin=margin, seed=seed)
        objective = LOSSES[settings.loss]
    loss: Loss = functools.partial(objective, processor.config, settings.dropout, technique.remat)
    make = OPTIMIZERS[technique.optimizer]

    def validate(trainable: Trainable) -> float:
        return float(score_judged(roles.put(trainable), processor, gallery, validation).right.mean())

    trained = train(
        "reward_model",
        roles,
        roles.pick("reward"),
        fed,
        loss,
        make(settings.learning_rate, settings.steps, warmup=min(20, settings.steps // 10), decay=True),
        steps=settings.steps,
        key=jax.random.key(seed),
        observer=observer,
        keeper=keeper,
        drawing=AS_FED._replace(parts=Parts(technique.accumulate, share)),
        validate=validate,
        validate_every=settings.validate_every,
    )
    return standardised(roles.put(trained), processor, gallery, validation)


def standardised(
    roles: Roles, processor: Processor, gallery: Gallery, examples: Sequence[Judged], role: str = "reward"
) -> Roles:
    """The head of a reward model rescaled to deviation 1 on the replies of these examples, and, of pairs, to mean 0.

    No ranking changes. The zero that ratings are learnt with divides right from wrong, and stays.
    """
    rows = [example.rows for example in examples]
    zero, unit = zero_and_unit(score_each(roles, (role,), processor, gallery, rows)[role])
    head = roles.heads[role]
    rescaled = head._replace(weight=head.weight / unit, bias=(head.bias - zero) / unit)
    return roles._replace(heads={**roles.heads, role: rescaled})


def zero_and_unit(scores: Float[np.ndarray, "N G"]) -> tuple[float, float]:
    """The mean of all, or of ratings 0, and their standard deviation."""
    column = scores.T.reshape(-1)
    return float(column.mean()) if scores.shape[1] > 1 else 0.0, max(float(column.std()), 1e-6)
