"""Families of checkpoints as data: a Hugging Face configuration becomes a VLMConfig, or is refused by name.

What a family has that others lack is a value of the config, never code of its own. What may be asked for, and what is
refused, is in `supported.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import (
    BlockConfig,
    Connector,
    LayerKind,
    Llama3Scaling,
    Native,
    Rope,
    Square,
    Tiled,
    VisionConfig,
    VLMConfig,
)
from pe_rlhf_mm.models.supported import ACTIVATIONS, INTERLEAVED, unsupported


class Ids(NamedTuple):
    """What the tokenizer says: padding, and the tokens that end a reply."""

    pad: int
    stops: tuple[int, ...]


def _rope(config: Any, values: Mapping[str, Any]) -> Rope:
    interleaved = INTERLEAVED.get(config.model_type)
    sections = tuple(values["mrope_section"]) if interleaved is not None else ()
    rope = Rope(float(values["rope_theta"]), sections=sections, interleaved=bool(interleaved))
    kind = values.get("rope_type", "default")
    if kind == "linear":
        return replace(rope, factor=float(values["factor"]))
    if kind == "llama3":
        scaling = Llama3Scaling(
            float(values["factor"]),
            float(values["low_freq_factor"]),
            float(values["high_freq_factor"]),
            int(values["original_max_position_embeddings"]),
        )
        return replace(rope, llama3=scaling)
    return rope


def _kinds(config: Any) -> tuple[tuple[LayerKind, ...], tuple[int, ...]]:
    """The kinds of layers, and which each layer is."""
    types = list(getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers)
    present, ropes = sorted(set(types)), config.rope_parameters
    kinds = tuple(
        LayerKind(_rope(config, ropes.get(t) or ropes), config.sliding_window if t == "sliding_attention" else None)
        for t in present
    )
    return kinds, tuple(present.index(t) for t in types) if len(kinds) > 1 else ()


def _decoder(config: Any, **switches: Any) -> BlockConfig:
    kinds, pattern = _kinds(config)
    heads = config.num_attention_heads
    return BlockConfig(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        mlp_width=config.intermediate_size,
        kinds=kinds,
        pattern=pattern,
        norm_epsilon=config.rms_norm_eps,
        **{"activation": ACTIVATIONS[getattr(config, "hidden_act", "silu")], **switches},
    )


def llama_decoder(config: Any) -> BlockConfig:
    """Llama and SmolLM2: biases only where the configuration asks for them."""
    bias = config.attention_bias
    return _decoder(config, qkv_bias=bias, out_bias=bias, mlp_bias=config.mlp_bias)


def qwen2_decoder(config: Any) -> BlockConfig:
    """Qwen2 and the decoder of Qwen2.5-VL: biases on queries, keys and values."""
    return _decoder(config, qkv_bias=True)


def qwen3_decoder(config: Any) -> BlockConfig:
    """Qwen3 and the decoder of Qwen3-VL: queries and keys are normed."""
    return _decoder(config, qk_norm=True, qkv_bias=config.attention_bias, out_bias=config.attention_bias)


def gemma_decoder(config: Any) -> BlockConfig:
    """Gemma 2 and 3: the latter norms queries and keys, the former bounds the scores."""
    return _decoder(
        config,
        norm="rms_plus_one",
        post_norms=True,
        qk_norm=config.model_type == "gemma3_text",
        qkv_bias=config.attention_bias,
        out_bias=config.attention_bias,
        activation=ACTIVATIONS[config.hidden_activation],
        query_scale=config.query_pre_attn_scalar**-0.5,
        soft_cap=config.attn_logit_softcapping,
    )


DECODERS: dict[str, Callable[[Any], BlockConfig]] = {
    "llama": llama_decoder,
    "qwen2": qwen2_decoder,
    "qwen3": qwen3_decoder,
    "gemma2": gemma_decoder,
    "gemma3_text": gemma_decoder,
    "qwen2_5_vl_text": qwen2_decoder,
    "qwen3_vl_text": qwen3_decoder,
}


def _siglip(
    config: Any, views: Square | Tiled, merge: int, images: Mapping[str, Any], connector: Connector
) -> VisionConfig:
    heads = config.num_attention_heads
    block = BlockConfig(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=heads,
        kv_heads=heads,
        head_width=config.hidden_size // heads,
        mlp_width=config.intermediate_size,
        norm="layer",
        norm_epsilon=config.layer_norm_eps,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation=ACTIVATIONS[config.hidden_act],
    )
    side = config.image_size // config.patch_size
    return VisionConfig(
        block, views, config.patch_size, merge, side, *_colours(images), patch_bias=True, connector=connector
    )


def _colours(images: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread of colours, of the preprocessor's configuration."""
    half = (0.5, 0.5, 0.5)
    return tuple(images.get("image_mean") or half), tuple(images.get("image_std") or half)


def smolvlm_vision(config: Any, images: Mapping[str, Any]) -> VisionConfig:
    """SigLIP, tiles, and a pixel shuffle before one matrix."""
    tile = images.get("max_image_size", {}).get("longest_edge", config.vision_config.image_size)
    views = Tiled(tile, images.get("size", {}).get("longest_edge", 4 * tile))
    return _siglip(config.vision_config, views, config.scale_factor, images, Connector())


