"""What lies in a device's memory between two programs: weights, adapters and optimizer state, as shapes with places."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pe_rlhf_mm.adapters.lora import Bank, LowRank, Slot, parts_of
from pe_rlhf_mm.adapters.roles import Roles, Trainable, Weights, type_of
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import Quantization, VLMConfig
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.models.places import cuts_of_slot, place_of_quantized, places_of
from pe_rlhf_mm.models.quantize import Quantized, quantized_state
from pe_rlhf_mm.models.sharding import partition
from pe_rlhf_mm.training.config import RewardConfig, TuneConfig
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.training.jury import members_of
from pe_rlhf_mm.training.members import judging
from pe_rlhf_mm.training.optimizers import places_of_moments
from pe_rlhf_mm.training.policy_gradient import begun
from pe_rlhf_mm.training.step import TrainState

HALF = jnp.bfloat16
"""The type of a backbone on every accelerator."""


def before(stage: str, settings: RewardConfig) -> tuple[str, ...]:
    """The roles that have been trained when a stage begins."""
    return {"sft": (), "reward": ("sft",), "rl": ("sft", *members_of(settings))}[stage]


def rows(shape: tuple[int, ...], dtype: Any, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """An array of a batch, its rows dealt to the devices."""
    place = NamedSharding(mesh, partition(("rows", *[None] * (len(shape) - 1)), shape, mesh))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def whole(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every device has whole."""
    place = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def placed(tree: Any, places: Any, dtype: Any = None) -> Any:
    """Arrays, each in its place."""
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=at), tree, places)


def bytes_a_device(tree: Any) -> int:
    """Of arrays in their places, without what a layout adds. What stands in a tree twice is there once."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in {id(x): x for x in jax.tree.leaves(tree)}.values()
        if not jnp.issubdtype(x.dtype, jax.dtypes.extended)
    )


def roles_of(config: VLMConfig, settings: TuneConfig, stage: str, mesh: Mesh, dtype: Any = HALF) -> Roles:
    """All roles as a stage begins, those that share their arrays with shapes that they share.

    `dtype` is that of the backbone.
    """
    places = places_of(config, mesh)
    backbone = _quantized(placed(vlm.abstract_state(config), places, dtype), places, settings.quantize)
    made: list[Roles] = []

    def as_it_begins(state: Any) -> Roles:
        roles = attach(Model("plan", config, state, None), settings)  # type: ignore[arg-type]
        for role in before(stage, settings.reward):
            roles = roles.put(roles.pick(role))
        if stage == "rl" and settings.reward.members > 1:
            roles = judging(roles, settings.reward)
        made.append(begun(roles, config, settings.rl) if stage == "rl" else roles)
        return made[0]

    shapes = jax.eval_shape(as_it_begins, backbone)
    slots = {name: _placed_slot(config, slot, mesh) for name, slot in shapes.slots.items()}
    copies = {name: placed(copy, places) for name, copy in shapes.copies.items()}
    return Roles(
        backbone=backbone,
        slots=_shared(slots, made[0].slots, {}),
        scales=whole(shapes.scales, mesh),
        copies=_shared(copies, made[0].copies, {id(made[0].backbone): backbone}),
        heads=whole(shapes.heads, mesh),
        mixtures={},
    )


def _quantized(weights: nnx.State, places: nnx.State, kind: Quantization | None) -> nnx.State:
    """A backbone as it is held: its kernels in 8 or 4 bits, if they are to be."""
    if kind is None:
        return weights
    shapes = jax.eval_shape(lambda state: quantized_state(state, kind), weights)

    def laid(place: Any, x: Any) -> Any:
        return placed(x, place_of_quantized(place, x) if isinstance(x, Quantized) else place)

    return jax.tree.map(laid, places, shapes)


def _shared(parts: dict[str, Any], made: dict[str, Any], known: dict[int, Any]) -> dict[str, Any]:
    """By role its shapes: one and the same tree for roles that were made of one."""
    return {role: known.setdefault(id(made[role]), part) for role, part in parts.items()}


def _placed_slot(config: VLMConfig, slot: Slot, mesh: Mesh) -> Slot:
    cuts = cuts_of_slot(config, slot, mesh)
    places = {target: [NamedSharding(mesh, cut) for cut in both] for target, both in cuts.items()}
    return {target: LowRank(*map(placed, parts_of(low), places[target])) for target, low in slot.items()}


def part_of(roles: Roles, learners: tuple[str, ...]) -> Trainable:
    """What of the roles is trained, in float32, as `Roles.pick` gives it of arrays."""
    picked = Trainable(
        slots={role: slot for role, slot in roles.slots.items() if role in learners},
        copies={role: copy for role, copy in roles.copies.items() if role in learners},
        heads={role: head for role, head in roles.heads.items() if role in learners},
        gates={},
    )
    return _in_type(picked, jnp.float32)


def frozen(roles: Roles, trained: Trainable) -> Trainable:
    """What is trained as passes read it, as `Roles.frozen` gives it of arrays."""
    return Trainable(trained.slots, _in_type(trained.copies, type_of(roles.backbone)), trained.heads, trained.gates)


def _in_type(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), tree)


def trained(roles: Roles, learners: tuple[str, ...], optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """What a step changes. Moments lie where the weights lie that they are of."""
    learned = part_of(roles, learners)
    moments, key = jax.eval_shape(optimizer.init, learned), jax.eval_shape(lambda: jax.random.key(0))
    moments = placed(moments, places_of_moments(moments, learned, mesh))
    return TrainState(learned, moments, whole(jax.ShapeDtypeStruct((), jnp.int32), mesh), key)


def weights_of(roles: Roles, role: str) -> Weights:
    """What a pass of one role reads, as `Roles.weights` gives it of arrays."""
    if role in roles.copies:
        return Weights(roles.copies[role], None)

    def alone(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec: Any = x.sharding.spec
        place = NamedSharding(x.sharding.mesh, PartitionSpec(spec[0], None, *spec[1:]))
        return jax.ShapeDtypeStruct((x.shape[0], 1, *x.shape[1:]), x.dtype, sharding=place)

    scale = roles.scales[role]
    scales: Any = jax.ShapeDtypeStruct((1,), jnp.float32, sharding=scale.sharding)
    matrices = jax.tree.map(alone, roles.slots[role])
    gains = {target: low.magnitude for target, low in matrices.items() if low.magnitude is not None}
    return Weights(roles.backbone, Bank(matrices, scales, gains))


class Held(NamedTuple):
    """Bytes a device of everything that stays between programs."""

    backbone: int
    adapters: int
    copies: int
    optimizer: int

    @property
    def total(self) -> int:
        return sum(self)


def held(roles: Roles, state: TrainState, *, validated: bool) -> Held:
    """Of roles that share their arrays one is counted, and none that shares those of the backbone.

    What is trained is there beside the role that it began as; and where it is `validated`, so is the best so far.
    """
    now, best = state.trainable, frozen(roles, state.trainable)
    parts = ([roles.slots, roles.heads, now.slots, now.heads], [roles.backbone, roles.copies, now.copies])
    adapters, weights = (bytes_a_device(part) for part in parts)
    backbone = bytes_a_device(roles.backbone)
    return Held(
        backbone=backbone,
        adapters=adapters + validated * bytes_a_device((best.slots, best.heads)),
        copies=weights - backbone + validated * bytes_a_device(best.copies),
        optimizer=bytes_a_device(state.optimizer),
    )
