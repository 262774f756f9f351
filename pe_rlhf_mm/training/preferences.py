"""Preference optimisation: the policy learns from pairs of replies, and neither reward nor value model is trained.

The policy starts as the SFT policy, which is also the anchor. A pair is a row [prompt | first | second], as for the
reward model: the prompt and its images are computed once. Nothing is sampled but what the policy is evaluated on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pe_rlhf_mm.adapters.roles import Roles, Trainable, Weights
from pe_rlhf_mm.algorithms import masked, preferences
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.training import forward
from pe_rlhf_mm.training.config import PreferenceConfig
from pe_rlhf_mm.training.keeper import Forgetful, Keeper
from pe_rlhf_mm.training.loop import train
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.reward import Judged, JudgedBatch, feed, ranked_right
from pe_rlhf_mm.training.step import adam

Method = Callable[
    [PreferenceConfig, Float[Array, "B 2"], Float[Array, "B 2"], Float[Array, " B"]],
    Float[Array, ""],
]
"""(settings, log-probabilities of the policy, of the anchor, of the first reply being the better one) -> a loss."""

METHODS: dict[str, Method] = {
    "dpo": lambda settings, policy, anchor, p: preferences.dpo(policy, anchor, p, settings.beta),
    "ipo": lambda settings, policy, anchor, p: preferences.ipo(policy, anchor, p, settings.beta),
    "slic": lambda settings, policy, anchor, p: preferences.slic(policy, p, settings.delta, settings.likelihood),
}


def loss(
    config: VLMConfig,
    method: str,
    settings: PreferenceConfig,
    remat: bool,
    trainable: Trainable,
    roles: Roles,
    batch: JudgedBatch,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The method's loss, and how the replies fare against the anchor, the better ones and the worse ones."""
    now, how = roles.put(trainable), forward.Pass(remat=remat)
    policy, anchor = (_logprobs(config, now.weights(role), batch, how) for role in ("policy", "anchor"))
    probability, ratios = batch.labels[:, 0], policy - anchor
    first, second = ratios[:, 0], ratios[:, 1]
    better, worse = (jnp.where(probability >= 0.5, *pair) for pair in ((first, second), (second, first)))
    metrics = {
        "accuracy": ranked_right(first, second, probability).mean(),
        "margin": jnp.mean(better - worse),
        "better": better.mean(),
        "worse": worse.mean(),
    }
    return METHODS[method](settings, policy, anchor, probability), metrics


def _logprobs(config: VLMConfig, weights: Weights, batch: JudgedBatch, how: forward.Pass) -> Float[Array, "B 2"]:
    """Of whole replies."""
    found = forward.policy(config, weights, batch.prompts, batch.completions, how=how)
    return masked.sequence_sum(found.logprobs, batch.completions.mask)


def optimize_preferences(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    pairs: Sequence[Judged],
    method: str,
    settings: PreferenceConfig,
    *,
    monitor: Callable[[Roles], float] | None = None,
    remat: bool = False,
    seed: int = 0,
    observer: Observer = Silent(),
    keeper: Keeper = Forgetful(),
) -> Roles:
    """Trains the role `policy` by one of METHODS, from the role `sft`, on pairs whose replies share a row.

    With a `monitor`, returns what scored best on it, the SFT policy included; otherwise the last. Raises UserError if
    there are no pairs, TrainingDiverged at the first number that is not finite.
    """
    started = roles.start("anchor", "sft").start("policy", "sft")
    trained = train(
        "preferences",
        started,
        started.pick("policy"),
        feed(processor, gallery, pairs, batch_size=settings.batch_size, seed=seed),
        functools.partial(loss, processor.config, method, settings, remat),
        adam(settings.learning_rate, settings.steps, warmup=min(20, settings.steps // 10), decay=True),
        steps=settings.steps,
        key=jax.random.key(seed),
        observer=observer,
        keeper=keeper,
        validate=None if monitor is None else lambda policy: monitor(started.put(policy)),
        validate_every=settings.evaluate_every,
        validate_from=0,
    )
    return started.put(trained)
