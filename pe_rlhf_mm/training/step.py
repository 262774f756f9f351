"""One optimizer step: forward, loss, gradient, update."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, NamedTuple

import jax
import optax
from jaxtyping import Array, Int

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.roles import Learned, Roles
from pe_rlhf_mm.models.config import Remat
from pe_rlhf_mm.training.accumulation import WHOLE, Parts, over_parts
from pe_rlhf_mm.training.optimizers import places_of_moments

Loss = Callable[[Learned, Roles, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""(what is trained, everything else, a batch, a key) -> (a scalar, metrics). A metric "loss" is told in its place."""


class Technique(NamedTuple):
    """How steps are taken, in all stages alike: by which of OPTIMIZERS, what layers keep, and in how many parts a step
    works through its batch."""

    optimizer: str = "adam"
    remat: Remat = "products"
    accumulate: int = 1


class TrainState(NamedTuple, Generic[Learned]):
    """What a step changes."""

    trainable: Learned
    optimizer: optax.OptState
    step: Int[Array, ""]
    key: jax.Array


def new_state(
    trainable: Learned, roles: Roles, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState[Learned]:
    """The state before the first step, on the devices of `roles`."""
    moments, mesh = optimizer.init(trainable), jax.sharding.get_mesh()
    if not mesh.empty:
        moments = jax.tree.map(hosts.placed, moments, places_of_moments(moments, trainable, mesh))
    return _beside(TrainState(trainable, moments, jax.numpy.int32(0), key), roles)


@functools.partial(jax.jit, donate_argnames="state", keep_unused=True)
def _beside(state: TrainState[Learned], roles: Roles) -> TrainState[Learned]:
    """The state, bound to devices as what comes out of a step is: or the second step would be compiled once more."""
    return state


@functools.partial(jax.jit, static_argnames=("loss", "optimizer", "parts"), donate_argnames="state")
def train_step(
    state: TrainState[Learned],
    roles: Roles,
    batch: Any,
    *,
    loss: Loss[Learned],
    optimizer: optax.GradientTransformation,
    parts: Parts = WHOLE,
) -> tuple[TrainState[Learned], dict[str, jax.Array]]:
    """Moves the trainable part one step; `roles` and all that is frozen in them stay as they are."""
    key = jax.random.fold_in(state.key, state.step)
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, metrics), grads = over_parts(
        parts, lambda part, key: gradient(state.trainable, roles, part, key), batch, key
    )
    updates, optimizer_state = optimizer.update(grads, state.optimizer, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **metrics}
    return TrainState(trainable, optimizer_state, state.step + 1, state.key), metrics
