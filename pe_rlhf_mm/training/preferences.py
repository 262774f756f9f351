"""Preference optimisation: the policy learns from pairs or ratings, and neither reward nor value model is trained.

The policy starts as the SFT policy, which is also the anchor. A pair is a row [prompt | first | second], as for the
reward model: the prompt and its images are computed once. Beside a rated reply stands one to another prompt. Nothing is
sampled but what the policy is evaluated on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pe_rlhf_mm.adapters.mixture import balanced
from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.algorithms import masked, preferences
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.accumulation import Parts
from pe_rlhf_mm.training.config import PreferenceConfig
from pe_rlhf_mm.training.keeper import Forgetful, Keeper
from pe_rlhf_mm.training.loop import AS_FED, train
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.optimizers import OPTIMIZERS
from pe_rlhf_mm.training.reward import Judged, JudgedBatch, Row, feed, ranked_right, rated_right
from pe_rlhf_mm.training.step import Technique

Loss = Callable[
    [PreferenceConfig, Float[Array, "B 2"], Float[Array, "B 2"], Float[Array, " B"]],
    Float[Array, ""],
]
"""(settings, log-probabilities of the policy, of the anchor, of the first reply being the better one) -> a loss."""


def pairs_told_apart(ratios: Float[Array, "B 2"], probability: Float[Array, " B"]) -> dict[str, jax.Array]:
    """How the better and the worse replies of pairs fare against the anchor."""
    first, second = ratios.T
    better, worse = (jnp.where(probability >= 0.5, *pair) for pair in ((first, second), (second, first)))
    return {
        "accuracy": ranked_right(first, second, probability).mean(),
        "margin": jnp.mean(better - worse),
        "better": better.mean(),
        "worse": worse.mean(),
    }


def ratings_met(ratios: Float[Array, "B 2"], probability: Float[Array, " B"]) -> dict[str, jax.Array]:
    """How right and wrong replies fare against the anchor, beyond what replies to other prompts do."""
    gained, gone = ratios[:, 0], jax.nn.relu(ratios[:, 1].mean())
    right = probability >= 0.5
    better, worse = masked.token_mean(gained, right), masked.token_mean(gained, ~right)
    return {
        "accuracy": rated_right(gained - gone, probability).mean(),
        "margin": better - worse,
        "better": better,
        "worse": worse,
    }


def as_they_are(examples: Sequence[Judged], seed: int) -> Sequence[Judged]:
    """Pairs have two replies to begin with."""
    return examples


def beside_strangers(examples: Sequence[Judged], seed: int) -> Sequence[Judged]:
    """Every rated reply, and behind the same prompt a reply to another one. Raises UserError if there is one alone."""
    if len(examples) == 1:
        raise UserError("the method kto compares with replies to other prompts, and there is one rating only.")
    order = np.random.default_rng(seed).permutation(len(examples))
    following = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))

    def beside(number: int) -> Judged:
        ((prompt, (own,)),), ((_, (strange,)),) = examples[number].rows, examples[following[number]].rows
        return Judged((Row(prompt, [own, strange]),), [*examples[number].labels, 0.5])

    return [beside(number) for number in range(len(examples))]


class Method(NamedTuple):
    """A loss, what is measured besides, and what makes rows of two replies of the examples."""

    loss: Loss
    metrics: Callable[[Float[Array, "B 2"], Float[Array, " B"]], dict[str, jax.Array]] = pairs_told_apart
    rows: Callable[[Sequence[Judged], int], Sequence[Judged]] = as_they_are


METHODS: dict[str, Method] = {
    "dpo": Method(lambda settings, policy, anchor, p: preferences.dpo(policy, anchor, p, settings.beta)),
    "ipo": Method(lambda settings, policy, anchor, p: preferences.ipo(policy, anchor, p, settings.beta)),
    "slic": Method(lambda settings, policy, _, p: preferences.slic(policy, p, settings.delta, settings.likelihood)),
    "kto": Method(
        lambda settings, policy, anchor, p: preferences.kto(
            policy, anchor, p, settings.beta, settings.right, settings.wrong
        ),
        ratings_met,
        beside_strangers,
    ),
}


def loss(
    config: VLMConfig,
    method: str,
    settings: PreferenceConfig,
    remat: Remat,
    trainable: Trainable,
    roles: Roles,
    batch: JudgedBatch,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The method's loss, and how the replies fare against the anchor, the better ones and the worse ones."""
    now, how = roles.put(trainable), forward.Pass(remat=remat)
    said = [forward.policy(config, now.weights(role), *batch[:2], how=how) for role in ("policy", "anchor")]
    policy, anchor = (masked.sequence_sum(found.logprobs, batch.completions.mask) for found in said)
    probability, (function, metrics, _) = batch.labels[:, 0], METHODS[method]
    found = function(settings, policy, anchor, probability), metrics(policy - anchor, probability)
    return balanced(roles.mixtures.get("policy"), said[0].usage, *found)


def optimize_preferences(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    examples: Sequence[Judged],
    method: str,
    settings: PreferenceConfig,
    *,
    monitor: Callable[[Roles], float] | None = None,
    technique: Technique = Technique(),
    seed: int = 0,
    observer: Observer = Silent(),
    keeper: Keeper = Forgetful(),
) -> Roles:
    """Trains the role `policy` by one of METHODS, from the role `sft`, on pairs whose replies share a row, or ratings.

    With a `monitor`, returns what scored best on it, the SFT policy included; otherwise the last. Raises UserError if
    there are none, TrainingDiverged at the first number that is not finite.
    """
    started, make = roles.start("anchor", "sft").start("policy", "sft"), OPTIMIZERS[technique.optimizer]
    trained = train(
        "preferences",
        started,
        started.pick("policy"),
        feed(processor, gallery, METHODS[method].rows(examples, seed), batch_size=settings.batch_size, seed=seed),
        functools.partial(loss, processor.config, method, settings, technique.remat),
        make(settings.learning_rate, settings.steps, warmup=min(20, settings.steps // 10), decay=True),
        steps=settings.steps,
        key=jax.random.key(seed),
        observer=observer,
        keeper=keeper,
        drawing=AS_FED._replace(parts=Parts(technique.accumulate)),
        validate=None if monitor is None else lambda policy: monitor(started.put(policy)),
        validate_every=settings.evaluate_every,
        validate_from=0,
    )
    return started.put(trained)
