"""Which matrices adapters may stand beside: their names, the names of groups of them, and where each is in a model.

Nothing here imports jax: the command line reads these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pe_rlhf_mm.errors import OutOfRange
from pe_rlhf_mm.models.config import BlockConfig, VLMConfig

ATTENTION, MLP, PARTS = ("q", "k", "v", "o"), ("gate", "up", "down"), ("hidden", "project")
TOWER, PROJECTOR = "tower", "projector"
DEEP = 8
"""Projectors that a tower may have besides the last, for layers that are read earlier (`deepstack`)."""


def _at(place: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{place}.{name}" for name in names)


GROUPS: dict[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    "mlp": MLP,
    TOWER: _at(TOWER, ATTENTION + MLP),
    "tower.attention": _at(TOWER, ATTENTION),
    "tower.mlp": _at(TOWER, MLP),
    PROJECTOR: _at(PROJECTOR, [f"{n}{part}" for n in ("", *[f"{d}." for d in range(DEEP)]) for part in PARTS]),
}
"""What a name stands for that is not one of a matrix; of these a model may lack some, as `gate`."""
TARGETS = (*ATTENTION, *MLP, *GROUPS, *GROUPS[TOWER], *GROUPS[PROJECTOR])
"""All that may be named."""


class Matrix(NamedTuple):
    """How often a matrix is there, once a layer, and its sizes."""

    layers: int
    size_in: int
    size_out: int


def path_of(name: str) -> tuple[str | int, ...]:
    """Where the module of a matrix is in a model."""
    *place, own = name.split(".")
    match place:
        case ["tower"]:
            return ("vision", "layers", "blocks", own)
        case [_]:
            return ("vision", "connector", own)
        case [_, number]:
            return ("vision", "deepstack", int(number), own)
    return ("decoder", "layers", "blocks", own)


def matrices(config: VLMConfig) -> dict[str, Matrix]:
    """All matrices of a model that may be adapted, by name: of every layer of the decoder, and of the tower, as
    `tower.q`, and of the projector, as `projector.project`."""
    found, vision = _of_block(config.decoder), config.vision
    if vision is None:
        return found
    found |= {f"{TOWER}.{name}": matrix for name, matrix in _of_block(vision.block).items()}
    width, *widths = vision.merged_widths
    found |= _of_projector("", width, config.decoder.width, hidden=vision.connector.hidden)
    for n, width in enumerate(widths):
        found |= _of_projector(f"{n}.", width, config.decoder.width, hidden=True)
    return found


def _of_projector(prefix: str, width: int, width_out: int, *, hidden: bool) -> dict[str, Matrix]:
    sizes = {**({"hidden": (width, width)} if hidden else {}), "project": (width, width_out)}
    return {f"{PROJECTOR}.{prefix}{part}": Matrix(1, *size) for part, size in sizes.items()}


def _of_block(block: BlockConfig) -> dict[str, Matrix]:
    queries, keys = block.heads * block.head_width, block.kv_heads * block.head_width
    sizes = {
        "q": (block.width, queries),
        "k": (block.width, keys),
        "v": (block.width, keys),
        "o": (queries, block.width),
        **({"gate": (block.width, block.mlp_width)} if block.gated else {}),
        "up": (block.width, block.mlp_width),
        "down": (block.mlp_width, block.width),
    }
    return {name: Matrix(block.layers, *size) for name, size in sizes.items()}


def adapted(config: VLMConfig, targets: Sequence[str]) -> dict[str, Matrix]:
    """The matrices that targets name, each once; of a group those that the model has.

    Raises OutOfRange for a target of which the model has none.
    """
    known, found = matrices(config), dict[str, Matrix]()
    for target in targets:
        named = [name for name in GROUPS.get(target, (target,)) if name in known]
        if not named:
            raise OutOfRange(f"no such adapter target: {target}; {config.name} has {', '.join(known)}")
        found |= {name: known[name] for name in named}
    return found
