"""What each family is made of: settings of the tiny model, tokenizer, pictures, and how a prompt holds pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import prompts
import transformers
import vocabularies
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

Settings = dict[str, Any]
Tokens = PreTrainedTokenizerBase

HALVES = [0.5, 0.5, 0.5]
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
QWEN_TOWER = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8}
# A head tied to large embeddings would only ever repeat the last token.
VARIED = {"embed_tokens.weight": 0.3, "model.norm.weight": 20.0}


class Family(NamedTuple):
    """`gains` multiply the random weights whose name ends so. `renamed` are prefixes of names on disk, from what
    save_pretrained writes to what published checkpoints hold. `config_file` replaces settings in config.json by an
    older spelling of the same; None drops one. `answer_type` is the token type of what follows the prompt."""

    tokenizer: Callable[[], Tokens]
    config: Callable[[Tokens], PreTrainedConfig]
    gains: Mapping[str, float] = {}
    renamed: Mapping[str, str] = {}
    config_file: Mapping[str, Any] = {}
    preprocessor: Settings | None = None
    answer_type: int = 0
    inputs: Callable[[Tokens, Any, list[str], prompts.Pictures], prompts.Inputs] | None = None
    placeholder: str = ""


def decoder(tokens: Tokens, **settings: Any) -> Settings:
    """Settings of a text model, or of the text part of a larger one."""
    common = {
        "vocab_size": -(-len(tokens) // 16) * 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
    }
    return common | settings


def rope(theta: float, kind: str = "default", **settings: Any) -> Settings:
    return {"rope_type": kind, "rope_theta": theta, **settings}


def llama(tokens: Tokens) -> PreTrainedConfig:
    settings = decoder(tokens, head_dim=8, rope_parameters=rope(1e4), tie_word_embeddings=False)
    return transformers.LlamaConfig(**settings)


LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # With this one, heads of width 16 have frequencies that are kept, blended and divided.
    "original_max_position_embeddings": 32,
}


def llama3_rope(tokens: Tokens) -> PreTrainedConfig:
    scaled = rope(1e4, "llama3", **LLAMA3_ROPE)
    settings = decoder(tokens, head_dim=16, rope_parameters=scaled, tie_word_embeddings=True)
    return transformers.LlamaConfig(**settings)


def qwen2(tokens: Tokens) -> PreTrainedConfig:
    settings = decoder(tokens, rope_parameters=rope(1e6), tie_word_embeddings=True)
    return transformers.Qwen2Config(**settings)


def qwen3(tokens: Tokens) -> PreTrainedConfig:
    settings = decoder(tokens, head_dim=16, rope_parameters=rope(1e6), tie_word_embeddings=False)
    return transformers.Qwen3Config(**settings)


def gemma2(tokens: Tokens) -> PreTrainedConfig:
    """Soft caps are far below the 50 and 30 of published checkpoints: scores near those would amplify rounding."""
    window = {"sliding_window": 8, "query_pre_attn_scalar": 24}
    caps = {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 4.0}
    return transformers.Gemma2Config(**decoder(tokens, num_hidden_layers=4, head_dim=16, **window), **caps)


def gemma3_text(tokens: Tokens) -> PreTrainedConfig:
    return transformers.Gemma3TextConfig(
        **decoder(tokens, num_hidden_layers=4, head_dim=16, sliding_window=8, query_pre_attn_scalar=24),
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"sliding_attention": rope(1e4), "full_attention": rope(1e6, "linear", factor=8.0)},
    )


def gemma3(tokens: Tokens) -> PreTrainedConfig:
    """A picture has 16 tokens, twice the window."""
    return transformers.Gemma3Config(
        text_config=gemma3_text(tokens),
        vision_config=transformers.SiglipVisionConfig(image_size=64, vision_use_head=False, **TOWER),
        mm_tokens_per_image=16,
        boi_token_index=tokens.boi_token_id,
        eoi_token_index=tokens.eoi_token_id,
        image_token_index=tokens.image_token_id,
    )


def paligemma2(tokens: Tokens) -> PreTrainedConfig:
    text = gemma2(tokens)
    return transformers.PaliGemmaConfig(
        text_config=text,
        vision_config=transformers.SiglipVisionConfig(image_size=32, vision_use_head=False, **TOWER),
        projection_dim=text.hidden_size,
        hidden_size=text.hidden_size,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
    )


def smolvlm(tokens: Tokens) -> PreTrainedConfig:
    text = decoder(tokens, head_dim=8, rope_parameters=rope(1e5), tie_word_embeddings=False)
    return transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **text},
        vision_config={"image_size": 32, **TOWER},
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=False,
    )


def qwen_marks(tokens: Tokens) -> Settings:
    marks = ("image", "<|image_pad|>"), ("video", "<|video_pad|>")
    marks += ("vision_start", "<|vision_start|>"), ("vision_end", "<|vision_end|>")
    return {f"{name}_token_id": tokens.convert_tokens_to_ids(mark) for name, mark in marks}


def qwen2_5_vl(tokens: Tokens) -> PreTrainedConfig:
    """Windows of 4 by 4 patches; heads of width 16 whose 8 frequencies the three axes share unevenly."""
    heads = {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1}
    return transformers.Qwen2_5_VLConfig(
        text_config=decoder(tokens, **heads, rope_parameters=rope(1e3, mrope_section=[2, 3, 3])),
        vision_config={**QWEN_TOWER, "out_hidden_size": 48, "window_size": 32, "fullatt_block_indexes": [1, 3]},
        tie_word_embeddings=False,
        **qwen_marks(tokens),
    )


def qwen3_vl(tokens: Tokens) -> PreTrainedConfig:
    deep = {"out_hidden_size": 32, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 2]}
    axes = rope(1e3, mrope_section=[4, 2, 2], mrope_interleaved=True)
    return transformers.Qwen3VLConfig(
        text_config=decoder(tokens, num_hidden_layers=4, head_dim=16, rope_parameters=axes),
        vision_config={**QWEN_TOWER, **deep},
        tie_word_embeddings=True,
        **qwen_marks(tokens),
    )


def preprocessor(kind: str, mean: list[float] = HALVES, std: list[float] = HALVES, **settings: Any) -> Settings:
    steps = dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), True)
    return {"image_processor_type": kind, **steps, "image_mean": mean, "image_std": std, **settings}


TILES = {
    "size": {"longest_edge": 64},
    "max_image_size": {"longest_edge": 32},
    "do_image_splitting": True,
    "do_pad": True,
}
QWEN_PATCHES = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "resample": 3}

FAMILIES = {
    "llama": Family(vocabularies.llama, llama),
    "llama3_rope": Family(
        vocabularies.llama,
        llama3_rope,
        gains=VARIED,
        config_file={
            "rope_parameters": None,
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "llama3", **LLAMA3_ROPE},
        },
    ),
    "qwen2": Family(vocabularies.qwen_with_system, qwen2, gains=VARIED),
    "qwen3": Family(vocabularies.qwen, qwen3),
    "gemma2": Family(vocabularies.gemma, gemma2, gains=VARIED),
    "gemma3_text": Family(vocabularies.gemma, gemma3_text, gains=VARIED),
    "gemma3": Family(
        vocabularies.gemma,
        gemma3,
        gains=VARIED,
        renamed={"vision_tower.": "vision_tower.vision_model."},
        preprocessor=preprocessor(
            "Gemma3ImageProcessor", resample=2, size={"height": 64, "width": 64}, image_seq_length=16
        ),
        inputs=prompts.gemma3,
        placeholder="<start_of_image>",
    ),
    "paligemma2": Family(
        vocabularies.paligemma,
        paligemma2,
        gains=VARIED,
        preprocessor=preprocessor(
            "SiglipImageProcessor", resample=3, size={"height": 32, "width": 32}, image_seq_length=16
        ),
        answer_type=1,
        inputs=prompts.paligemma,
        placeholder="<image>",
    ),
    "smolvlm": Family(
        vocabularies.smolvlm,
        smolvlm,
        preprocessor=preprocessor("SmolVLMImageProcessor", resample=1, **TILES),
        inputs=prompts.smolvlm,
        placeholder="<image>",
    ),
    "qwen2_5_vl": Family(
        vocabularies.qwen_with_system,
        qwen2_5_vl,
        preprocessor=preprocessor(
            "Qwen2VLImageProcessor", CLIP_MEAN, CLIP_STD, min_pixels=1024, max_pixels=6144, **QWEN_PATCHES
        ),
        inputs=prompts.qwen,
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "qwen3_vl": Family(
        vocabularies.qwen,
        qwen3_vl,
        gains=VARIED,
        preprocessor=preprocessor(
            "Qwen2VLImageProcessorFast", size={"shortest_edge": 1024, "longest_edge": 6144}, **QWEN_PATCHES
        ),
        inputs=prompts.qwen,
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
    ),
}
