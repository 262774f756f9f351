"""Adapters on disk: names literally as each family's class has them, read whatever class they were written for."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import slot_of
from safetensors.numpy import load_file, save_file

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import files, lora, roles
from pe_rlhf_mm.adapters.origin import Origin, fingerprints, origin_of, read_origin
from pe_rlhf_mm.adapters.peft import read_adapter, write_adapter
from pe_rlhf_mm.adapters.targets import adapted
from pe_rlhf_mm.checkpoints.export import export_merged
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.model import Model

FIXTURES = Path(__file__).parent / "fixtures"
VLM = "model.language_model.layers"
PLACES = {
    "llama": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "gemma2": "model.layers",
    "gemma3_text": "model.layers",
    "gemma3": VLM,
    "paligemma2": VLM,
    "smolvlm": "model.text_model.layers",
    "qwen2_5_vl": VLM,
    "qwen3_vl": VLM,
}


def model(name: str) -> Model:
    return pe.load_model(FIXTURES / name)


def origin(loaded: Model) -> Origin:
    return origin_of("policy", loaded.config, loaded.state, model="org/base")


@pytest.mark.parametrize("name", PLACES)
def test_names_are_those_of_the_class_that_serves(name: str, tmp_path: Path) -> None:
    loaded = model(name)
    write_adapter(tmp_path, slot_of(loaded.config), 0.5, loaded.config, origin(loaded))
    layers = range(loaded.config.decoder.layers)
    modules = ("self_attn.q_proj", "mlp.down_proj")
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        f"base_model.model.{PLACES[name]}.{n}.{module}.lora_{f}.weight"
        for n in layers
        for module in modules
        for f in "AB"
    }
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    if PLACES[name] == "model.layers":
        assert targets == ["down_proj", "q_proj"]
    else:
        assert targets == PLACES[name].replace(".", r"\.") + r"\.\d+\.(self_attn|mlp)\.(down_proj|q_proj)"


@pytest.mark.parametrize("serving", ["text", "vlm"])
def test_an_adapter_is_read_whatever_class_it_was_written_for(serving: str, tmp_path: Path) -> None:
    loaded = model("gemma3")
    slot = slot_of(loaded.config)
    write_adapter(tmp_path, slot, 0.75, loaded.config, origin(loaded), serving=serving)
    again, scale = read_adapter(tmp_path, loaded.config)
    assert (roles.fingerprint(again), scale) == (roles.fingerprint(slot), 0.75)


def test_a_text_model_has_no_class_that_sees(tmp_path: Path) -> None:
    loaded = model("llama")
    with pytest.raises(UserError, match=r"llama .* has no class that sees"):
        write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, origin(loaded), serving="vlm")
    assert not list(tmp_path.iterdir())


def test_rank_stabilised_adapters_have_their_own_scale(tmp_path: Path) -> None:
    """alpha / sqrt(r) in place of alpha / r: 6 / 2 for r = 4."""
    loaded = model("llama")
    slot = lora.new_slot(jax.random.key(0), adapted(loaded.config, ("q",)), rank=4)
    write_adapter(tmp_path, slot, 1.5, loaded.config, origin(loaded))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": True}))
    assert read_adapter(tmp_path, loaded.config)[1] == 3.0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_adapters_are_read_from_half_precision(dtype: type, tmp_path: Path) -> None:
    loaded = model("llama")
    slot, path = slot_of(loaded.config), tmp_path / "adapter_model.safetensors"
    write_adapter(tmp_path, slot, 1.0, loaded.config, origin(loaded))
    save_file({n: t.astype(dtype) for n, t in load_file(path).items()}, path)
    rounded = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), slot)
    assert roles.fingerprint(read_adapter(tmp_path, loaded.config)[0]) == roles.fingerprint(rounded)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "LOHA"),
        ("bias", "all"),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
        ("layers_to_transform", [0]),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["mlp.experts"]),
        ("alora_invocation_tokens", [3, 4]),
        ("use_qalora", True),
        ("init_lora_weights", "pissa"),
    ],
)
def test_settings_that_would_change_an_adapter_are_named(setting: str, value: object, tmp_path: Path) -> None:
    loaded = model("llama")
    write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(UserError, match=re.escape(f"would change the adapter: {setting} is {value!r}")):
        pe.load_adapter(loaded, tmp_path)


def test_an_adapter_that_has_the_names_of_two_classes_is_refused(tmp_path: Path) -> None:
    loaded = model("gemma3")
    path = tmp_path / "adapter_model.safetensors"
    write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    save_file(load_file(path) | {n.replace(VLM, "model.layers"): t for n, t in load_file(path).items()}, path)
    with pytest.raises(UserError, match="some matrices twice, under the names of different classes"):
        pe.load_adapter(loaded, tmp_path)


def test_an_adapter_that_matches_no_layer_is_refused(tmp_path: Path) -> None:
    loaded = model("llama")
    write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    save_file(
        {"base_model.model.tower.0.qkv.lora_A.weight": np.zeros((2, 4), np.float32)},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(
        UserError, match=r"matches no layer of llama; expected names such as base_model\.model\.model\.layers\.0"
    ):
        pe.load_adapter(loaded, tmp_path)


def test_an_adapter_of_the_tower_is_named(tmp_path: Path) -> None:
    loaded = model("smolvlm")
    write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    path, tower = tmp_path / "adapter_model.safetensors", "model.vision_model.encoder.layers.0.self_attn.q_proj"
    save_file(load_file(path) | {f"base_model.model.{tower}.lora_A.weight": np.zeros((2, 4), np.float32)}, path)
    with pytest.raises(UserError, match=r"not part of the model: vision_tower\.encoder\.layers\.0"):
        pe.load_adapter(loaded, tmp_path)


@pytest.mark.parametrize("role", ["reward", "value"])
def test_a_judge_without_its_head_is_refused(role: str, tmp_path: Path) -> None:
    loaded = model("llama")
    made = roles.only_backbone(loaded.state)._replace(
        slots={role: slot_of(loaded.config)}, scales={role: jnp.float32(1)}
    )
    files.save_role(tmp_path, made, role, loaded.config, "base")
    with pytest.raises(UserError, match=r"head\.safetensors does not exist, .* reads a number off a head"):
        files.load_role(tmp_path, roles.only_backbone(loaded.state), role, loaded.config)


def test_a_head_that_an_adapter_says_it_has_is_asked_for_whatever_its_role(tmp_path: Path) -> None:
    loaded = model("llama")
    made = roles.only_backbone(loaded.state)._replace(
        slots={"critic": slot_of(loaded.config)}, scales={"critic": jnp.float32(1)}
    )
    made = made.with_head("critic", jnp.ones(loaded.config.decoder.width))
    files.save_role(tmp_path, made, "critic", loaded.config, "base")
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(UserError, match=r"head\.safetensors does not exist"):
        files.load_role(tmp_path, roles.only_backbone(loaded.state), "critic", loaded.config)


# --- over which weights -------------------------------------------------------------------------------------------


def other_weights(folder: Path, source: str, change: Callable[[str, np.ndarray], np.ndarray]) -> Path:
    """The same checkpoint with every tensor exchanged for what a function makes of its name and value."""
    shutil.copytree(FIXTURES / source, folder)
    path = folder / "model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    return folder


def in_type(dtype: type) -> Callable[[str, np.ndarray], np.ndarray]:
    return lambda _, tensor: tensor.astype(dtype)


def turned(part: str) -> Callable[[str, np.ndarray], np.ndarray]:
    return lambda name, tensor: -tensor if part in name else tensor


def test_the_same_checkpoint_is_known_in_whatever_type_it_is_stored_and_loaded(tmp_path: Path) -> None:
    loaded = pe.load_model(FIXTURES / "gemma3")
    write_adapter(tmp_path / "adapter", slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    whole = other_weights(tmp_path / "float32", "gemma3", in_type(np.float32))
    half = other_weights(tmp_path / "float16", "gemma3", in_type(np.float16))
    for folder in (whole, half, FIXTURES / "gemma3"):
        for settings in ({"dtype": "float16"}, {"dtype": "bfloat16"}, {"quantize": "nf4"}, {"quantize": "int8"}):
            again = pe.load_model(folder, **settings)
            files.load_role(tmp_path / "adapter", roles.only_backbone(again.state), "policy", again.config)
            pe.load_adapter(again, tmp_path / "adapter")


def test_tiny_weights_have_the_same_fingerprint_in_half_precision() -> None:
    """What is below the least number of float16 becomes a zero, which keeps its sign."""
    small = jax.tree.map(lambda x: 1e-9 * x, pe.load_model(FIXTURES / "llama").state)
    halved = jax.tree.map(lambda x: x.astype(jnp.float16), small)
    assert (jax.tree.leaves(halved)[0] == 0).all()
    assert fingerprints(halved) == fingerprints(small)


@pytest.mark.parametrize(
    ("part", "quantize", "refused"),
    [
        ("layers.2.mlp.down_proj", None, True),
        ("embed_tokens", None, True),
        ("embed_tokens", "nf4", True),
        ("layers.2.mlp.down_proj", "nf4", False),  # of a quantised model, only what is not quantised is compared
    ],
)
def test_an_adapter_of_other_weights_is_refused(part: str, quantize: Any, refused: bool, tmp_path: Path) -> None:
    loaded = model("llama")
    write_adapter(tmp_path / "adapter", slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    other = pe.load_model(other_weights(tmp_path / "other", "llama", turned(part)), quantize=quantize)
    backbone, had, has = roles.only_backbone(other.state), fingerprints(loaded.state), fingerprints(other.state)
    if not refused:
        pe.load_adapter(other, tmp_path / "adapter")
        return
    (differs,) = (name for name in has if had[name] != has[name])
    said = rf"on org/base, .*family llama, with .* {had[differs]}, and those of other have {has[differs]}"
    with pytest.raises(UserError, match=said):
        pe.load_adapter(other, tmp_path / "adapter")
    with pytest.raises(UserError, match=said):
        files.load_role(tmp_path / "adapter", backbone, "policy", other.config)


def test_an_adapter_trained_on_the_source_of_a_merged_checkpoint_is_refused(tmp_path: Path) -> None:
    """Small updates, to the matrices only, as those of tuning are."""
    loaded = model("llama")
    update = jax.tree.map(lambda x: 0.1 * x, slot_of(loaded.config))
    export_merged(FIXTURES / "llama", tmp_path / "merged", loaded.config, lora.merged(update, 1.0))
    write_adapter(tmp_path / "adapter", slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    with pytest.raises(UserError, match=r"was trained on org/base, .* \(layers\): they are others"):
        pe.load_adapter(pe.load_model(tmp_path / "merged"), tmp_path / "adapter")


def test_an_adapter_of_another_family_is_refused_whatever_its_shapes(tmp_path: Path) -> None:
    loaded = model("llama")
    told = dataclasses.replace(origin(loaded), family="qwen2")
    write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, told)
    with pytest.raises(UserError, match=r"on org/base, of the family qwen2, and llama is of the family llama\. Load"):
        pe.load_adapter(loaded, tmp_path)


def test_an_adapter_that_says_nothing_of_its_origin_is_read(tmp_path: Path) -> None:
    """As those of PEFT, whose base_model_name_or_path is only a name."""
    loaded, path = model("llama"), tmp_path / "adapter_model.safetensors"
    write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    assert read_origin(tmp_path) == origin(loaded)
    save_file(load_file(path), path, {"format": "pt"})
    assert read_origin(tmp_path) is None
    assert pe.load_adapter(loaded, tmp_path).weights.bank is not None


def test_the_same_adapter_is_the_same_file(tmp_path: Path) -> None:
    """safetensors shuffles its metadata; a name that JSON escapes, or that is no ASCII, changes no length."""
    loaded, found = model("llama"), set()
    told = dataclasses.replace(origin(loaded), model='org/bäse "1"\n\x01')
    for _ in range(20):
        write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, told)
        found.add((tmp_path / "adapter_model.safetensors").read_bytes())
    assert len(found) == 1
    assert read_origin(tmp_path) == told
    assert pe.load_adapter(loaded, tmp_path).weights.bank is not None


@pytest.mark.parametrize("told", ["{}", "[1]", "{", '{"role": "policy", "colour": 1}'])
def test_an_origin_of_another_release_is_named(told: str, tmp_path: Path) -> None:
    loaded, path = model("llama"), tmp_path / "adapter_model.safetensors"
    write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    save_file(load_file(path), path, {"format": "pt", "pe_rlhf_mm": told})
    with pytest.raises(UserError, match=r"says in its metadata \(pe_rlhf_mm\) what this release does not know"):
        pe.load_adapter(loaded, tmp_path)


def test_a_pickled_adapter_is_never_opened(tmp_path: Path) -> None:
    loaded = model("llama")
    write_adapter(tmp_path, slot_of(loaded.config), 1.0, loaded.config, origin(loaded))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match=r"as a pickle \(adapter_model.bin\), which can run code and is never opened"):
        pe.load_adapter(loaded, tmp_path)
