"""Which part of an array lies on which device: one table from the axes that arrays name to those of a mesh.

A mesh has three axes: `data` (rows of a batch), `fsdp` (rows too; and weights kept in parts, gathered where they are
used) and `model` (matrices cut across, as in Megatron). Models name logical axes only; this table is where the two
meet. The mesh is the one that `jax.set_mesh` has set. Without one nothing here does anything at all, and the programs
of a single device are what they would be if this file did not exist.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from pe_rlhf_mm import hosts
from pe_rlhf_mm.errors import UserError

Tree = TypeVar("Tree")

MESH_AXES = ("data", "fsdp", "model")
KINDS = (AxisType.Auto,) * len(MESH_AXES)
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
    "rows": ("data", "fsdp"),  # of activations, and of what attention remembers
    "shared rows": ("data",),  # where every device of a group sees the same rows, each with its part of the vocabulary
    "rank": (),
    "adapted": (),  # where a kernel has "embed": adapters are a hundredth of it, too small to be worth a gather a layer
}
"""Logical axis to the mesh axes it is cut over."""
GATHERED = ("embed", "merged")
"""Axes along which a weight is put together again before it is multiplied."""


def make_mesh(*, data: int = 1, fsdp: int = 1, model: int = 1) -> Mesh:
    """A mesh of the first data · fsdp · model devices; of several hosts, of all devices of all of them.

    Of several slices of TPUs, `data` is what goes across them. Raises UserError if there are not as many devices.
    """
    wanted, there = data * fsdp * model, jax.devices()
    if min(data, fsdp, model) < 1 or wanted > len(there):
        raise UserError(
            f"a mesh of data={data}, fsdp={fsdp}, model={model} needs {wanted} devices, each axis 1 at least; "
            f"this process sees {len(there)} of kind {there[0].device_kind}."
        )
    if jax.process_count() > 1:
        _refuse_alone(wanted, there)
    slices = {getattr(device, "slice_index", 0) for device in there[:wanted]}
    if len(slices) == 1:
        return jax.make_mesh((data, fsdp, model), MESH_AXES, axis_types=KINDS, devices=there[:wanted])
    if data % len(slices):
        raise UserError(
            f"the devices are {len(slices)} slices, between which only rows travel fast enough: take a multiple of "
            f"{len(slices)} for mesh.data, not {data}."
        )
    within, across = (data // len(slices), fsdp, model), (len(slices), 1, 1)
    return _mesh_of(mesh_utils.create_hybrid_device_mesh(within, across, devices=there[:wanted]))


def _mesh_of(devices: np.ndarray) -> Mesh:
    return Mesh(devices, MESH_AXES, axis_types=KINDS)


def _refuse_alone(wanted: int, there: Sequence[jax.Device]) -> None:
    """Of several hosts each must have devices in the mesh, or it would have nothing to do, and all must be joined."""
    if not hosts.several():
        raise UserError(
            f"this machine is one of {jax.process_count()} of a slice: give the same command on each of them, with "
            "--hosts.coordinator auto."
        )
    if wanted != len(there):
        raise UserError(
            f"{jax.process_count()} hosts have {len(there)} devices, and the mesh takes {wanted}: it must take all of "
            f"them. For instance --mesh.fsdp {len(there)}."
        )


def using(mesh: Mesh | None) -> AbstractContextManager[object]:
    """Within it, everything is laid over the mesh; without one, as `jax.set_mesh` has left it."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def mesh_in_use() -> AbstractMesh | None:
    """The mesh that `jax.set_mesh` has set, as a compiled program knows it; None on a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def platform() -> str:
    """What programs are compiled for, "cpu", "gpu" or "tpu": the devices of the mesh in use, or the default ones."""
    mesh = mesh_in_use()
    device = None if mesh is None else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def partition(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """How an array with these logical axes is cut. An axis that the mesh does not divide evenly stays whole, and no
    mesh axis cuts an array twice: the first logical axis takes it."""
    taken: set[str] = set()
    cuts: list[str | tuple[str, ...] | None] = []
    for axis, length in zip(axes, shape, strict=True):
        over = tuple(name for name in RULES[axis] if name not in taken) if axis is not None else ()
        cuts.append(if_it_divides(over, length, mesh))
        taken.update(over if cuts[-1] else ())
    return PartitionSpec(*cuts)


def if_it_divides(
    over: str | tuple[str, ...] | None, length: int, mesh: Mesh | AbstractMesh
) -> str | tuple[str, ...] | None:
    """The mesh axes to cut an axis of that length over, or None where they leave a remainder."""
    names = (over,) if isinstance(over, str) else over or ()  # JAX writes one axis without its tuple
    return over if names and length % math.prod(mesh.shape[name] for name in names) == 0 else None


def parts_of(axis: str) -> int:
    """Into how many parts the mesh in use cuts an axis of a length that it divides."""
    mesh = mesh_in_use()
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in RULES[axis])


# --- inside compiled programs -----------------------------------------------------------------------------------


def cut(x: Array, *axes: str | None) -> Array:
    """x, laid out by its logical axes: those that are named first, and whole along all others."""
    mesh = mesh_in_use()
    if mesh is None:
        return x
    named = (*axes, *[None] * (x.ndim - len(axes)))
    return jax.lax.with_sharding_constraint(x, partition(named, x.shape, mesh))


def gathered(weight: Tree, *axes: str) -> Tree:
    """A weight, or the parts of a quantised one, put together as far as its multiplication needs it.

    Its gradient is cut as the weight is kept, and so need not be added up whole on every device. Left to the compiler,
    it would be: the gradient of a constraint is a constraint to the same.
    """
    mesh = mesh_in_use()
    if mesh is None:
        return weight
    whole = [None if axis in GATHERED else axis for axis in axes]

    def put_together(part: Array) -> Array:
        return _gathered(part, partition(whole, part.shape, mesh), partition(axes, part.shape, mesh))

    return jax.tree.map(put_together, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(weight: Array, used: PartitionSpec, kept: PartitionSpec) -> Array:
    return jax.lax.with_sharding_constraint(weight, used)


def _forward(weight: Array, used: PartitionSpec, kept: PartitionSpec) -> tuple[Array, None]:
    return jax.lax.with_sharding_constraint(weight, used), None


def _backward(used: PartitionSpec, kept: PartitionSpec, _: None, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(gradient, kept),)


_gathered.defvjp(_forward, _backward)


def multiplied(x: Array, kernel: Tree, axes: tuple[str, str], multiply: Callable[[Array, Tree], Array]) -> Array:
    """x W, a kernel kept in parts: what is smaller travels.

    Of many tokens the kernel is put together on every device. Of few, as in decoding, the tokens go to the parts of it
    instead, all of a group's to each of its devices, and what comes out goes back to the devices of their rows.
    """
    mesh, size_in, size_out = mesh_in_use(), x.shape[-1], jax.tree.leaves(kernel)[0].shape[-1]
    tokens = math.prod(x.shape[:-1])
    if mesh is None or tokens * (size_in + size_out) >= size_in * size_out:
        return multiply(x, gathered(kernel, *axes))
    between, (into, out) = [None] * (x.ndim - 2), axes
    products = multiply(cut(x, "shared rows", *between, into), kernel)
    if out not in GATHERED:
        return cut(products, "rows", *between, out)
    return cut(cut(products, "shared rows", *between, out), "rows")  # or the compiler would gather the kernel after all


def looked_up(table: Float[Array, "V D"], ids: Int[Array, "B *n"]) -> Float[Array, "B *n D"]:
    """table[ids], of a table that is cut by the word: every device looks up what it has, and the parts are added.

    Only vectors travel, those of as many tokens at once as the table is wide: so no more of their gradients is on a
    device than a matrix would be. Left to the compiler, the gradient would be a whole table on every device.
    """
    mesh = mesh_in_use()
    words = None if mesh is None else partition(("vocabulary", None), table.shape, mesh)
    if mesh is None or words is None or words[0] is None:
        return gathered(table, "vocabulary", "embed")[ids]
    flat = ids.reshape(len(ids), -1)
    over, given, kept = words[0], *(partition((axis, None), flat.shape, mesh) for axis in ("shared rows", "rows"))
    kept = kept if kept[0] is not None else given  # rows that cannot be dealt stay with all of a group

    def own(part: Float[Array, "v D"], ids: Int[Array, "b n"]) -> Float[Array, "c n D"]:
        place = ids - jax.lax.axis_index(over) * len(part)
        mine = (place >= 0) & (place < len(part))
        found = jnp.where(mine[..., None], part[jnp.where(mine, place, 0)], 0)
        if given == kept:
            return jax.lax.psum(found, over)
        return jax.lax.psum(jax.lax.psum_scatter(found, "fsdp", scatter_dimension=0, tiled=True), _others(over))

    def in_turn(part: Float[Array, "v D"], ids: Int[Array, "b n"]) -> Float[Array, "c n D"]:
        (rows, length), width = ids.shape, max(1, part.shape[1] // len(ids))
        if length <= width:
            return own(part, ids)
        chunks = -(-length // width)
        turns = jnp.pad(ids, ((0, 0), (0, chunks * width - length))).reshape(rows, chunks, width).swapaxes(0, 1)
        found = jax.lax.map(lambda chunk: own(part, chunk), turns).swapaxes(0, 1)
        return found.reshape(len(found), chunks * width, -1)[:, :length]

    found = jax.shard_map(in_turn, in_specs=(words, given), out_specs=PartitionSpec(*kept, None))(table, flat)
    return cut(found.reshape(*ids.shape, -1), "rows")


def _others(over: str | tuple[str, ...]) -> tuple[str, ...]:
    """The mesh axes that rows are not dealt over."""
    return tuple(name for name in ((over,) if isinstance(over, str) else over) if name != "fsdp")


def by_rows_and_heads(
    compute: Callable[..., Tree], axes: Sequence[str | None], arrays: tuple[Array, ...], by_row: object
) -> Tree:
    """compute(arrays, by_row), of which every device computes its own rows and heads: a kernel is nothing that the
    compiler could cut.

    `axes`: of the first axes of `arrays`, those of the second decide what is cut; `by_row` is cut by its rows only.
    """
    mesh = mesh_in_use()
    if mesh is None:
        return compute(arrays, by_row)
    at = partition(axes, arrays[1].shape[: len(axes)], mesh)
    specs = (at, PartitionSpec(at[0]))
    return jax.shard_map(compute, in_specs=specs, out_specs=at, check_vma=False)(arrays, by_row)


# --- between programs -------------------------------------------------------------------------------------------


def own_rows(count: int, mesh: Mesh) -> Sequence[int]:
    """Those rows of a batch that lie on devices of this process: all of them, where it is alone."""
    if mesh.empty or not hosts.several():
        return range(count)
    at = NamedSharding(mesh, partition(("rows",), (count,), mesh))
    cuts = [index for index in at.addressable_devices_indices_map((count,)).values() if index is not None]
    return sorted({row for (cut,) in cuts for row in range(count)[cut]})


def own_mesh(mesh: Mesh) -> Mesh:
    """The devices of a mesh that are of this process, with rows dealt to each of them: where it works by itself."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return _mesh_of(np.array(own).reshape(-1, 1, 1))


def by_rows(batch: Tree, mesh: Mesh | None = None) -> Tree:
    """A batch with its rows on the devices that compute them, of a mesh or of the one in use."""
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    if mesh.empty:
        return batch

    def place(x: Array) -> Array:
        axes = ("rows", *[None] * (x.ndim - 1)) if x.ndim else ()
        return hosts.placed(x, NamedSharding(mesh, partition(axes, x.shape, mesh)))

    return jax.tree.map(place, batch)
