"""Where the weights of a model and of its roles lie: `sharding.py`'s table, applied to every one of them."""

from __future__ import annotations

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.lora import LowRank, Slot, parts_of
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.quantize import Quantized
from pe_rlhf_mm.models.sharding import GATHERED, if_it_divides, mesh_in_use, own_mesh, partition


def places_of(config: VLMConfig, mesh: Mesh | None) -> nnx.State:
    """For every weight of a model its place: on the mesh, or on the one in use, or else on the first device."""
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    if mesh.empty:
        place = SingleDeviceSharding(jax.local_devices()[0])
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


def place_of_quantized(kernel: Sharding, stack: Quantized) -> Quantized:
    """The same of all layers at once."""
    return jax.tree.map(lambda part: _cut_where_it_divides(kernel, part.shape), stack)


def _cut_where_it_divides(kernel: Sharding, shape: tuple[int, ...]) -> Sharding:
    if not isinstance(kernel, NamedSharding):
        return kernel
    cuts = [if_it_divides(over, length, kernel.mesh) for over, length in zip(kernel.spec, shape, strict=True)]
    return NamedSharding(kernel.mesh, PartitionSpec(*cuts))


def cuts_of_slot(config: VLMConfig, slot: Slot, mesh: Mesh) -> dict[str, list[PartitionSpec]]:
    """How the factors of every adapter are cut, and its lengths: over `model` where the kernel beside them is, and not
    over `fsdp`.

    So a x and (a x) b need nothing gathered, and come out as W x does. Over `fsdp` they are small: what their optimizer
    state would save is less than a gather in every layer and pass costs.
    """
    state = vlm.abstract_state(config)

    def cuts(target: str, low: LowRank) -> list[PartitionSpec]:
        axes = vlm.kernel_at(state, target).get_metadata("axes")
        size_in, size_out = ("adapted" if axis in GATHERED else axis for axis in axes)
        named = ((None, size_in, "rank"), (None, "rank", size_out), (None, size_out))
        return [partition(axes, x.shape, mesh) for axes, x in zip(named, parts_of(low), strict=False)]

    return {target: cuts(target, low) for target, low in slot.items()}


def placed_slot(config: VLMConfig, slot: Slot) -> Slot:
    """Adapters in their places on the mesh in use."""
    if mesh_in_use() is None:
        return slot
    mesh = jax.sharding.get_mesh()
    cuts = cuts_of_slot(config, slot, mesh)

    def place(x: jax.Array, at: PartitionSpec) -> jax.Array:
        return hosts.placed(x, NamedSharding(mesh, at))

    return {target: LowRank(*map(place, parts_of(low), cuts[target])) for target, low in slot.items()}


def everywhere(weights: nnx.State) -> nnx.State:
    """Weights whole on every device of the mesh that they lie on, as a program without collectives needs them.

    Of several hosts each has them as if its own devices were all there are.
    """

    def whole(x: jax.Array) -> jax.Array:
        at = x.sharding
        if not isinstance(at, NamedSharding):
            return x
        spread = jax.device_put(x, NamedSharding(at.mesh, PartitionSpec()))
        if spread.is_fully_addressable:
            return spread
        own = NamedSharding(own_mesh(jax.sharding.get_mesh()), PartitionSpec())
        return jax.make_array_from_single_device_arrays(x.shape, own, [part.data for part in spread.addressable_shards])

    return jax.tree.map(whole, weights)
