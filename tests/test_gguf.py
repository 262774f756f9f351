"""GGUF files become the checkpoints they were once made from, whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf_models import (
    FILES,
    GEMMA,
    GEMMA_TENSORS,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LETTERS,
    LLAMA,
    LLAMA_TENSORS,
    PIECES,
    WIDE,
    Fields,
    numbered,
    written,
)
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from pe_rlhf_mm.checkpoints import gguf
from pe_rlhf_mm.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return written(tmp_path / "llama.gguf", LLAMA, LLAMA_TENSORS)


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    return written(tmp_path / "gemma.gguf", GEMMA, GEMMA_TENSORS)


def converted(source: Path, **options: Any) -> Path:
    folder = source.parent / "model"
    gguf.convert(source, folder, **options)
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


# --- weights ----------------------------------------------------------------------------------------------------


def test_llama_has_the_published_names_and_values(llama: Path) -> None:
    made = weights(converted(llama))
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for layer in (0, 1):
        names |= {
            f"model.layers.{layer}.{published}.weight": f"blk.{layer}.{name}.weight"
            for published, name in (
                ("input_layernorm", "attn_norm"),
                ("self_attn.q_proj", "attn_q"),
                ("self_attn.k_proj", "attn_k"),
                ("self_attn.v_proj", "attn_v"),
                ("self_attn.o_proj", "attn_output"),
                ("post_attention_layernorm", "ffn_norm"),
                ("mlp.gate_proj", "ffn_gate"),
                ("mlp.up_proj", "ffn_up"),
                ("mlp.down_proj", "ffn_down"),
            )
        }
    assert made.keys() == names.keys()
    for published, name in names.items():
        assert made[published].dtype == ml_dtypes.bfloat16
        if "q_proj" not in published and "k_proj" not in published:
            np.testing.assert_array_equal(made[published].astype(np.float32), LLAMA_TENSORS[name], err_msg=published)


@pytest.mark.parametrize(("name", "heads"), [("q", HEADS), ("k", KV_HEADS)])
def test_rows_that_rotate_together_are_half_a_head_apart(name: str, heads: int, llama: Path) -> None:
    """In the file they are neighbours: rows 0 to 7 of a head were published as rows 0, 4, 1, 5, 2, 6, 3, 7."""
    stored = LLAMA_TENSORS[f"blk.1.attn_{name}.weight"]
    made = weights(converted(llama, dtype="float32"))[f"model.layers.1.self_attn.{name}_proj.weight"]
    for head in range(heads):
        for row, published in enumerate([0, 4, 1, 5, 2, 6, 3, 7]):
            np.testing.assert_array_equal(made[HEAD * head + published], stored[HEAD * head + row])


def test_gemma_norms_lose_the_one_that_was_added(gemma: Path) -> None:
    made = weights(converted(gemma))
    norms = {
        "input_layernorm": "attn_norm",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    assert len(made) == 2 + 7 * 13
    for published, name in norms.items():
        stored = GEMMA_TENSORS[f"blk.3.{name}.weight"]
        np.testing.assert_array_equal(made[f"model.layers.3.{published}.weight"].astype(np.float32), stored - 1)
    np.testing.assert_array_equal(made["model.norm.weight"].astype(np.float32), numbered(HIDDEN) - 1)
    for published, name in (("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("mlp.up_proj", "ffn_up")):
        stored = GEMMA_TENSORS[f"blk.3.{name}.weight"]
        np.testing.assert_array_equal(made[f"model.layers.3.{published}.weight"].astype(np.float32), stored)


def test_quantised_weights_are_what_their_bytes_mean(tmp_path: Path) -> None:
    """Q8_0: a scale, then 32 signed bytes. Q4_1: scale, minimum, 16 bytes: low halves are the first 16 values."""
    bytes_of = np.arange(WIDE * 32, dtype=np.int64).reshape(WIDE, 32) % 255 - 127
    scale = np.broadcast_to(np.array([0.5], np.float16).view(np.uint8), (WIDE, 2))
    q8 = np.concatenate([scale, bytes_of.astype(np.int8).view(np.uint8)], axis=1)
    halves = np.arange(WIDE * 32).reshape(WIDE, 32) * 7 % 16
    head = np.broadcast_to(np.array([0.25, -2.0], np.float16).view(np.uint8), (WIDE, 4))
    q4 = np.concatenate([head, (halves[:, :16] | halves[:, 16:] << 4).astype(np.uint8)], axis=1)
    tensors = LLAMA_TENSORS | {
        "blk.0.ffn_up.weight": (q8, GGMLQuantizationType.Q8_0),
        "blk.0.ffn_gate.weight": (q4, GGMLQuantizationType.Q4_1),
        "blk.0.attn_v.weight": numbered(KV_HEADS * HEAD, HIDDEN).astype(np.float16),
    }
    made = weights(converted(written(tmp_path / "quantised.gguf", LLAMA, tensors), dtype="float32"))
    np.testing.assert_array_equal(made["model.layers.0.mlp.up_proj.weight"], bytes_of * 0.5)
    np.testing.assert_array_equal(made["model.layers.0.mlp.gate_proj.weight"], halves * 0.25 - 2)
    np.testing.assert_array_equal(made["model.layers.0.self_attn.v_proj.weight"], numbered(KV_HEADS * HEAD, HIDDEN))
    assert {value.dtype for value in made.values()} == {np.dtype(np.float32)}


# --- settings ---------------------------------------------------------------------------------------------------


def test_llama_config_is_the_published_one(llama: Path) -> None:
    folder = converted(llama)
    assert {path.name for path in folder.iterdir()} == FILES
    assert read(folder / "config.json") == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "mlp_bias": False,
        "attention_bias": False,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "vocab_size": 13,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert read(folder / "generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert AutoConfig.from_pretrained(folder).rope_parameters["rope_theta"] == 100000.0


def test_a_head_of_its_own_is_not_tied(tmp_path: Path) -> None:
    head = numbered(len(LETTERS), HIDDEN) + 1
    folder = converted(written(tmp_path / "m.gguf", LLAMA, LLAMA_TENSORS | {"output.weight": head}), dtype="float32")
    np.testing.assert_array_equal(weights(folder)["lm_head.weight"], head)
    config = read(folder / "config.json")
    assert (config["tie_word_embeddings"], config["torch_dtype"]) == (False, "float32")


def test_gemma_config_has_windows_in_five_layers_of_six(gemma: Path) -> None:
    folder = converted(gemma)
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "gemma3_text"
    assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    assert (config.head_dim, config.query_pre_attn_scalar, config.sliding_window) == (16, 16, 16)
    assert config.rope_parameters["full_attention"]["rope_theta"] == 100000.0
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 10000.0
    assert (config.tie_word_embeddings, config.hidden_activation) == (True, "gelu_pytorch_tanh")


# --- tokenizers -------------------------------------------------------------------------------------------------


def test_byte_level_tokenizer_merges_words_and_no_digits(llama: Path) -> None:
    folder = converted(llama)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded = tokenizer.encode("he he12é<|im_end|>")
    assert encoded.tokens == ["he", "Ġhe", "1", "2", "Ã", "©", "<|im_end|>"]
    assert tokenizer.decode(encoded.ids) == "he he12é"
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded("he")["input_ids"] == [8]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id, loaded.unk_token_id) == (1, 2, 2, 0)
    assert loaded.model_max_length == 128
    assert loaded.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False) == "he"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("abc", ["a", "bc"]),  # bc is the better piece
        ("a a", ["a", "\u2581a"]),
        ("a  b", ["a", "\u2581\u2581", "b"]),
        ("a   b", ["a", "\u2581\u2581\u2581", "b"]),
        ("b  a", ["b", "\u2581\u2581", "a"]),  # what users define comes before all pieces
        ("a     b", ["a", "\u2581\u2581\u2581", "\u2581\u2581", "b"]),
        ("\n\n\n", ["\n\n", "\n"]),
        ("é", ["<0xC3>", "<0xA9>"]),
        ("a<eos>", ["a", "<eos>"]),
    ],
)
def test_sentence_pieces_are_merged_by_their_scores(text: str, tokens: list[str], gemma: Path) -> None:
    tokenizer = Tokenizer.from_file(str(converted(gemma) / "tokenizer.json"))
    encoded = tokenizer.encode(text)
    assert encoded.tokens == ["<bos>", *tokens]
    assert tokenizer.decode(encoded.ids[1:], skip_special_tokens=False) == text
    assert [token for token in ("<eos>", "\n\n") if tokenizer.token_to_id(token) >= len(PIECES)] == []


def test_a_base_model_has_no_chat_template(gemma: Path) -> None:
    folder = converted(gemma)
    assert "chat_template" not in read(folder / "tokenizer_config.json")
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"] == [2, 264]


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"general.architecture": "bert"},
            r"m\.gguf is of architecture 'bert'; supported: llama, gemma3",
        ),
        ({"tokenizer.ggml.model": "bert"}, r"m\.gguf has a tokenizer of kind 'bert'; supported: gpt2, llama"),
        ({"tokenizer.ggml.pre": "qwen2"}, r"m\.gguf has a tokenizer that cuts text like 'qwen2'; supported: smollm"),
        ({"tokenizer.ggml.add_eos_token": True}, "ends every text with a token"),
        ({"llama.rope.scaling.type": "linear"}, r"scales its rotary positions \(llama\.rope\.scaling\.type\)"),
        ({"llama.block_count": 3}, r"missing: blk\.2\.attn_norm\.weight\n(.|\n)*missing: blk\.2\.ffn_norm\.weight$"),
        ({"llama.block_count": 1}, r"not part of llama: blk\.1\.attn_norm\.weight\n"),
        ({"llama.block_count": None}, r"m\.gguf has no field 'llama\.block_count'"),
    ],
)
def test_a_model_that_is_not_known_is_refused(fields: Fields, said: str, tmp_path: Path) -> None:
    changed = {name: value for name, value in (LLAMA | fields).items() if value is not None}
    refused(written(tmp_path / "m.gguf", changed, LLAMA_TENSORS), said)


def refused(source: Path, said: str) -> None:
    before = sorted(source.parent.iterdir())
    with pytest.raises(UserError, match=said):
        converted(source)
    assert sorted(source.parent.iterdir()) == before


def test_sentence_pieces_after_a_space_are_refused(tmp_path: Path) -> None:
    fields = {name: value for name, value in GEMMA.items() if name != "tokenizer.ggml.add_space_prefix"}
    refused(written(tmp_path / "m.gguf", fields, GEMMA_TENSORS), "puts a space before every text")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("blk.0.attn_q.bias", numbered(HIDDEN), r"not part of llama: blk\.0\.attn_q\.bias$"),
        ("output_norm.weight", np.ones(HIDDEN, np.int8), r"output_norm\.weight is stored as I8, which cannot be read"),
    ],
)
def test_a_tensor_that_is_not_known_is_refused(name: str, value: np.ndarray, said: str, tmp_path: Path) -> None:
    refused(written(tmp_path / "m.gguf", LLAMA, LLAMA_TENSORS | {name: value}), said)


def test_a_file_cut_short_is_refused_wherever_it_is_cut(llama: Path) -> None:
    whole = llama.read_bytes()
    for length in [*range(64), *range(64, len(whole), len(whole) // 50)]:
        llama.write_bytes(whole[:length])
        refused(llama, r"llama\.gguf is damaged or not a GGUF file: .*\. Copy it again\.")


def test_what_is_no_file_of_this_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("These are notes, and no model at all.")
    refused(tmp_path / "notes.gguf", r"notes\.gguf is damaged or not a GGUF file: GGUF magic invalid")
    refused(tmp_path / "nothing.gguf", r"nothing\.gguf cannot be read: No such file or directory")


# --- whole or not at all ----------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_conversion_leaves_what_was_there(
    error: type[BaseException], llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(gguf, "save_file", interrupted)
    before = contents(llama.parent)
    with pytest.raises(error):
        converted(llama)
    assert contents(llama.parent) == before
    monkeypatch.undo()
    converted(llama)
    before = contents(llama.parent)
    monkeypatch.setattr(gguf, "save_file", interrupted)
    with pytest.raises(error):
        converted(llama, dtype="float32", overwrite=True)
    assert contents(llama.parent) == before
    assert not [path for path in llama.parent.iterdir() if path.name.startswith(".")]


def test_a_full_disk_leaves_nothing(llama: Path) -> None:
    """No file may grow beyond 20 kB, as the settings and the tokenizer do not, but the weights do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        refused(llama, r"the weights of .*model cannot be written: .*File too large.*Is the disk full\?")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        refused(llama, r"model cannot be written: File too large\. Give another folder\.")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_killed_conversion_leaves_nothing_of_that_name(llama: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from pe_rlhf_mm.checkpoints import gguf

saved = gguf.save_file
def killed(*arguments, **options):
    saved(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

gguf.save_file = killed
gguf.convert(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = llama.parent / "model"
    done = subprocess.run([sys.executable, "-c", code, llama, folder], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists()
    gguf.convert(llama, folder)
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_folder_is_overwritten_only_if_asked_and_a_checkpoint(llama: Path) -> None:
    folder = converted(llama)
    (folder / "old.txt").write_text("old")
    before = contents(folder)
    with pytest.raises(UserError, match=r"model exists and is not empty.*--overwrite to make it anew"):
        gguf.convert(llama, folder)
    assert contents(folder) == before
    gguf.convert(llama, folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} == FILES
    with pytest.raises(UserError, match="is no checkpoint and no adapter, so it is not overwritten"):
        gguf.convert(llama, llama.parent, overwrite=True)
    with pytest.raises(UserError, match="is a file; a checkpoint needs a folder"):
        gguf.convert(llama, llama, overwrite=True)
    with pytest.raises(UserError, match=r"llama.gguf/model cannot be written: (Not a directory|File exists)"):
        gguf.convert(llama, llama / "model")


def test_an_empty_folder_is_filled_wherever_one_stands(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = llama.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    gguf.convert(llama, Path("."))
    assert {path.name for path in here.iterdir()} == FILES
    monkeypatch.chdir(llama.parent)
    gguf.convert(llama, Path("deep/down"))
    assert {path.name for path in Path("deep/down").iterdir()} == FILES
