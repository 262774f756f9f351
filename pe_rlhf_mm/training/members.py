"""Several reward models at once: adapters and heads over one backbone, trained by one step, and what they make.

    L = Σ_k L_k,   so that dL/dθ_k = dL_k/dθ_k

Each member k has a batch, a dropout, a rate and a norm of its own, and learns what it would learn by itself; data,
steps and the backbone they share. They begin with the same factors and one head, so that they stay near enough to each
other for their average to be a model (WARM: Ramé et al. 2024, arXiv 2401.12187, section 3); order of the data, dropout
and rate make them differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from pe_rlhf_mm.adapters.averages import with_average
from pe_rlhf_mm.adapters.roles import Roles, Trainable
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.models.config import Remat, VLMConfig
from pe_rlhf_mm.training.accumulation import Parts
from pe_rlhf_mm.training.config import RewardConfig
from pe_rlhf_mm.training.jury import Jury, jury_of, made_by, members_of
from pe_rlhf_mm.training.keeper import Forgetful, Keeper
from pe_rlhf_mm.training.loop import AS_FED, train
from pe_rlhf_mm.training.observer import Observer, Silent
from pe_rlhf_mm.training.optimizers import OPTIMIZERS, by_role
from pe_rlhf_mm.training.reward import (
    LOSSES,
    Judged,
    JudgedBatch,
    Scored,
    feed_each,
    labels_of,
    refuse_none,
    score_each,
    share,
    standardised,
    zero_and_unit,
)
from pe_rlhf_mm.training.step import Technique


class Given(NamedTuple):
    """What one member's loss is told besides the roles; of all of them, arrays with one more axis, the first."""

    batch: JudgedBatch
    key: jax.Array
    dropout: Float[Array, ""]


Found = tuple[jax.Array, dict[str, jax.Array]]
"""A loss and metrics; of all members, arrays of as many."""
One = Callable[[Trainable, Roles, Given], Found]
"""(what one member trains, everything else, what it is given) -> (its loss, its metrics)."""


# --- how a step goes through its members ------------------------------------------------------------------------


def together(one: One, learned: Trainable, roles: Roles, given: Given) -> Found:
    """In one pass: a backbone that is kept in parts is gathered once, and what all of them compute is held at once."""
    # The axis of members is named as that of roles is in `passes.py`, and why.
    each = jax.vmap(one, in_axes=(0, None, 0), spmd_axis_name=())
    found: Found = each(learned, roles, given)
    return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def apart(one: One, learned: Trainable, roles: Roles, given: Given) -> Found:
    """One after another. The gradient of each is taken as soon as its loss is known: what it has computed is let go
    before the next one begins, and the memory is that of one. Metrics have no gradient."""
    found: Found = jax.lax.map(lambda own: one(own[0], roles, own[1]), (learned, given))
    return found


def _forward(one: One, learned: Trainable, roles: Roles, given: Given) -> tuple[Any, Trainable]:
    gradient = jax.value_and_grad(one, has_aux=True)
    found, slopes = jax.lax.map(lambda own: gradient(own[0], roles, own[1]), (learned, given))
    return found, slopes


def _backward(one: One, slopes: Trainable, cotangent: tuple[Float[Array, " K"], Any]) -> tuple[Any, None, None]:
    losses, _ = cotangent
    return jax.tree.map(lambda slope: losses.reshape(-1, *[1] * (slope.ndim - 1)) * slope, slopes), None, None


apart.defvjp(_forward, _backward)


PASSES: dict[str, Callable[..., Found]] = {"apart": apart, "together": together}


# --- the loss ---------------------------------------------------------------------------------------------------


