"""What a stage of a tuning takes of every chip of a slice, as the compiler for that slice says. Nothing is run."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.stages import Lowered, Traced

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig, with_attention
from pe_rlhf_mm.models.model import default_dtype
from pe_rlhf_mm.models.sharding import MESH_AXES
from pe_rlhf_mm.planning.arithmetic import products
from pe_rlhf_mm.planning.buffers import dump_to, fullest
from pe_rlhf_mm.planning.estimate import Cuts, cuts_of, estimated
from pe_rlhf_mm.planning.held import HALF, Held, bytes_a_device
from pe_rlhf_mm.planning.parts import Sizes, parts_of, sizes_of
from pe_rlhf_mm.planning.programs import STAGES, Load, Program, rows_of, step_in_words
from pe_rlhf_mm.planning.slices import GIB, HERE, Rates, Slice, slice_of
from pe_rlhf_mm.planning.traffic import collectives
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.machines import MeshConfig

REFUSED = re.compile(r"\((?P<needed>[\d.]+)(?P<unit>[KMGTPE])\) exceeds available HBM \((?P<there>[\d.]+)G\)")
ESTIMATE = (
    "Sizes are an estimate, no compiler: what is held is counted, temporaries are estimated from the traced programs. "
    "pip install 'pe-rlhf-mm[tpu-aot]' to ask the TPU's own compiler; no TPU is needed."
)
HOPELESS = 1.5
"""Times the room of a chip that an estimate may be before the compiler is not asked any more."""
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}


HEAD = (
    f"{'program':<37} {'arguments':>10} {'temporaries':>12} {'peak':>8} {'received':>9} {'TFLOP':>8} {'seconds >':>9}"
)


@dataclass(frozen=True)
class Cost:
    """What one program takes of a chip. Sizes are bytes; `peak`: with everything else that is held meanwhile.

    `refused`: the compiler found no room for the program; `peak` is then what it said that the program alone needs, if
    that is more. `operations`: of products of matrices, if all chips do as much. `received`: bytes from other chips, by
    the kind of exchange. Loops that may end early run to their end. `seconds`: no run takes less at the chip's best
    rates for its products, for its links, and for reading its arguments once a turn; None where no rates are known.
    `parts`: of the peak, by what they are (`planning/parts.py`). `gathered`: the largest array that is put together on
    every chip; `in_place`: arguments that results are written over.
    """

    program: str
    arguments: int
    temporaries: int
    peak: int
    refused: bool = False
    operations: float = 0.0
    received: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    gathered: int = 0
    in_place: int = 0


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
    step: str = ""
    estimated: bool = False

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
            self.step,
            HEAD,
            *map(_line, self.costs),
        ]
        lines.append("of each peak:")
        lines += [f"  {cost.program}: {_in_order(cost.parts)}" for cost in self.costs]
        lines.append(f"held between programs: {_in_order(self.held._asdict())}")
        return "\n".join([*lines, self._verdict(), *self._small_print()])

    def _small_print(self) -> list[str]:
        said = [ESTIMATE if self.estimated else "Sizes are the compiler's figures: nothing has been run."]
        if any(cost.seconds is not None for cost in self.costs):
            said.append(
                "No run is faster than the seconds: they are a bound at the chips' published rates, and no estimate."
            )
        return said

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


def _line(cost: Cost) -> str:
    if cost.refused:
        return f"{cost.program:<37} {'no room':>10} {'':>12} {_gib(cost.peak):>8}"
    sizes = f"{_gib(cost.arguments):>10} {_gib(cost.temporaries):>12} {_gib(cost.peak):>8}"
    seconds = "-" if cost.seconds is None else f"{cost.seconds:.3f}"
    received = _gib(sum(cost.received.values())) if cost.received else "-"
    work = f"{received:>9} {cost.operations / 1e12:>8.2f} {seconds:>9}"
    return f"{cost.program:<37} {sizes} {work}"


def _in_order(parts: Mapping[str, int]) -> str:
    """The largest first, those that are nothing to speak of left out."""
    told = [(size, name.replace("_", " ")) for name, size in parts.items() if size >= 0.005 * GIB]
    return ", ".join(f"{name} {_gib(size)}" for size, name in sorted(told, reverse=True)) or "less than 0.01"


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
    compiler: bool = True,
) -> Plan:
    """Compiles the programs of a stage for a slice of TPUs.

    Without `mesh` all its chips share weights, and rows as far as they go round; beyond that, chips share matrices.
    Without a `compiler`, or without libtpu, sizes are estimated.

    Raises UserError for a slice that is none, a mesh of another size, rows that the mesh does not divide, as the
    trainer does, and a stage that the method of the settings does not have. That there is no room is an answer, and no
    error.
    """
    if settings.method != "rlhf" and stage in ("reward", "rl"):
        raise UserError(
            f"the method {settings.method} has no stage {stage}: it learns from pairs or ratings, right after SFT, and "
            "that stage cannot be planned yet. Plan --stage sft or sample, or leave --method out."
        )
    chips = slice_of(topology, compiler=compiler)
    count = len(chips.devices)
    rows, parts = rows_of(settings, stage), 1 if stage == "sample" else settings.accumulate
    shape = _laid_out(rows, parts, count) if mesh is None else (mesh.data, mesh.fsdp, mesh.model)
    if math.prod(shape) != count:
        raise UserError(f"{topology} has {count} chips, and a mesh of {shape} has {math.prod(shape)}.")
    dealt = math.prod(shape[:2])
    if rows % (parts * dealt):
        each = f", and worked through in {parts} parts (--accumulate)" * (parts > 1)
        raise UserError(
            f"{rows} prompts cannot be dealt to {dealt} chips, as many to each{each}: take a multiple of "
            f"{parts * dealt}."
        )
    laid = chips.mesh(shape)
    shaped = with_attention(config, settings.attention)
    found = STAGES[stage](shaped, settings, load, laid, default_dtype() if topology == HERE else HALF)
    sizes = sizes_of(config, settings.lora, laid)
    if chips.compiles:
        known: dict[str, Cost] = {}
        with jax.set_mesh(laid):
            costs = [_cost(program, found.held, chips, sizes, known) for program in found.programs]
    else:
        cuts = cuts_of(config, rows, laid)
        with jax.sharding.use_abstract_mesh(laid):
            costs = [_estimated(program, found.held, chips, cuts, sizes) for program in found.programs]
    step = step_in_words(config, settings, stage, load)
    named = dict(zip(MESH_AXES, shape, strict=True))
    return Plan(
        config.name, stage, settings.mode, topology, named, found.held, costs, chips.usable, step, not chips.compiles
    )


def _laid_out(rows: int, parts: int, chips: int) -> tuple[int, int, int]:
    """Chips of (data, fsdp, model) for so many rows, worked through in so many parts."""
    fsdp = math.gcd(max(1, rows // parts), chips)
    return 1, fsdp, chips // fsdp


def smallest(make: Callable[..., Plan], ladder: Sequence[str]) -> list[Plan]:
    """Plans, as `make` makes them of a `topology`, for larger and larger slices, up to the first that fits, or to the
    largest."""
    plans: list[Plan] = []
    for topology in ladder:
        plans.append(make(topology=topology))
        if plans[-1].fits:
            break
    return plans


def hopeful(make: Callable[..., Plan], *, topology: str) -> Plan:
    """A plan by the compiler, or by estimate where that leaves no hope: it needs more than HOPELESS times the room."""
    found = make(topology=topology, compiler=False)
    return found if found.peak > HOPELESS * found.usable else make(topology=topology)


def _cost(program: Program, held: Held, chips: Slice, sizes: Sizes, known: dict[str, Cost]) -> Cost:
    """One that is the same as another but for its name is compiled once."""
    traced = program.trace()
    lowered = traced.lower()
    text = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    if text not in known:
        known[text] = _compiled(program, traced, lowered, held, chips, sizes)
    return dataclasses.replace(known[text], program=program.name)


def _compiled(program: Program, traced: Traced, lowered: Lowered, held: Held, chips: Slice, sizes: Sizes) -> Cost:
    """Of what is held a program is given a part; the rest lies beside it."""
    given = bytes_a_device(program.given)
    held = held._replace(copies=held.copies + bytes_a_device(program.cast))
    known = held.total + given
    with tempfile.TemporaryDirectory() as folder:
        try:
            compiled = lowered.compile(compiler_options={**chips.options, **dump_to(folder)})
        except jax.errors.JaxRuntimeError as error:
            peak = max(_needed(error), known)
            return Cost(program.name, 0, 0, peak, True, parts=parts_of(held, given, peak, (), sizes, learns=False))
        buffers = fullest(folder)
    memory: Any = compiled.memory_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    written = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = max(arguments, known) + temporaries + written
    operations = products(traced.jaxpr.jaxpr, program.turns) / chips.devices.size
    exchanges, received = collectives(compiled.as_text() or "", program.turns), dict[str, float]()
    for exchange in exchanges:
        received[exchange.kind] = received.get(exchange.kind, 0) + exchange.received
    return Cost(
        program.name,
        arguments,
        temporaries,
        peak,
        operations=operations,
        received=received,
        seconds=_least(chips.rates, operations, sum(received.values()), arguments * program.turns),
        parts=parts_of(held, given, peak, buffers, sizes, learns=program.learns),
        gathered=max((e.size for e in exchanges if e.kind == "all-gather"), default=0),
        in_place=memory.alias_size_in_bytes,
    )


def _estimated(program: Program, held: Held, chips: Slice, cuts: Cuts, sizes: Sizes) -> Cost:
    """The same without a compiler: what chips exchange is not known then."""
    given, traced = bytes_a_device(program.given), program.trace()
    held = held._replace(copies=held.copies + bytes_a_device(program.cast))
    buffers = estimated(traced.jaxpr.jaxpr, cuts)
    temporaries = sum(buffer.size for buffer in buffers)
    peak = held.total + given + temporaries
    operations = products(traced.jaxpr.jaxpr, program.turns) / chips.devices.size
    everywhere = sizes._replace(words=cuts.words, weights=frozenset(cuts.weights))
    return Cost(
        program.name,
        held.total + given,
        temporaries,
        peak,
        operations=operations,
        seconds=_least(chips.rates, operations, 0, 0),
        parts=parts_of(held, given, peak, buffers, everywhere, learns=program.learns),
    )


def _needed(error: jax.errors.JaxRuntimeError) -> int:
    """Bytes that a program needs which the compiler has refused for want of room. Raises any other error again."""
    refused = REFUSED.search(str(error))
    if refused is None:
        raise error
    return int(float(refused["needed"]) * UNITS[refused["unit"]])


def _least(rates: Rates | None, operations: float, received: float, read: float) -> float | None:
    """Seconds that the slowest of three takes which could overlap (Williams et al. 2009, roofline)."""
    if rates is None:
        return None
    return max(operations / rates.operations, received / rates.links, read / rates.memory)
