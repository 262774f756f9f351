"""What a program's peak is made of: what is held, by its shapes, and temporaries, by the compiler's account of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.places import places_of
from pe_rlhf_mm.planning.buffers import Buffer
from pe_rlhf_mm.planning.held import Held
from pe_rlhf_mm.training.lora_config import LoraConfig

TEMPORARY = ("activations", "gradients", "kv_cache", "logits", "attention", "gathered")
"""What temporaries are called. `activations`: what all layers keep for the backward pass. `gradients`: of the shape of
weights, what the optimizer makes of gradients included. `attention`: scores and masks of one layer. `gathered`: weights
of a layer that are put together on every chip."""


class Sizes(NamedTuple):
    """Numbers that temporaries are known by: layers of decoder and tower, words and shapes of weights on one chip, and
    adapters' ranks."""

    layers: frozenset[int]
    words: int
    weights: frozenset[tuple[int, ...]]
    ranks: frozenset[int]


def sizes_of(config: VLMConfig, settings: LoraConfig, mesh: Mesh) -> Sizes:
    """Those of a model on a mesh."""
    weights = vlm.abstract_state(config)
    shapes = jax.tree.map(lambda x, place: place.shard_shape(x.shape), weights, places_of(config, mesh))
    table = shapes["decoder"]["embedding"].get_value()
    every = frozenset(jax.tree.leaves(shapes, is_leaf=_is_shape))
    blocks = [config.decoder] if config.vision is None else [config.decoder, config.vision.block]
    layers = frozenset(block.layers for block in blocks)
    return Sizes(layers, table[0], every, frozenset(rank for rank, _ in settings.fresh.values()))


def _is_shape(x: object) -> bool:
    return isinstance(x, tuple) and all(isinstance(n, int) for n in x)


def kind_of(buffer: Buffer, sizes: Sizes, *, learns: bool) -> str:
    """One of TEMPORARY, or `rest`. Arrays of all layers are kept for a backward pass, or remembered by attention."""
    shape = buffer.shape
    of_adapter = len(shape) == 4 and shape[0] in sizes.layers and shape[1] == 1 and sizes.ranks & {*shape[2:]}
    if shape in sizes.weights or of_adapter:
        return "gradients"
    if sizes.words in shape:
        return "logits"
    if len(shape) > 3 and shape[0] in sizes.layers:
        return "activations" if learns else "kv_cache"
    if buffer.name.startswith("all-gather"):
        return "gathered"
    return "attention" if len(shape) > 3 and shape[-1] == shape[-2] else "rest"


def parts_of(
    held: Held, given: int, peak: int, buffers: Iterable[Buffer], sizes: Sizes, *, learns: bool
) -> dict[str, int]:
    """Bytes of a peak by what they are; `rest` is what nobody has told, gaps between buffers included."""
    parts = {**held._asdict(), "batch": given, **dict.fromkeys(TEMPORARY, 0)}
    for buffer in buffers:
        kind = kind_of(buffer, sizes, learns=learns)
        parts[kind] = parts.get(kind, 0) + buffer.size
    parts["rest"] = peak - (sum(parts.values()) - parts.get("rest", 0))
    return {name: size for name, size in parts.items() if size}
