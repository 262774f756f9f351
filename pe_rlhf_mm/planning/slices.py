"""What programs can be compiled for: slices of TPUs, on any machine, and the devices of this one.

libtpu has the compiler of every generation in it (extra `tpu-aot`), and needs no TPU for it. It reads its settings from
the environment when it is loaded, which is why `quiet_compiler` comes before jax. Without it a slice is a number of
chips, which programs can be traced for.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pe_rlhf_mm.errors import UserError

GIB = 2**30
HERE = "here"
"""The devices of this process, in place of a slice."""
GIB_A_CHIP = {"v5e": 15.75, "v6e": 32.0, "v5p": 95.0}
"""Memory of a chip. Of v5e the compiler has told what it gives away of the 16; of the others it is all there is."""


class Rates(NamedTuple):
    """What a chip does in a second at best, as published: operations in bfloat16, bytes of its memory read, bytes
    received from others over all its links."""

    operations: float
    memory: float
    links: float


RATES = {
    "v5e": Rates(197e12, 819e9, 200e9),
    "v6e": Rates(918e12, 1640e9, 448e9),
    "v5p": Rates(459e12, 2765e9, 600e9),
}
LADDER = {
    "v5e": ("1x1", "1x2", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
}
"""Slices that are rented, the smallest first."""
CHEAP: Mapping[str, Any] = {"optimization_level": 9}
"""XLA's O0: memory is the same within 1 %, and compiling for a TPU takes a tenth of the time."""
QUIET = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


KINDS = {"v5e": "TPU v5 lite", "v6e": "TPU v6 lite", "v5p": "TPU v5"}
"""What JAX calls a chip."""


class Slice(NamedTuple):
    """Devices to compile for, the bytes that programs may take of each, what the compiler is told, and, where that is
    published, how fast a device is. Without a compiler they are as many times None."""

    name: str
    devices: np.ndarray
    usable: int
    options: Mapping[str, Any]
    rates: Rates | None = None

    @property
    def compiles(self) -> bool:
        """Whether there is a compiler for it."""
        return self.devices.flat[0] is not None

    def mesh(self, shape: tuple[int, int, int]) -> Any:
        """Its devices as (data, fsdp, model), or what can be traced for in place of them."""
        from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh

        from pe_rlhf_mm.models.sharding import MESH_AXES

        kinds = (AxisType.Auto,) * len(MESH_AXES)
        if self.compiles:
            return Mesh(self.devices.reshape(shape), MESH_AXES, axis_types=kinds)
        chip = AbstractDevice(KINDS[self.name.partition(":")[0]], 1, "tpu")
        return AbstractMesh(shape, MESH_AXES, axis_types=kinds, abstract_device=chip)


def quiet_compiler(topology: str) -> None:
    """Before jax is imported: no TPU is looked for, no cloud is asked, and other processes may do the same.

    XLA_FLAGS are dropped: they are for the devices of this machine, and libtpu ends the process at one that it does not
    know. Its own are LIBTPU_INIT_ARGS.
    """
    if topology == HERE:
        return
    os.environ.pop("XLA_FLAGS", None)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def generation_of(topology: str) -> str:
    """v5e of v5e:2x4. Raises UserError for what is no slice."""
    generation, _, shape = topology.partition(":")
    if generation not in LADDER or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise _unknown(topology)
    return generation


def ladder_of(topology: str) -> tuple[str, ...]:
    """The slices of a generation, the smallest first, by its own name or that of one of them. Raises UserError for the
    devices of this machine, of which there are no others, and for what is no slice."""
    if topology == HERE:
        raise UserError(f"there is one machine here, and no slices of it: name one of {', '.join(LADDER)}.")
    generation = topology if topology in LADDER else generation_of(topology)
    return tuple(f"{generation}:{shape}" for shape in LADDER[generation])


def slice_of(topology: str, *, compiler: bool = True) -> Slice:
    """The slice of a name, or the devices of this process; without a `compiler`, or libtpu, its chips as a number.

    Raises UserError for a name that is none.
    """
    import jax

    if topology == HERE:
        return Slice(HERE, np.array(jax.devices()), _memory_here(jax.devices()[0]), {})
    generation = generation_of(topology)
    usable = int(GIB_A_CHIP[generation] * GIB)
    devices = _devices(topology) if compiler else None
    if devices is None:
        shape = topology.partition(":")[2]
        if shape not in LADDER[generation]:
            raise _unknown(topology)
        devices = np.full(math.prod(map(int, shape.split("x"))), None)
    return Slice(topology, devices, usable, CHEAP, RATES[generation])


def _devices(topology: str) -> np.ndarray | None:
    """What libtpu compiles for; None where it is not installed."""
    from jax.experimental import topologies

    try:
        return np.array(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # libtpu has errors of its own
        if "not installed" in str(error):
            return None
        raise _unknown(topology) from error


def _unknown(topology: str) -> UserError:
    known = ", ".join(f"{generation}:{shape}" for generation, shapes in LADDER.items() for shape in shapes)
    return UserError(f"no slice of TPUs is called {topology!r}; there are {known}, and here: this machine's devices.")


def _memory_here(device: object) -> int:
    """What a device has; of a CPU it is what the machine has, which all its devices share."""
    told = device.memory_stats() or {}  # type: ignore[attr-defined]
    return int(told.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
