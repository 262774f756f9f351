"""RL on completions: REINFORCE with a baseline and a KL penalty, as in the paper, or another policy gradient.

    J(θ) = E[(1 - β) r(x, y) - β KL(π_θ(·|x) || anchor(·|x))]         PE-RLHF (arXiv 2403.10704), equation 1

One iteration: draw completions from the policy; score them with the reward model; score their tokens with the policy
and with the anchor; turn both into a return for every token (γ = 1); take one step on L_pg + L_v, or several
(`epochs`). The policy and the value model start as the SFT policy, which is also the anchor. What the algorithms differ
in is the table of `policy_gradient.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.mixture import balanced
from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.algorithms import advantages, kl, masked
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.pipeline import pick
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.data.streams import Fed, blocks, bucketed
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.models.sharding import by_rows
from pe_rlhf_mm.rollout.sampler import Sampled, sample
from pe_rlhf_mm.training import forward, passes
from pe_rlhf_mm.training.accumulation import Parts
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.keeper import Forgetful, Keeper
from pe_rlhf_mm.training.loop import Drawing, train
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.optimizers import OPTIMIZERS, by_role
from pe_rlhf_mm.training.passes import Completed
from pe_rlhf_mm.training.policy_gradient import (
    ALGORITHMS,
    PLACEMENTS,
    Earned,
    Experience,
    assessors,
    begun,
    experience,
    objective,
)
from pe_rlhf_mm.training.scorers import LEARNED, Asked, Scorer
from pe_rlhf_mm.training.step import Loss, Technique
from pe_rlhf_mm.types import Completions, Prompts


class Rollout(NamedTuple):
    """One iteration's completions with everything that is constant for the updates."""

    prompts: Prompts
    completions: Completions
    rewards: Float[Array, "B G"]
    experience: Experience


