"""The algorithms of RL in one table: what of a rollout a token is given credit for, and which loss is taken of that.

What they share is here too: where the KL term acts, and the objective that is summed up of policy, value model, KL term
and entropy. The mathematics is in `algorithms/`; rollouts are made by `reinforce.py` and `episodes.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.algorithms import advantages, kl, losses, masked, preferences, ratios
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.training.config import RLConfig
from pe_rlhf_mm.training.forward import PolicyStatistics as Statistics


class Earned(NamedTuple):
    """What a rollout's tokens have earned, group by group.

    `rewards`: of each token, what the KL term takes included; `returns`: their sums to come. `turn`: the number of the
    reply; `scope`: within one, what is earned later is owed to what was chosen earlier. `values`: what V said, where it
    was asked; `beyond`: and what it says of what lies behind the last token, 0 where nothing does.
    """

    rewards: Float[Array, "*n G T"]
    returns: Float[Array, "*n G T"]
    turn: Int[Array, "*n G T"]
    scope: Int[Array, "*n G T"]
    mask: Bool[Array, "*n G T"]
    values: Any
    beyond: Float[Array, "*n G"]


class Credit(NamedTuple):
    """What the policy is to learn from, and what the value model, if there is one, is to learn."""

    advantages: Float[Array, "*n G T"]
    returns: Float[Array, "*n G T"]


class Experience(NamedTuple):
    """Of every token of a rollout, group by group, what is constant for the updates on it.

    `logprobs`: under the policy that drew it, as the trainer works them out; `anchor_logprobs`: under the anchor, and
    before top-k and top-p; `values`: what V said then, where it was asked; `beta`: what a nat of the KL term costs.
    """

    logprobs: Float[Array, "*n G T"]
    anchor_logprobs: Float[Array, "*n G T"]
    advantages: Float[Array, "*n G T"]
    returns: Float[Array, "*n G T"]
    values: Any
    beta: Float[Array, "*n G T"]


class Algorithm(NamedTuple):
    """The roles that are trained, and what is made of a rollout.

    `appraised`: the value model says what it expects of a rollout's tokens before the first update. `credit`: what was
    earned to advantages and returns. `policy_loss`, `value_loss`: of what policy and value model say of the tokens now.
    `mean`: of terms of tokens, as the policy's loss takes it of its own, for what is added to that.
    """

    roles: tuple[str, ...]
    appraised: bool
    credit: Callable[[RLConfig, Earned], Credit]
    policy_loss: Callable[[RLConfig, Statistics, Any, Experience, Array], Float[Array, ""]]
    value_loss: Callable[[RLConfig, Array, Experience, Array], Float[Array, ""]] | None
    mean: Callable[[RLConfig, Array, Array], Float[Array, ""]]


# --- credit -----------------------------------------------------------------------------------------------------


def _whole_return(settings: RLConfig, earned: Earned) -> Credit:
    """All that is still to come; the update measures it against what V says by then."""
    return Credit(earned.returns, earned.returns)


def _in_group(measure: Callable[..., Array], settings: RLConfig, earned: Earned) -> Credit:
    return Credit(measure(earned.returns, earned.scope, earned.mask), earned.returns)


def _generalized(settings: RLConfig, earned: Earned) -> Credit:
    """GAE, whitened over the rollout. By turns, the advantage of each is that of its first token."""
    (rewards, _, turn, scope, mask, values, beyond), decay = earned, settings.gae_lambda
    trace = advantages.traces(turn, mask, decay) if settings.credit == "turn" else decay
    discount = advantages.discounts(turn, scope, mask, settings.gamma)
    found = advantages.generalized(rewards, values, beyond, discount, trace, mask)
    shared = advantages.at_first(found, turn, mask) if settings.credit == "turn" else found
    return Credit(advantages.whitened(shared, mask), found + values)


# --- losses -----------------------------------------------------------------------------------------------------


def _weighted(
    settings: RLConfig, now: Statistics, of: Experience, gains: Float[Array, "*n T"], mask: Array
) -> Float[Array, "*n T"]:
    """By how much likelier tokens have become since they were drawn, up to a cap; with one epoch, just now."""
    if settings.epochs == 1:
        return gains
    return ratios.truncated(now.logprobs, of.logprobs, mask, settings.truncation) * gains


def _reinforce(settings: RLConfig, now: Statistics, values: Array, of: Experience, mask: Array) -> Float[Array, ""]:
    return losses.reinforce(now.logprobs, _weighted(settings, now, of, of.returns - values, mask), mask)


def _rloo(settings: RLConfig, now: Statistics, values: None, of: Experience, mask: Array) -> Float[Array, ""]:
    return losses.reinforce(now.logprobs, _weighted(settings, now, of, of.advantages, mask), mask)


def _grpo(settings: RLConfig, now: Statistics, values: None, of: Experience, mask: Array) -> Float[Array, ""]:
    return losses.grpo(now.logprobs, of.logprobs, of.advantages, mask, settings.clip)


def _dr_grpo(settings: RLConfig, now: Statistics, values: None, of: Experience, mask: Array) -> Float[Array, ""]:
    return losses.dr_grpo(now.logprobs, of.logprobs, of.advantages, mask, settings.clip, settings.max_tokens)


def _ppo(settings: RLConfig, now: Statistics, values: Array, of: Experience, mask: Array) -> Float[Array, ""]:
    return losses.ppo(now.logprobs, of.logprobs, of.advantages, mask, settings.clip)


def _online_dpo(settings: RLConfig, now: Statistics, values: None, of: Experience, mask: Array) -> Float[Array, ""]:
    return preferences.online_dpo(now.full_logprobs, of.anchor_logprobs, of.advantages, mask, settings.dpo_beta)


def _best_of_n(settings: RLConfig, now: Statistics, values: None, of: Experience, mask: Array) -> Float[Array, ""]:
    return losses.reinforce(now.full_logprobs, of.advantages, mask)


def _squares(settings: RLConfig, values: Array, of: Experience, mask: Array) -> Float[Array, ""]:
    return losses.value(values, of.returns, mask)


def _clipped_squares(settings: RLConfig, values: Array, of: Experience, mask: Array) -> Float[Array, ""]:
    return losses.clipped_value(values, of.values, of.returns, mask, settings.value_clip)


def _sum(settings: RLConfig, terms: Array, mask: Array) -> Float[Array, ""]:
    return masked.sequence_sum_mean(terms, mask)


def _mean(settings: RLConfig, terms: Array, mask: Array) -> Float[Array, ""]:
    return masked.sequence_mean_mean(terms, mask)


def _share(settings: RLConfig, terms: Array, mask: Array) -> Float[Array, ""]:
    return masked.sequence_sum_mean(terms, mask) / settings.max_tokens


_others, _standardized, _above, _pairs, _best = (
    functools.partial(_in_group, measure)
    for measure in (
        advantages.above_the_others,
        advantages.standardized,
        advantages.above_the_mean,
        advantages.best_and_worst,
        advantages.best_of_group,
    )
)

ALGORITHMS = {
    "reinforce": Algorithm(("policy", "value"), False, _whole_return, _reinforce, _squares, _sum),
    "rloo": Algorithm(("policy",), False, _others, _rloo, None, _sum),
    "grpo": Algorithm(("policy",), False, _standardized, _grpo, None, _mean),
    "dr-grpo": Algorithm(("policy",), False, _above, _dr_grpo, None, _share),
    "ppo": Algorithm(("policy", "value"), True, _generalized, _ppo, _clipped_squares, _sum),
    "online-dpo": Algorithm(("policy",), False, _pairs, _online_dpo, None, _sum),
    "best-of-n": Algorithm(("policy",), False, _best, _best_of_n, None, _sum),
}


# --- how it begins ----------------------------------------------------------------------------------------------


def begun(roles: Roles, config: VLMConfig, settings: RLConfig) -> Roles:
    """The roles before the first step: the anchor and those that are trained equal `sft`, unless the value model has
    fresh adapters of its own; V says 0 of everything."""
    learning = ALGORITHMS[settings.algorithm].roles
    for role in ("anchor", *learning):
        if role != "value" or "value" not in roles.slots:
            roles = roles.start(role, "sft")
    return roles.with_head("value", jnp.zeros(config.decoder.width)) if "value" in learning else roles


# --- the KL term ------------------------------------------------------------------------------------------------


def nothing(logprobs: Float[Array, "*n T"], anchor: Float[Array, "*n T"]) -> Float[Array, "*n T"]:
    """The KL term acts elsewhere."""
    return jnp.zeros_like(logprobs)


def half_square(logprobs: Float[Array, "*n T"], anchor: Float[Array, "*n T"]) -> Float[Array, "*n T"]:
    """½ (log π - log anchor)².

    On tokens drawn from π the gradient of this square, x ∇log π, is an unbiased gradient of the divergence at the
    states visited; that of the log-ratio itself has mean zero, and would do nothing.
    """
    return 0.5 * (logprobs - anchor) ** 2


class Placement(NamedTuple):
    """Where the KL term acts: what each token is charged in its reward, and what it adds to the loss; both times β."""

    charge: Callable[[Array, Array], Float[Array, "*n T"]]
    penalty: Callable[[Array, Array], Float[Array, "*n T"]]


PLACEMENTS = {
    "return": Placement(kl.k1, nothing),
    "loss": Placement(nothing, half_square),
    "k3": Placement(nothing, kl.k3),
}


# --- the objective ----------------------------------------------------------------------------------------------


def assessors(settings: RLConfig, judges: tuple[str, ...]) -> tuple[str, ...]:
    """The roles that read a rollout before it is learned from; `judges`: those whose word the rewards are."""
    return ("policy", "anchor", *(["value"] if ALGORITHMS[settings.algorithm].appraised else []), *judges)


def experience(
    settings: RLConfig,
    beta: Float[Array, ""] | float,
    earned: Earned,
    logprobs: Float[Array, "*n G T"],
    anchor_logprobs: Float[Array, "*n G T"],
) -> Experience:
    """What the updates on a rollout are given: the log-probabilities, credit by the algorithm, and β."""
    credit = ALGORITHMS[settings.algorithm].credit(settings, earned)
    return Experience(logprobs, anchor_logprobs, *credit, earned.values, jnp.full(logprobs.shape, beta))


def objective(
    settings: RLConfig,
    statistics: Statistics,
    values: Any,
    of: Experience,
    mask: Bool[Array, "*n G T"],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L_pg + L_v + penalty · β - c · entropy, of groups of completions or of episodes, and its metrics.

    `statistics` and `values` are those of now; None where there is no value model, and no L_v.
    """
    algorithm = ALGORITHMS[settings.algorithm]
    policy_loss = algorithm.policy_loss(settings, statistics, values, of, mask)
    penalty = of.beta * PLACEMENTS[settings.kl].penalty(statistics.full_logprobs, of.anchor_logprobs)
    entropy = masked.token_mean(statistics.entropy, mask)
    metrics = {"policy_loss": policy_loss, "entropy": entropy}
    loss = policy_loss + algorithm.mean(settings, penalty, mask)
    if settings.entropy:
        loss = loss - settings.entropy * entropy
    if settings.epochs > 1:
        metrics["staleness"] = masked.token_mean(kl.k3(of.logprobs, statistics.logprobs), mask)
    if algorithm.value_loss is None:
        return loss, metrics
    value_loss = algorithm.value_loss(settings, values, of, mask)
    unexplained = masked.token_variance(of.returns - values, mask) / jnp.maximum(
        masked.token_variance(of.returns, mask), 1e-8
    )
    return loss + value_loss, {**metrics, "value_loss": value_loss, "explained_variance": 1 - unexplained}
