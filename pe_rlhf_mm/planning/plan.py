"""What a stage of a tuning takes of every chip of a slice, as the compiler for that slice says. Nothing is run."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.planning.held import Held, bytes_a_device
from pe_rlhf_mm.planning.programs import STAGES, Load, Program
from pe_rlhf_mm.planning.slices import GIB, LADDER, slice_of
from pe_rlhf_mm.training.config import MeshConfig, TuneConfig

REFUSED = re.compile(r"\((?P<needed>[\d.]+)(?P<unit>[KMGT])\) exceeds available HBM \((?P<there>[\d.]+)G\)")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Cost:
    """Bytes a chip of one program while it runs. `peak`: with everything else that is held meanwhile.

    `refused`: the compiler found no room for the program; `peak` is then what it said that the program alone needs, if
    that is more.
    """

    program: str
    arguments: int
    temporaries: int
    peak: int
    refused: bool = False


@dataclass(frozen=True)
class Plan:
    """What a stage takes on a slice, by program; all sizes are bytes a chip, as the compiler says."""

    model: str
    stage: str
    mode: str
    topology: str
    mesh: dict[str, int]
    held: Held
    costs: Sequence[Cost]
    usable: int

    @property
    def peak(self) -> int:
        return max(cost.peak for cost in self.costs)

    @property
    def fits(self) -> bool:
        return self.peak <= self.usable and not any(cost.refused for cost in self.costs)

    def text(self) -> str:
        """A table of the programs, what is held, and whether it fits."""
        mesh = ", ".join(f"{name} {size}" for name, size in self.mesh.items())
        lines = [
            f"{self.model}, stage {self.stage}, mode {self.mode}, on {self.topology} ({mesh}); GiB a chip",
            f"{'program':<24} {'arguments':>10} {'temporaries':>12} {'peak':>8}",
        ]
        for cost in self.costs:
            sizes = ("no room", "", f"{_gib(cost.peak)}") if cost.refused else map(_gib, _sizes(cost))
            first, second, third = sizes
            lines.append(f"{cost.program:<24} {first:>10} {second:>12} {third:>8}")
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in self.held._asdict().items() if size)
        lines.append(f"held between programs: {parts}")
        return "\n".join([*lines, self._verdict(), "The compiler's figures: nothing has been run."])

    def told(self) -> dict[str, Any]:
        """What JSON is made of."""
        return {
            **dataclasses.asdict(self),
            "held": self.held._asdict(),
            "peak": self.peak,
            "fits": self.fits,
        }

    def _verdict(self) -> str:
        room = f"{_gib(self.peak)} of {_gib(self.usable)} GiB a chip"
        return (
            f"fits: {room}" if self.fits else f"needs {_gib(max(self.peak - self.usable, 0))} GiB more a chip: {room}"
        )


def _sizes(cost: Cost) -> tuple[int, int, int]:
    return cost.arguments, cost.temporaries, cost.peak


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def plan(
    config: VLMConfig,
    settings: TuneConfig,
    load: Load,
    *,
    stage: str,
    topology: str,
    mesh: MeshConfig | None = None,
) -> Plan:
    """Compiles the programs of a stage for a slice of TPUs; without `mesh` all its chips share weights and rows.

    Raises UserError for a slice that is none, a mesh of another size, rows that the mesh does not divide, and without
    libtpu. That there is no room is an answer, and no error.
    """
    chips = slice_of(topology)
    count = len(chips.devices)
    shape = (1, count, 1) if mesh is None else (mesh.data, mesh.fsdp, mesh.model)
    if math.prod(shape) != count:
        raise UserError(f"{topology} has {count} chips, and a mesh of {shape} has {math.prod(shape)}.")
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    laid = Mesh(chips.devices.reshape(shape), MESH_AXES, axis_types=kinds)
    found = STAGES[stage](config, settings, load, laid)
    with jax.set_mesh(laid):
        costs = [_cost(program, found.held.total, chips.options) for program in found.programs]
    sizes = dict(zip(MESH_AXES, shape, strict=True))
    return Plan(config.name, stage, settings.mode, topology, sizes, found.held, costs, chips.usable)


def smallest(config: VLMConfig, settings: TuneConfig, load: Load, *, stage: str, generation: str) -> list[Plan]:
    """Plans for larger and larger slices of a generation, up to the first that fits, or to the largest."""
    plans: list[Plan] = []
    for shape in LADDER[generation]:
        plans.append(plan(config, settings, load, stage=stage, topology=f"{generation}:{shape}"))
        if plans[-1].fits:
            break
    return plans


def _cost(program: Program, held: int, options: Mapping[str, Any]) -> Cost:
    """Of what is held a program is given a part; the rest lies beside it."""
    given = bytes_a_device(program.given)
    try:
        sizes: Any = program.lower().compile(compiler_options=dict(options)).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        refused = REFUSED.search(str(error))
        if refused is None:
            raise
        needed = int(float(refused["needed"]) * UNITS[refused["unit"]])
        return Cost(program.name, 0, 0, max(needed, held + given), refused=True)
    arguments, temporaries = sizes.argument_size_in_bytes, sizes.temp_size_in_bytes
    written = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    beside = max(0, held + given - arguments)
    return Cost(program.name, arguments, temporaries, arguments + beside + temporaries + written)