def loss(
    config: VLMConfig,
    settings: RLConfig,
    remat: Remat,
    trainable: Trainable,
    roles: Roles,
    rollout: Rollout,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The algorithm's objective, of completions."""
    rows, learners = Completed(rollout.prompts, rollout.completions), ALGORITHMS[settings.algorithm].roles
    read = functools.partial(passes.read, how=forward.Pass(remat=remat))
    said = passes.said(config, roles.put(trainable), learners, rows, settings, read)
    found = objective(settings, said["policy"], said.get("value"), rollout.experience, rows.mask)
    return balanced(roles.mixtures.get("policy"), said["policy"].usage, *found)


def replies(rollout: Rollout) -> Array:
    """How many there are to learn from: what all that a loss of RL sums up is divided by."""
    return rollout.completions.mask.any(axis=-1).sum()


@functools.partial(jax.jit, static_argnames="settings")
def _assess(
    settings: RLConfig,
    sampled: Sampled,
    said: Mapping[str, Any],
    rewards: Float[Array, "B G"],
    beta: Float[Array, ""] | float,
) -> tuple[Experience, dict[str, jax.Array]]:
    """What every token is given credit for, by the algorithm, and the metrics of a rollout."""
    mask = sampled.completions.mask  # which may leave out whole completions that have been read
    policy_now, anchor = (said[role].of(mask) for role in ("policy", "anchor"))
    divergence = kl.k1(policy_now.full_logprobs, anchor.full_logprobs)
    gap = jnp.where(mask, jnp.abs(sampled.logprobs - policy_now.logprobs), 0)
    metrics = {
        "kl": masked.sequence_sum_mean(divergence, mask),
        "length": mask.sum(axis=-1).mean(),
        "finished": sampled.finished.mean(),
        "sampler_gap": gap.max(),
    }
    charge = PLACEMENTS[settings.kl].charge(policy_now.full_logprobs, anchor.full_logprobs)
    earned = advantages.token_rewards(rewards, charge, mask, beta)
    turn, beyond = jnp.zeros(mask.shape, int), jnp.zeros(rewards.shape)
    whole = Earned(earned, advantages.returns_to_go(earned), turn, turn, mask, said.get("value"), beyond)
    return experience(settings, beta, whole, policy_now.logprobs, anchor.full_logprobs), metrics


def collect(
    config: VLMConfig,
    roles: Roles,
    trainable: Trainable,
    asked: Asked,
    settings: RLConfig,
    scorer: Scorer,
    key: jax.Array,
    beta: float,
) -> tuple[Rollout, dict[str, Any]]:
    """Draws completions with the current policy and works out what is constant for the updates on them.

    `beta`: of this rollout, which may be another one than that of the settings, with which RL begins.
    """
    now, prompts = roles.put(trainable), by_rows(asked.prompts)
    keys = jax.random.split(key, len(prompts.tokens))
    sampled = sample(config, *now.weights("policy"), prompts, keys, group=settings.group, sampling=settings.sampling)
    rows, names = Completed(prompts, sampled.completions), assessors(settings, scorer.roles)
    said = passes.said(config, now, names, rows, settings)
    worth = scorer.worth(said, Asked(prompts, asked.numbers), sampled.completions)
    sampled = sampled._replace(completions=worth.of_known(sampled.completions))
    found, metrics = _assess(settings, sampled, said, worth.rewards, beta)
    return Rollout(prompts, sampled.completions, worth.rewards, found), {**metrics, **worth.metrics}


def feed(
    processor: Processor, gallery: Gallery, prompts: Sequence[EncodedPrompt], settings: RLConfig, *, seed: int
) -> Fed[Asked]:
    """Batches of prompts in a few lengths. Raises UserError if there are none."""

    def collate(numbered: list[tuple[int, EncodedPrompt]], shape: Sequence[int]) -> Asked:
        numbers, chosen = zip(*numbered, strict=True)
        return Asked(processor.prompts(chosen, gallery, length=shape[0]), numbers)

    return bucketed(
        list(enumerate(prompts)),
        _sizes(prompts, settings),
        collate,
        batch_size=settings.prompts,
        seed=seed,
        what="prompts",
        saving=0.15,  # each length compiles a sampler, two scorings and an update
    )


def _sizes(prompts: Sequence[EncodedPrompt], settings: RLConfig) -> Int[np.ndarray, "n 2"]:
    """Tokens of each prompt, and of all that may be drawn behind it."""
    return np.array([(len(p.tokens), settings.group * settings.max_tokens) for p in prompts]).reshape(-1, 2)


def optimizer_for(settings: RLConfig, trainable: Trainable, name: str = "adam") -> optax.GradientTransformation:
    """One of OPTIMIZERS for the policy, one for the value model, if there is one."""
    rates = {"policy": settings.learning_rate, "value": settings.value_learning_rate}
    roles = ALGORITHMS[settings.algorithm].roles
    return by_role(trainable, {role: OPTIMIZERS[name](rates[role], settings.steps) for role in roles})


def reinforce(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    prompts: Sequence[EncodedPrompt],
    settings: RLConfig,
    *,
    scorer: Scorer = LEARNED,
    monitor: Callable[[Roles], float] | None = None,
    technique: Technique = Technique(),
    seed: int = 0,
    observer: Observer = Silent(),
    keeper: Keeper = Forgetful(),
) -> Roles:
    """Trains the role `policy`, and `value` if the algorithm has one, from `sft`, against `scorer` (a learned reward).

    It is given prompts and nothing else: no target, no demonstration; what a scorer knows, it keeps to itself. Raises
    TrainingDiverged at the first number that is not finite.
    """
    config = processor.config

    def draw(
        roles: Roles, trainable: Trainable, asked: Asked, key: jax.Array, beta: float
    ) -> tuple[Rollout, dict[str, Any]]:
        return collect(config, roles, trainable, asked, settings, scorer, key, beta)

    return improve(
        roles,
        config,
        feed(processor, gallery, prompts, settings, seed=seed),
        draw,
        functools.partial(loss, config, settings, technique.remat),
        settings,
        technique,
        monitor=monitor,
        seed=seed,
        observer=observer,
        keeper=keeper,
    )


def improve(
    roles: Roles,
    config: VLMConfig,
    fed: Fed,
    draw: Callable[[Roles, Trainable, Any, jax.Array, float], tuple[Any, dict[str, Any]]],
    loss: Loss[Trainable],
    settings: RLConfig,
    technique: Technique,
    *,
    monitor: Callable[[Roles], float] | None,
    seed: int,
    observer: Observer,
    keeper: Keeper,
) -> Roles:
    """The loop, where a batch is a rollout that `draw` makes of what is fed, with the current policy, and with β.

    With a `monitor`, returns what scored best on it, the policy that RL began with included; otherwise the last.
    """
    roles = begun(roles, config, settings)
    training_key, drawing_key = jax.random.split(jax.random.key(seed))
    trainable = roles.pick(*ALGORITHMS[settings.algorithm].roles)

    def drawn(now: Trainable, asked: Any, step: int, beta: float) -> tuple[Any, dict[str, Any]]:
        rollout, metrics = draw(roles, now, asked, jax.random.fold_in(drawing_key, step), beta)
        return rollout, {**metrics, "beta": beta}

    def adapt(beta: float, measured: Mapping[str, float]) -> float:
        if not settings.kl_target:
            return beta
        return hosts.led(lambda: kl.adapted(beta, measured["kl"], settings.kl_target, settings.kl_gain))

    trained = train(
        "rl",
        roles,
        trainable,
        fed,
        loss,
        optimizer_for(settings, trainable, technique.optimizer),
        steps=settings.steps,
        key=training_key,
        observer=observer,
        keeper=keeper,
        drawing=Drawing(drawn, settings.epochs, Parts(technique.accumulate, replies), settings.beta, adapt),
        validate=None if monitor is None else lambda now: monitor(roles.put(now)),
        validate_every=settings.evaluate_every,
        validate_from=0,
    )
    return roles.put(trained)


class Divergence(NamedTuple):
    """KL(policy || anchor) in nats a completion, and over how many prompts it was estimated."""

    nats: float
    prompts: int


def mean_divergence(
    roles: Roles,
    processor: Processor,
    gallery: Gallery,
    prompts: Sequence[EncodedPrompt],
    settings: RLConfig,
    *,
    seed: int,
    at_most: int = 512,
) -> Divergence:
    """KL(policy || anchor), estimated on completions drawn as in training for prompts drawn from the seed."""
    config, key, sampling = processor.config, jax.random.key(seed), settings.sampling
    chosen = pick(prompts, at_most, seed=seed)
    nats = np.zeros((len(chosen), settings.group))
    for block in blocks(_sizes(chosen, settings), rows=settings.prompts):
        batch = by_rows(processor.prompts([chosen[i] for i in block.filled], gallery, length=block.shape[0]))
        keys = jax.random.split(jax.random.fold_in(key, block.indices[0]), len(batch.tokens))
        drawn = sample(config, *roles.weights("policy"), batch, keys, group=settings.group, sampling=sampling)
        said = passes.said(config, roles, ("policy", "anchor"), Completed(batch, drawn.completions), settings)
        policy_now, anchor = (said[role].full_logprobs for role in ("policy", "anchor"))
        terms = kl.k1(policy_now, anchor) * drawn.completions.mask
        nats[block.indices] = hosts.fetched(terms.sum(axis=-1))[: len(block.indices)]
    return Divergence(float(nats.mean()), len(chosen))
