"""Where each weight of ours stands in a Hugging Face checkpoint: tables, and the shapes in between.

A weight of ours is a *view* of the tensor on disk, sliced and transposed but never computed, so that one table serves
reading and writing. Names on disk come in several spellings, of several versions of transformers; `canonical` brings
them to one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pe_rlhf_mm.models.config import VLMConfig

View = Callable[[np.ndarray], np.ndarray]


class Stored(NamedTuple):
    """A weight of ours, or one layer of it: the canonical name of its tensor, and which part of that tensor it is."""

    name: str
    view: View


def _same(tensor: np.ndarray) -> np.ndarray:
    return tensor


def _transposed(tensor: np.ndarray) -> np.ndarray:
    return tensor.T


def _patches(tensor: np.ndarray) -> np.ndarray:
    """A convolution [D, colours, (frames,) p, p] as (frames, p, p, colours, D)."""
    return tensor.transpose(*range(2, tensor.ndim), 1, 0)


def _third(n: int, view: View, tensor: np.ndarray) -> np.ndarray:
    """Queries, keys or values out of one tensor that holds them one after the other."""
    return view(tensor.reshape(3, -1, *tensor.shape[1:])[n])


DECODER = {
    "decoder.embedding": "language_model.embed_tokens",
    "decoder.head": "lm_head",
    "decoder.norm": "language_model.norm",
}
LLAMA = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
GEMMA = LLAMA | {
    "post_attention_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}
SIGLIP = {
    "attention_norm": "layer_norm1",
    "mlp_norm": "layer_norm2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
SIGLIP_REST = {
    "vision.patches": "vision_tower.embeddings.patch_embedding",
    "vision.positions": "vision_tower.embeddings.position_embedding",
    "vision.norm": "vision_tower.post_layernorm",
}
QWEN_TOWER = {
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "q": "attn.qkv",
    "k": "attn.qkv",
    "v": "attn.qkv",
    "o": "attn.proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


class Tower(NamedTuple):
    """The names of one kind of tower: of a layer's modules, and of all else."""

    layers: str
    modules: dict[str, str]
    rest: dict[str, str]


TOWERS = {
    "smolvlm": Tower(
        "vision_tower.encoder.layers",
        SIGLIP,
        SIGLIP_REST | {"vision.connector.project": "connector.modality_projection.proj"},
    ),
    "gemma3": Tower(
        "vision_tower.encoder.layers",
        SIGLIP,
        SIGLIP_REST
        | {
            "vision.connector.norm": "multi_modal_projector.mm_soft_emb_norm",
            "vision.connector.project": "multi_modal_projector.mm_input_projection_weight",
        },
    ),
    "paligemma": Tower(
        "vision_tower.encoder.layers",
        SIGLIP,
        SIGLIP_REST | {"vision.connector.project": "multi_modal_projector.linear"},
    ),
    "qwen2_5_vl": Tower(
        "vision_tower.blocks",
        QWEN_TOWER,
        {
            "vision.patches": "vision_tower.patch_embed.proj",
            "vision.norm": "vision_tower.merger.ln_q",
            "vision.connector.hidden": "vision_tower.merger.mlp.0",
            "vision.connector.project": "vision_tower.merger.mlp.2",
        },
    ),
    "qwen3_vl": Tower(
        "vision_tower.blocks",
        QWEN_TOWER | {"up": "mlp.linear_fc1", "down": "mlp.linear_fc2"},
        {
            "vision.patches": "vision_tower.patch_embed.proj",
            "vision.positions": "vision_tower.pos_embed",
            "vision.norm": "vision_tower.merger.norm",
            "vision.connector.hidden": "vision_tower.merger.linear_fc1",
            "vision.connector.project": "vision_tower.merger.linear_fc2",
        }
        | {
            f"vision.deepstack.{n}.{ours}": f"vision_tower.deepstack_merger_list.{n}.{theirs}"
            for n in range(8)
            for ours, theirs in (("norm", "norm"), ("hidden", "linear_fc1"), ("project", "linear_fc2"))
        },
    ),
}
SPELLINGS = (
    (r"^model\.", ""),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^(language_model\.model|text_model|(?=embed_tokens\.|layers\.|norm\.))\.?", "language_model."),
    (r"^(vision_tower\.vision_model|vision_model|visual)\.", "vision_tower."),
)
IGNORED = re.compile(r"rotary_emb\.inv_freq$|position_ids$|^vision_tower\.head\.")
"""Tensors that some versions store and that say nothing the config does not, or that no language model reads."""


def canonical(name: str) -> str:
    """One spelling for all that transformers has written."""
    for pattern, replacement in SPELLINGS:
        name = re.sub(pattern, replacement, name)
    return name


def stored(config: VLMConfig, ours: str) -> Sequence[Stored]:
    """Where a weight is on disk: one entry, or one for each layer of a stacked weight."""
    module, _, leaf = ours.rpartition(".")
    if is_stacked(ours):
        return _layers(config, module, leaf)
    rest = DECODER if ours.startswith("decoder.") else TOWERS[config.family].rest
    if ours in rest:  # a table, the only weight of its module
        return [Stored(f"{rest[ours]}.weight", _same)]
    if module == "vision.patches" and leaf == "kernel":
        return [Stored(f"{rest[module]}.weight", _patches)]
    if rest[module].endswith("_weight"):  # Gemma 3 keeps a bare matrix, already the way round that ours is
        return [Stored(rest[module], _same)]
    return [_leaf(rest[module], leaf)]


def is_stacked(ours: str) -> bool:
    """Whether a weight of ours is that of all layers of a stack."""
    return ".layers.blocks." in ours


def _layers(config: VLMConfig, module: str, leaf: str) -> list[Stored]:
    if module.startswith("decoder."):
        modules = GEMMA if config.decoder.post_norms else LLAMA
        prefix, layers = "language_model.layers", config.decoder.layers
    else:
        assert config.vision is not None  # the weight is one of a tower
        prefix, modules, _ = TOWERS[config.family]
        layers = config.vision.block.layers
    ours = module.rpartition(".")[2]
    parts = [_leaf(f"{prefix}.{layer}.{modules[ours]}", leaf) for layer in range(layers)]
    if not modules[ours].endswith("qkv"):
        return parts
    return [Stored(name, functools.partial(_third, "qkv".index(ours), view)) for name, view in parts]


def _leaf(module: str, leaf: str) -> Stored:
    if leaf == "bias":
        return Stored(f"{module}.bias", _same)
    return Stored(f"{module}.weight", _transposed if leaf == "kernel" else _same)
