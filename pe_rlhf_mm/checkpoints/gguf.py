"""A GGUF file made into a checkpoint folder in the published layout, without torch.

The folder holds `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json` and
`generation_config.json`, under the names and in the layouts of the checkpoint that the file was once made from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from pe_rlhf_mm.checkpoints import gguf_tokenizer
from pe_rlhf_mm.checkpoints.folders import written_whole
from pe_rlhf_mm.checkpoints.gguf_file import Fields, dequantised, read
from pe_rlhf_mm.errors import UserError

Dtype = Literal["bfloat16", "float32"]
KINDS: dict[Dtype, Any] = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_LAYER = LAYER | {"ffn_norm": "post_attention_layernorm"}
GEMMA3_LAYER = LAYER | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OUTSIDE_LAYERS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
HEAD = {"output.weight": "lm_head.weight"}  # absent where it is tied to the embedding
GEMMA3_LAYERS_PER_GLOBAL_ONE = 6


class Family(NamedTuple):
    """What sets one architecture apart."""

    layer: Mapping[str, str]  # names of a layer's tensors, in the file and as published
    published: Callable[[str, np.ndarray, Fields], np.ndarray]  # values of a tensor, from those in the file
    config: Callable[[Fields], dict[str, Any]]


def convert(
    source: Path,
    folder: Path,
    dtype: Dtype = "bfloat16",
    *,
    beside: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Makes `folder` from a GGUF file; `beside` are files to copy into it, such as a licence.

    Raises UserError for a file that is damaged or of a kind that is not known here, and for a folder that cannot be
    written, or holds something else than a checkpoint to be overwritten.
    """
    with written_whole(folder, overwrite=overwrite) as partial:
        fields, tensors = read(source)
        family = _family(fields)
        names = _names(fields, tensors, family)
        for name, values in _settings(fields, family, dtype, tied=not HEAD.keys() <= tensors.keys()).items():
            (partial / name).write_text(json.dumps(values, indent=1) + "\n")
        gguf_tokenizer.build(fields).save(str(partial / "tokenizer.json"))
        weights = {
            published: family.published(published, dequantised(tensors[name]), fields).astype(KINDS[dtype], order="C")
            for name, published in names.items()
        }
        try:
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:
            raise UserError(f"the weights of {folder} cannot be written: {error}. Is the disk full?") from error
        for path in beside:
            shutil.copyfile(path, partial / path.name)


def _family(fields: Fields) -> Family:
    name = fields.architecture
    if name not in FAMILIES:
        raise UserError(f"{fields.source} is of architecture {name!r}; supported: {', '.join(FAMILIES)}.")
    scaled = sorted(field for field in fields if field.startswith(f"{name}.rope.scaling."))
    if scaled:  # larger Gemmas among them, whose attention is scaled by a number that the file does not tell
        raise UserError(f"{fields.source} scales its rotary positions ({', '.join(scaled)}); that is not supported.")
    return FAMILIES[name]


def _names(fields: Fields, tensors: Mapping[str, Any], family: Family) -> dict[str, str]:
    """The published name of every tensor. Raises UserError that lists all that are missing or not known."""
    wanted = dict(OUTSIDE_LAYERS)
    for layer in range(fields.of_model("block_count")):
        wanted |= {f"blk.{layer}.{n}.weight": f"model.layers.{layer}.{p}.weight" for n, p in family.layer.items()}
    known = wanted | HEAD
    wrong = [f"missing: {name}" for name in wanted if name not in tensors]
    wrong += [f"not part of {fields.architecture}: {name}" for name in tensors if name not in known]
    if wrong:
        raise UserError(f"{fields.source} does not hold the tensors of its architecture:\n  " + "\n  ".join(wrong))
    return {name: known[name] for name in tensors}


def _settings(fields: Fields, family: Family, dtype: Dtype, *, tied: bool) -> dict[str, dict[str, Any]]:
    ids = {f"{role}_token_id": id for role, id in gguf_tokenizer.special_ids(fields).items() if role != "unk"}
    shared = {
        "hidden_size": fields.of_model("embedding_length"),
        "intermediate_size": fields.of_model("feed_forward_length"),
        "num_hidden_layers": fields.of_model("block_count"),
        "num_attention_heads": fields.of_model("attention.head_count"),
        "num_key_value_heads": fields.of_model("attention.head_count_kv"),
        "head_dim": _head_dim(fields),
        "max_position_embeddings": fields.of_model("context_length"),
        "rms_norm_eps": _shortest(fields.of_model("attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(fields.of_model("rope.freq_base")),
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "torch_dtype": dtype,
    }
    return {
        "config.json": family.config(fields) | shared | ids,
        "generation_config.json": ids,
        "tokenizer_config.json": gguf_tokenizer.settings(fields),
    }


def _head_dim(fields: Fields) -> int:
    even_share = fields.of_model("embedding_length") // fields.of_model("attention.head_count")
    return int(fields.get(f"{fields.architecture}.attention.key_length", even_share))


def _shortest(value: float) -> float:
    """1e-05 from 9.999999747378752e-06: what was meant before it became a float32."""
    return float(str(np.float32(value)))


def _llama_published(name: str, value: np.ndarray, fields: Fields) -> np.ndarray:
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return value
    heads = fields.of_model("attention.head_count" if "q_proj" in name else "attention.head_count_kv")
    # In the file the two rows that rotate together are neighbours; as published they are half a head apart.
    pairs = value.reshape(heads, -1, 2, value.shape[1])
    return pairs.swapaxes(1, 2).reshape(value.shape)


def _llama_config(fields: Fields) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "mlp_bias": False}


def _gemma3_published(name: str, value: np.ndarray, fields: Fields) -> np.ndarray:
    # Gemma multiplies by 1 + weight; the file holds the sum.
    return value - 1 if name.endswith("norm.weight") else value


def _gemma3_config(fields: Fields) -> dict[str, Any]:
    period = GEMMA3_LAYERS_PER_GLOBAL_ONE
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _head_dim(fields),
        "rope_local_base_freq": 10000.0,
        "sliding_window": fields.of_model("attention.sliding_window"),
        "layer_types": [
            "sliding_attention" if layer % period else "full_attention"
            for layer in range(1, fields.of_model("block_count") + 1)
        ],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }


FAMILIES = {
    "llama": Family(LLAMA_LAYER, _llama_published, _llama_config),
    "gemma3": Family(GEMMA3_LAYER, _gemma3_published, _gemma3_config),
}
