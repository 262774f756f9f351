"""What programs can be compiled for: slices of TPUs, on any machine, and the devices of this one.

libtpu has the compiler of every generation in it (extra `tpu-aot`), and needs no TPU for it. It reads its settings from
the environment when it is loaded, which is why `quiet_compiler` comes before jax.
"""

from __future__ import annotations

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


class Slice(NamedTuple):
    """Devices to compile for, the bytes that programs may take of each, what the compiler is told, and, where that is
    published, how fast a device is."""

    name: str
    devices: np.ndarray
    usable: int
    options: Mapping[str, Any]
    rates: Rates | None = None


def quiet_compiler(topology: str) -> None:
    """Before jax is imported: no TPU is looked for, no cloud is asked, and other processes may do the same."""
    for name, value in QUIET.items() if topology != HERE else ():
        os.environ.setdefault(name, value)


def generation_of(topology: str) -> str:
    """v5e of v5e:2x4. Raises UserError for what is no slice."""
    generation, _, shape = topology.partition(":")
    if generation not in LADDER or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise _unknown(topology)
    return generation


def slice_of(topology: str) -> Slice:
    """The slice of a name, or the devices of this process. Raises UserError for a name that is none, or no libtpu."""
    import jax

    if topology == HERE:
        return Slice(HERE, np.array(jax.devices()), _memory_here(jax.devices()[0]), {})
    generation = generation_of(topology)
    usable = int(GIB_A_CHIP[generation] * GIB)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # libtpu has errors of its own
        if "not installed" in str(error):
            raise UserError(
                "plans for TPUs are made by their compiler, and libtpu is not installed: pip install "
                "'pe-rlhf-mm[tpu-aot]'. No TPU is needed. --topology here plans for the devices of this machine."
            ) from error
        raise _unknown(topology) from error
    return Slice(topology, np.array(found), usable, CHEAP, RATES[generation])


def _unknown(topology: str) -> UserError:
    known = ", ".join(f"{generation}:{shape}" for generation, shapes in LADDER.items() for shape in shapes)
    return UserError(f"no slice of TPUs is called {topology!r}; there are {known}, and here: this machine's devices.")


def _memory_here(device: object) -> int:
    """What a device has; of a CPU it is what the machine has, which all its devices share."""
    told = device.memory_stats() or {}  # type: ignore[attr-defined]
    return int(told.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