def gemma3_vision(config: Any, images: Mapping[str, Any]) -> VisionConfig:
    """SigLIP on squashed pictures, averaged over blocks, normed."""
    tower = config.vision_config
    merge = round((tower.image_size // tower.patch_size) / config.mm_tokens_per_image**0.5)
    connector = Connector(pool=True, norm="rms_plus_one")
    return _siglip(tower, Square(tower.image_size, "bilinear"), merge, images, connector)


def paligemma_vision(config: Any, images: Mapping[str, Any]) -> VisionConfig:
    """SigLIP on squashed pictures, every patch a token."""
    tower = config.vision_config
    return _siglip(tower, Square(tower.image_size, "bicubic"), 1, images, Connector(bias=True))


def _native(tower: Any, images: Mapping[str, Any]) -> Native:
    size = images.get("size") or {}
    low = size.get("shortest_edge") or images.get("min_pixels") or 56 * 56
    high = size.get("longest_edge") or images.get("max_pixels") or 28 * 28 * 1280
    return Native(int(low), int(high))  # these "edges" are areas


def _qwen_block(
    tower: Any, heads: int, kinds: tuple[LayerKind, ...], pattern: tuple[int, ...], **switches: Any
) -> BlockConfig:
    return BlockConfig(
        layers=tower.depth,
        width=tower.hidden_size,
        heads=heads,
        kv_heads=heads,
        head_width=tower.hidden_size // heads,
        mlp_width=tower.intermediate_size,
        kinds=kinds,
        pattern=pattern,
        norm_epsilon=1e-6,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        activation=ACTIVATIONS[tower.hidden_act],
        **switches,
    )


def _axial(tower: Any) -> Rope:
    """Rows turn the first half of the channel pairs, columns the second."""
    quarter = tower.hidden_size // tower.num_heads // 4
    return Rope(float(tower.rope_parameters["rope_theta"]), sections=(quarter, quarter), axial=True)


def qwen2_5_vision(config: Any, images: Mapping[str, Any]) -> VisionConfig:
    """A gated tower whose layers see windows, but for a few."""
    tower, rope = config.vision_config, _axial(config.vision_config)
    window = tower.window_size // tower.spatial_merge_size // tower.patch_size * tower.spatial_merge_size
    pattern = tuple(int(layer not in tower.fullatt_block_indexes) for layer in range(tower.depth))
    block = _qwen_block(tower, tower.num_heads, (LayerKind(rope), LayerKind(rope, window)), pattern, norm="rms")
    connector = Connector(hidden=True, bias=True)
    return VisionConfig(
        block,
        _native(tower, images),
        tower.patch_size,
        tower.spatial_merge_size,
        0,
        *_colours(images),
        frames=tower.temporal_patch_size,
        connector=connector,
    )


def qwen3_vision(config: Any, images: Mapping[str, Any]) -> VisionConfig:
    """Learned positions stretched over the picture, and layers that the decoder's first layers hear of."""
    tower = config.vision_config
    block = _qwen_block(tower, tower.num_heads, (LayerKind(_axial(tower)),), (), norm="layer", gated=False)
    return VisionConfig(
        block,
        _native(tower, images),
        tower.patch_size,
        tower.spatial_merge_size,
        round(tower.num_position_embeddings**0.5),
        *_colours(images),
        frames=tower.temporal_patch_size,
        patch_bias=True,
        connector=Connector(hidden=True, bias=True),
        deepstack=tuple(tower.deepstack_visual_indexes),
    )


TOWERS: dict[str, Callable[[Any, Mapping[str, Any]], VisionConfig]] = {
    "smolvlm": smolvlm_vision,
    "idefics3": smolvlm_vision,
    "gemma3": gemma3_vision,
    "paligemma": paligemma_vision,
    "qwen2_5_vl": qwen2_5_vision,
    "qwen3_vl": qwen3_vision,
}
SEEN_AT_ONCE = {"gemma3": "images", "paligemma": "prompt"}
SUPPORTED = (*DECODERS, *TOWERS)


def config_of(config: Any, images: Mapping[str, Any], ids: Ids, name: str) -> VLMConfig:
    """The model that a Hugging Face configuration describes; `images` is its preprocessor's configuration.

    Raises UserError that lists a family and all fields that are not supported.
    """
    family, text = config.model_type, config.get_text_config()
    wrong = unsupported(config, images)
    if text.model_type not in DECODERS or (text is not config and family not in TOWERS):
        known = f"supported: {', '.join(SUPPORTED)}"
        wrong.insert(0, f"config.json: model_type is {family!r} with a decoder {text.model_type!r}; {known}")
    if wrong:
        raise UserError(f"{name} asks for what is not supported:\n  " + "\n  ".join(wrong))
    vision = TOWERS[family](config, images) if text is not config else None
    return VLMConfig(
        decoder=DECODERS[text.model_type](text),
        vision=vision,
        vocabulary=text.vocab_size,
        context=text.max_position_embeddings,
        pad_id=ids.pad,
        stop_ids=ids.stops,
        image_id=config.image_token_id if vision is not None else -1,
        placeholder_ids=(config.video_token_id,) if hasattr(config, "video_token_id") else (),
        scaled_embedding=text.model_type.startswith("gemma"),
        tied=bool(config.tie_word_embeddings),
        logit_cap=getattr(text, "final_logit_softcapping", None),
        seen_at_once=SEEN_AT_ONCE.get(family, "nothing"),  # type: ignore[arg-type]
        family="smolvlm" if family == "idefics3" else family,
        name=name,
    )