def loss(
    config: VLMConfig,
    settings: RewardConfig,
    remat: Remat,
    trainable: Trainable,
    roles: Roles,
    batches: tuple[JudgedBatch, ...],
    key: jax.Array,
) -> Found:
    """The sum of the members' losses, each on its own batch; metrics, the loss among them, are means over members."""
    names, objective = members_of(settings), LOSSES[settings.loss]

    def one(own: Trainable, roles: Roles, given: Given) -> Found:
        alone = roles._replace(scales={**roles.scales, "reward": roles.scales[names[0]]})
        return objective(config, given.dropout, remat, own, alone, given.batch, given.key)

    learned = _stacked(
        [Trainable({"reward": trainable.slots[n]}, {}, {"reward": trainable.heads[n]}, {}) for n in names]
    )
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(names)))
    given = Given(_stacked(batches), keys, jnp.array(in_turn(settings.dropouts, settings.dropout, len(names))))
    losses, metrics = PASSES[settings.passes](one, learned, roles, given)
    return losses.sum(), {"loss": losses.mean(), **jax.tree.map(jnp.mean, metrics)}


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def in_turn(several: Sequence[float], alone: float, count: int) -> list[float]:
    """A value for each of so many members: those that are named, over and over, or one for all."""
    values = several or [alone]
    return [values[number % len(values)] for number in range(count)]


def optimizer_for(settings: RewardConfig, trainable: Trainable, name: str = "adam") -> optax.GradientTransformation:
    """One of OPTIMIZERS for each member, with its rate."""
    names, warmup = members_of(settings), min(20, settings.steps // 10)
    rates = in_turn(settings.learning_rates, settings.learning_rate, len(names))
    each = {
        role: OPTIMIZERS[name](rate, settings.steps, warmup=warmup, decay=True)
        for role, rate in zip(names, rates, strict=True)
    }
    return by_role(trainable, each)


# --- the recipe -------------------------------------------------------------------------------------------------


def train_members(
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
    """Trains `settings.members` reward models at once, whose roles must exist, with heads of their own.

    Kept are the members of the step at which what they make together is right most often. Returned is what they make,
    too: with `warm` the role `reward`. All heads are standardised on the validation examples. Raises UserError without
    any, and TrainingDiverged.
    """
    refuse_none(validation)
    names, config = members_of(settings), processor.config
    trainable = roles.pick(*names)

    def validate(trainable: Trainable) -> float:
        now = judging(roles.put(trainable), settings)
        return float(_judged(now, processor, gallery, validation, jury_of(settings)).right.mean())

    trained = train(
        "reward_model",
        roles,
        trainable,
        feed_each(
            len(names),
            processor,
            gallery,
            examples,
            batch_size=settings.batch_size,
            seed=seed,
            margin=settings.margin,
        ),
        functools.partial(loss, config, settings, technique.remat),
        optimizer_for(settings, trainable, technique.optimizer),
        steps=settings.steps,
        key=jax.random.key(seed),
        observer=observer,
        keeper=keeper,
        drawing=AS_FED._replace(parts=Parts(technique.accumulate, share)),
        validate=validate,
        validate_every=settings.validate_every,
    )
    roles = judging(roles.put(trained), settings)
    for role in made_by(settings):
        roles = standardised(roles, processor, gallery, validation, role)
    return roles


def judging(roles: Roles, settings: RewardConfig) -> Roles:
    """The roles with what members make: their average, without the control, in the role `reward`; or as they are."""
    if settings.combine != "warm":
        return roles
    return with_average(roles, "reward", [name for name in members_of(settings) if name != jury_of(settings).control])


def _judged(roles: Roles, processor: Processor, gallery: Gallery, examples: Sequence[Judged], jury: Jury) -> Scored:
    """The verdict of members whose heads are not standardised yet."""
    said = score_each(roles, jury.roles, processor, gallery, [e.rows for e in examples])
    units = {role: zero_and_unit(scores) for role, scores in said.items()}
    comparable = {role: (scores - units[role][0]) / units[role][1] for role, scores in said.items()}
    return Scored(np.asarray(jury.verdict(comparable)), labels_of(examples))
