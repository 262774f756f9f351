"""Published models by their shapes alone: what a plan needs to know of one, without its weights."""

from __future__ import annotations

from pe_rlhf_mm.models.config import BlockConfig, Connector, LayerKind, Rope, Square, VisionConfig, VLMConfig


def _siglip() -> VisionConfig:
    """The tower of Gemma 3: SigLIP So400m, 256 tokens a picture of 896 pixels."""
    block = BlockConfig(
        layers=27,
        width=1152,
        heads=16,
        kv_heads=16,
        head_width=72,
        mlp_width=4304,
        norm="layer",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation="gelu_tanh",
    )
    connector = Connector(pool=True, norm="rms_plus_one")
    return VisionConfig(block, Square(896, "bilinear"), 14, 4, 64, patch_bias=True, connector=connector)


def _gemma3(
    name: str,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    mlp_width: int,
    *,
    head_width: int = 256,
    query_scale: float = 256**-0.5,
    window: int = 1024,
    sees: bool = True,
) -> VLMConfig:
    """Five layers see a window, and the sixth all; from 4b on it sees pictures (Gemma 3, arXiv 2503.19786, table 1)."""
    far = LayerKind(Rope(1e6, factor=8.0 if sees else 1.0))
    decoder = BlockConfig(
        layers,
        width,
        heads,
        kv_heads,
        head_width,
        mlp_width,
        kinds=(far, LayerKind(Rope(1e4), window)),
        pattern=tuple(int(layer % 6 != 5) for layer in range(layers)),
        norm="rms_plus_one",
        post_norms=True,
        qk_norm=True,
        activation="gelu_tanh",
        query_scale=query_scale,
    )
    return VLMConfig(
        decoder,
        _siglip() if sees else None,
        vocabulary=262_208 if sees else 262_144,
        context=131_072 if sees else 32_768,
        pad_id=0,
        stop_ids=(1, 106),
        image_id=262_144 if sees else -1,
        scaled_embedding=True,
        seen_at_once="images" if sees else "nothing",
        family="gemma3" if sees else "gemma3_text",
        name=name,
    )


SHAPES = {
    config.name: config
    for config in (
        _gemma3("gemma3-270m", 18, 640, 4, 1, 2048, window=512, sees=False),
        _gemma3("gemma3-1b", 26, 1152, 4, 1, 6912, window=512, sees=False),
        _gemma3("gemma3-4b", 34, 2560, 8, 4, 10_240),
        _gemma3("gemma3-12b", 48, 3840, 16, 8, 15_360),
        _gemma3("gemma3-27b", 62, 5376, 32, 16, 21_504, head_width=128, query_scale=168**-0.5),
    )
}
