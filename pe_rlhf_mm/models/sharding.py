"""Which part of a weight lies on which device: one table from the axes that parameters name to those of a mesh.

A mesh has three axes: `data` (rows of a batch), `fsdp` (weights kept in parts, gathered where they are used) and
`model` (matrices cut across, as in Megatron). Models name logical axes only; this table is where the two meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.quantize import Quantized

MESH_AXES = ("data", "fsdp", "model")
RULES: dict[str, tuple[str, ...]] = {
    "vocabulary": ("fsdp", "model"),  # by the word: cut by width, the whole table would be gathered for the logits
    "embed": ("fsdp",),
    "heads": ("model",),
    "kv_heads": ("model",),
    "mlp": ("model",),
    "merged": ("fsdp",),
    "norm": (),
    "patches": (),
    "pixels": (),
}
"""Logical axis to the mesh axes it is cut over."""


def make_mesh(*, data: int = 1, fsdp: int = 1, model: int = 1) -> Mesh:
    """A mesh of the first data · fsdp · model devices. Raises UserError if there are not as many."""
    wanted, there = data * fsdp * model, jax.devices()
    if min(data, fsdp, model) < 1 or wanted > len(there):
        raise UserError(
            f"a mesh of data={data}, fsdp={fsdp}, model={model} needs {wanted} devices, each axis 1 at least; "
            f"this process sees {len(there)} of kind {there[0].device_kind}."
        )
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh((data, fsdp, model), MESH_AXES, axis_types=kinds, devices=there[:wanted])


def partition(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """How an array with these logical axes is cut. An axis that the mesh does not divide evenly stays whole, and no
    mesh axis cuts an array twice: the first logical axis takes it."""
    taken: set[str] = set()
    cuts: list[str | tuple[str, ...] | None] = []
    for axis, length in zip(axes, shape, strict=True):
        over = tuple(name for name in RULES[axis] if name not in taken) if axis is not None else ()
        cuts.append(_if_it_divides(over, length, mesh))
        taken.update(over if cuts[-1] else ())
    return PartitionSpec(*cuts)


def _if_it_divides(
    over: str | tuple[str, ...] | None, length: int, mesh: Mesh | AbstractMesh
) -> str | tuple[str, ...] | None:
    """The mesh axes to cut an axis of that length over, or None where they leave a remainder."""
    names = (over,) if isinstance(over, str) else over or ()  # JAX writes one axis without its tuple
    return over if names and length % math.prod(mesh.shape[name] for name in names) == 0 else None


def places_of(config: VLMConfig, mesh: Mesh | None) -> nnx.State:
    """For every weight of a model its place: on the mesh, or without one on the first device."""
    if mesh is None:
        place = SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(lambda _: place, vlm.abstract_state(config))

    def placed(_: tuple, variable: nnx.Variable) -> nnx.Variable:
        shape = variable.get_value().shape
        named: tuple[str, ...] = variable.get_metadata("axes")
        layers = (None,) * (len(shape) - len(named))  # stacked weights have a leading axis of layers
        return variable.replace(NamedSharding(mesh, partition((*layers, *named), shape, mesh)))

    return nnx.map_state(placed, vlm.abstract_state(config))


def place_of_layer(stack: Sharding) -> Sharding:
    """The place of one layer out of a stack of layers."""
    return NamedSharding(stack.mesh, PartitionSpec(*stack.spec[1:])) if isinstance(stack, NamedSharding) else stack


def place_of_stack(kernel: Sharding, layer: jax.Array | Quantized) -> Sharding | Quantized:
    """The place of stacked layers, given that of the kernel they are, or were before they were quantised.

    What a quantised kernel packs or shares along its rows stays whole where the mesh does not divide it.
    """
    if not isinstance(layer, Quantized):
        return kernel
    return jax.tree.map(lambda part: _cut_where_it_divides(kernel, (1, *part.shape)), layer)


def _cut_where_it_divides(kernel: Sharding, shape: tuple[int, ...]) -> Sharding:
    if not isinstance(kernel, NamedSharding):
        return kernel
    cuts = [_if_it_divides(over, length, kernel.mesh) for over, length in zip(kernel.spec, shape, strict=True)]
    return NamedSharding(kernel.mesh, PartitionSpec(*cuts))
