"""Loading takes little more host memory than the checkpoint or the model, and once for all that hold it."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters.roles import count
from pe_rlhf_mm.assets.tiny_vlm import SIZES
from pe_rlhf_mm.models.model import SHIPPED

FIXTURE = Path(__file__).parent / "fixtures/llama"
LAYERS, WIDTH, MLP = 16, 640, 2560
LIMIT = 1.3
MEASURE = r"""
import re, sys
import jax, jax.numpy as jnp
from pathlib import Path
from pe_rlhf_mm.checkpoints import huggingface
from pe_rlhf_mm.data.tokenizer import read_tokenizer, special_ids

folder = Path(sys.argv[1])
description, tokenizer = huggingface.read_description(folder), read_tokenizer(folder)
config = huggingface.config_from(folder, description, special_ids(folder, tokenizer))
jnp.zeros(3).block_until_ready()
held = lambda what: 1024 * int(re.search(what + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])
before = held("VmRSS")
state = jax.block_until_ready(huggingface.load_state(folder, config, jnp.dtype(sys.argv[2])))
model = sum(x.nbytes for x in jax.tree.leaves(state))
print((held("VmHWM") - before) / max(model, (folder / "model.safetensors").stat().st_size))
"""


def large_checkpoint(folder: Path) -> None:
    """A Llama of 107 million float32 weights, 428 MB, as small in its vocabulary as the fixture."""
    shutil.copytree(FIXTURE, folder)
    config = json.loads((folder / "config.json").read_text())
    heads = {"num_attention_heads": 10, "num_key_value_heads": 10, "head_dim": 64}
    config |= {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "intermediate_size": MLP, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config | heads))
    shapes = {"model.embed_tokens": (config["vocab_size"], WIDTH), "model.norm": (WIDTH,)}
    for n in range(LAYERS):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.{norm}_layernorm": (WIDTH,) for norm in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{matrix}_proj": (WIDTH, WIDTH) for matrix in "qkvo"}
        shapes |= {f"{layer}.mlp.{matrix}_proj": (MLP, WIDTH) for matrix in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj"] = (WIDTH, MLP)
    tensors = {f"{name}.weight": np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc, which only Linux has")
def test_loading_holds_little_more_than_the_checkpoint_or_the_model(tmp_path: Path) -> None:
    large_checkpoint(tmp_path / "model")
    for dtype, least in (("float32", 0.9), ("bfloat16", 0.45)):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, tmp_path / "model", dtype], capture_output=True, text=True, check=True
        )
        assert least < float(done.stdout) <= LIMIT, dtype


@pytest.mark.parametrize(("size", "weights"), [("xxs", 205_536), ("xs", 486_624), ("s", 1_099_712)])
def test_every_size_of_tiny_vlm_is_there_and_is_what_its_name_says(size: str, weights: int) -> None:
    model = pe.load_model(f"tiny-vlm-{size}")
    assert model.config == SIZES[size]
    assert count(model.state) == weights
    assert model.name == f"tiny-vlm-{size}"


# --- one backbone for all that hold it ------------------------------------------------------------------------------


def test_weights_in_use_are_not_read_again(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED["tiny-vlm"], tmp_path / "model"))
    first = pe.load_model(folder)
    assert pe.load_model(str(folder)).state is first.state
    assert pe.load_policy(folder).weights.state is first.state
    assert pe.load_model(folder, dtype="bfloat16").state is not first.state
    assert pe.load_model(folder, quantize="int8").state is not first.state


def test_weights_that_nobody_holds_are_let_go(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED["tiny-vlm"], tmp_path / "model"))
    held = weakref.ref(pe.load_model(folder).state)
    gc.collect()
    assert held() is None


def test_files_that_have_changed_are_other_weights(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED["tiny-vlm"], tmp_path / "model"))
    first = pe.load_model(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: -weight for name, weight in weights.items()}, tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").replace(folder / "model.safetensors")
    again = pe.load_model(folder)
    assert all(bool((a == -b).all()) for a, b in zip(*map(jax.tree.leaves, (first.state, again.state)), strict=True))
