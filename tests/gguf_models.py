"""GGUF files of tiny models, written as llama.cpp writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

HIDDEN, HEADS, KV_HEADS, HEAD, WIDE = 32, 4, 2, 8, 64
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
NORMAL, CONTROL, USER, BYTE = 1, 3, 4, 6

Tensors = dict[str, Any]  # float32 arrays, or pairs of bytes and their quantisation
Fields = dict[str, Any]


def written(path: Path, fields: Fields, tensors: Tensors) -> Path:
    writer = GGUFWriter(path, fields["general.architecture"])
    for name, value in fields.items():
        if name == "general.architecture":  # the writer's constructor has added it
            continue
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    for name, value in tensors.items():
        raw, kind = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def numbered(*shape: int) -> np.ndarray:
    """Different in every row and column, and exact in bfloat16."""
    return (np.arange(np.prod(shape)) % 251 - 125).reshape(shape).astype(np.float32) / 8


def model_fields(architecture: str, layers: int, words: int) -> Fields:
    own = {
        "block_count": layers,
        "context_length": 128,
        "embedding_length": HIDDEN,
        "feed_forward_length": WIDE,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 100000.0,
    }
    return {"general.architecture": architecture} | {f"{architecture}.{name}": value for name, value in own.items()}


def layer_tensors(layer: int, head: int) -> Tensors:
    shapes = {
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
        "attn_q": (HEADS * head, HIDDEN),
        "attn_k": (KV_HEADS * head, HIDDEN),
        "attn_v": (KV_HEADS * head, HIDDEN),
        "attn_output": (HIDDEN, HEADS * head),
        "ffn_gate": (WIDE, HIDDEN),
        "ffn_up": (WIDE, HIDDEN),
        "ffn_down": (HIDDEN, WIDE),
    }
    return {f"blk.{layer}.{name}.weight": numbered(*shape) + layer for name, shape in shapes.items()}


LETTERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ġ", "h", "e", "1", "2", "he", "Ġhe", "12", "Ã", "©"]
LLAMA: Fields = model_fields("llama", 2, len(LETTERS)) | {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": LETTERS,
    "tokenizer.ggml.token_type": [CONTROL] * 3 + [NORMAL] * 10,
    "tokenizer.ggml.merges": ["h e", "Ġ he", "1 2"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages[0]['content'] }}",
}
LLAMA_TENSORS: Tensors = (
    {"token_embd.weight": numbered(len(LETTERS), HIDDEN), "output_norm.weight": numbered(HIDDEN)}
    | layer_tensors(0, HEAD)
    | layer_tensors(1, HEAD)
)

PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
PIECES += ["  ", "   ", "\n\n", "\u2581", "a", "b", "c", "bc", "ab", "\u2581a", "\n"]
GEMMA_HEAD = 16  # Gemma's heads need not share the width evenly
GEMMA: Fields = model_fields("gemma3", 7, len(PIECES)) | {
    "gemma3.attention.key_length": GEMMA_HEAD,
    "gemma3.attention.sliding_window": 16,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.token_type": [CONTROL] * 4 + [BYTE] * 256 + [USER] * 3 + [NORMAL] * 8,
    "tokenizer.ggml.scores": [-1000.0] * 4 + [0.0] * 256 + [-1000.0] * 3 + [-9.0] * 4 + [-1.0, -2.0, -3.0, -9.0],
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.ggml.unknown_token_id": 3,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_space_prefix": False,
}
GEMMA_TENSORS: Tensors = {"token_embd.weight": numbered(len(PIECES), HIDDEN), "output_norm.weight": numbered(HIDDEN)}
for _layer in range(7):
    GEMMA_TENSORS |= layer_tensors(_layer, GEMMA_HEAD)
    for _name, _size in (
        ("attn_q_norm", GEMMA_HEAD),
        ("attn_k_norm", GEMMA_HEAD),
        ("post_attention_norm", HIDDEN),
        ("post_ffw_norm", HIDDEN),
    ):
        GEMMA_TENSORS[f"blk.{_layer}.{_name}.weight"] = numbered(_size) + _layer
