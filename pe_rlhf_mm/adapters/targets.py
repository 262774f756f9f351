"""Which matrices adapters may stand beside: their names, the names of groups of them, and where each is in a model.

Nothing here imports jax: the command line reads these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pe_rlhf_mm.errors import OutOfRange
from pe_rlhf_mm.models.config import BlockConfig, VLMConfig

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
GROUPS: dict[str, tuple[str, ...]] = {"attention": ATTENTION, "mlp": MLP}
"""What a name stands for that is not one of a matrix; of these a model may lack some, as `gate`."""
TARGETS = (*ATTENTION, *MLP, *GROUPS)
"""All that may be named."""


class Matrix(NamedTuple):
    """Where a matrix is among the weights of a model, how often it is there, once a layer, and its sizes."""

    path: tuple[str | int, ...]
    layers: int
    size_in: int
    size_out: int


def matrices(config: VLMConfig) -> dict[str, Matrix]:
    """All matrices of a model that may be adapted, by name."""
    return _of_block(config.decoder, ("decoder", "layers", "blocks"))


def _of_block(block: BlockConfig, path: tuple[str, ...]) -> dict[str, Matrix]:
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
    return {name: Matrix((*path, name), block.layers, *size) for name, size in sizes.items()}


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
