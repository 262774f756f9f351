"""Adapters on disk: names literally as each family's class has them, read whatever class they were written for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import files, lora, roles
from pe_rlhf_mm.adapters.peft import read_adapter, write_adapter
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.checkpoints.export import export_merged, export_weights
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.rollout.export import export_role
from pe_rlhf_mm.rollout.policy import Policy

FIXTURES = Path(__file__).parent / "fixtures"
VLM = "model.language_model.layers"
PLACES = {
    "llama": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "gemma3_text": "model.layers",
    "gemma3": VLM,
    "paligemma2": VLM,
    "smolvlm": "model.text_model.layers",
    "qwen2_5_vl": VLM,
    "qwen3_vl": VLM,
}
TOKENS = np.arange(5, 17)[None]


def model(name: str) -> Model:
    return pe.load_model(FIXTURES / name)


def slot_of(loaded: Model, targets: tuple[str, ...] = ("q", "down")) -> lora.Slot:
    shapes = vlm.adapter_shapes(loaded.config, targets)
    slot = lora.new_slot(jax.random.key(0), shapes, layers=loaded.config.decoder.layers, rank=2)
    return {t: lora.LowRank(low.a, 0.3 * jax.random.normal(jax.random.key(1), low.b.shape)) for t, low in slot.items()}


def logits(loaded: Model, weights: Weights) -> np.ndarray:
    return np.asarray(Model(loaded.name, loaded.config, roles.merged(weights), loaded.processor).logits(TOKENS))


@pytest.mark.parametrize("name", PLACES)
def test_names_are_those_of_the_class_that_serves(name: str, tmp_path: Path) -> None:
    loaded = model(name)
    write_adapter(tmp_path, slot_of(loaded), 0.5, loaded.config, "org/base")
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
    slot = slot_of(loaded)
    write_adapter(tmp_path, slot, 0.75, loaded.config, "base", serving=serving)
    again, scale = read_adapter(tmp_path, loaded.config)
    assert (roles.fingerprint(again), scale) == (roles.fingerprint(slot), 0.75)


def test_a_text_model_has_no_class_that_sees(tmp_path: Path) -> None:
    loaded = model("llama")
    with pytest.raises(UserError, match=r"llama .* has no class that sees"):
        write_adapter(tmp_path, slot_of(loaded), 1.0, loaded.config, "base", serving="vlm")
    assert not list(tmp_path.iterdir())


def test_rank_stabilised_adapters_have_their_own_scale(tmp_path: Path) -> None:
    """alpha / sqrt(r) in place of alpha / r: 6 / 2 for r = 4."""
    loaded = model("llama")
    shapes = vlm.adapter_shapes(loaded.config, ("q",))
    slot = lora.new_slot(jax.random.key(0), shapes, layers=loaded.config.decoder.layers, rank=4)
    write_adapter(tmp_path, slot, 1.5, loaded.config, "base")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": True}))
    assert read_adapter(tmp_path, loaded.config)[1] == 3.0


def test_an_adapter_that_matches_no_layer_is_refused(tmp_path: Path) -> None:
    loaded = model("llama")
    write_adapter(tmp_path, slot_of(loaded), 1.0, loaded.config, "base")
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
    write_adapter(tmp_path, slot_of(loaded), 1.0, loaded.config, "base")
    path, tower = tmp_path / "adapter_model.safetensors", "model.vision_model.encoder.layers.0.self_attn.q_proj"
    save_file(load_file(path) | {f"base_model.model.{tower}.lora_A.weight": np.zeros((2, 4), np.float32)}, path)
    with pytest.raises(UserError, match=r"not part of the model: vision_tower\.encoder\.layers\.0"):
        pe.load_adapter(loaded, tmp_path)


@pytest.mark.parametrize("role", ["reward", "value"])
def test_a_judge_without_its_head_is_refused(role: str, tmp_path: Path) -> None:
    loaded = model("llama")
    made = roles.only_backbone(loaded.state)._replace(slots={role: slot_of(loaded)}, scales={role: jnp.float32(1)})
    files.save_role(tmp_path, made, role, loaded.config, "base")
    with pytest.raises(UserError, match=r"head\.safetensors does not exist"):
        files.load_role(tmp_path, roles.only_backbone(loaded.state), role, loaded.config)


@pytest.mark.parametrize("name", ["llama", "llama_sharded", "gemma3", "qwen2_5_vl"])
def test_a_merged_checkpoint_is_its_source_but_for_the_adapted_matrices(name: str, tmp_path: Path) -> None:
    """bfloat16 like its source: W + scale · a b, rounded once."""
    loaded = model(name)
    slot = slot_of(loaded)
    export_merged(FIXTURES / name, tmp_path / "merged", loaded.config, slot, 0.5)
    expected = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
        roles.merged(Weights(loaded.state, lora.only(slot, 0.5))),
    )
    assert roles.fingerprint(pe.load_model(tmp_path / "merged").state) == roles.fingerprint(expected)
    names = {p.name for p in (FIXTURES / name).iterdir()} - {"reference.safetensors"}
    assert {p.name for p in (tmp_path / "merged").iterdir()} == names
    for path in (FIXTURES / name).glob("model*.safetensors"):
        before, after = load_file(path), load_file(tmp_path / "merged" / path.name)
        changed = {n for n in before if (before[n] != after[n]).any()}
        assert changed == {n for n in before if ("q_proj.weight" in n or "down_proj.weight" in n) and "vis" not in n}


def test_a_role_of_mode_full_is_written_as_a_whole_checkpoint(tmp_path: Path) -> None:
    """Through the views of a family with a fused matrix, a flattened convolution and two spellings."""
    loaded = model("qwen3_vl")
    moved = jax.tree.map(lambda x: (x * 1.5).astype(jnp.bfloat16).astype(jnp.float32), loaded.state)
    export_weights(FIXTURES / "qwen3_vl", tmp_path / "whole", loaded.config, moved)
    assert roles.fingerprint(pe.load_model(tmp_path / "whole").state) == roles.fingerprint(moved)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of tiny-vlm, as far as roles go."""
    loaded, folder = pe.load_model("tiny-vlm"), tmp_path / "run"
    made = roles.only_backbone(loaded.state)
    for role in ("policy", "reward"):
        made = made._replace(slots={**made.slots, role: slot_of(loaded)}, scales={**made.scales, role: jnp.float32(1)})
    made = made.with_head("reward", jnp.ones(loaded.config.decoder.width))
    for role in ("policy", "reward"):
        files.save_role(folder / "adapters" / role, made, role, loaded.config, "tiny-vlm")
    (folder / "config.json").write_text(json.dumps({"task": "pe/easy-vqa@1", "model": "tiny-vlm"}))
    return folder


def test_roles_of_a_run_are_exported_by_the_command(run: Path, tmp_path: Path) -> None:
    for arguments in (
        ("--out", "adapter"),
        ("--role", "reward", "--out", "judge"),
        ("--format", "merged", "--out", "whole"),
    ):
        subprocess.run([sys.executable, "-m", "pe_rlhf_mm", "export", run, *arguments], cwd=tmp_path, check=True)
    loaded, policy = pe.load_model("tiny-vlm"), pe.load_policy(run)
    assert sorted(p.name for p in (tmp_path / "judge").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "head.safetensors",
    ]  # fmt: skip
    read = pe.load_adapter(loaded, tmp_path / "adapter")
    np.testing.assert_array_equal(logits(loaded, read.weights), logits(loaded, policy.weights))
    whole = pe.load_model(tmp_path / "whole")
    np.testing.assert_allclose(whole.logits(TOKENS), logits(loaded, policy.weights), atol=1e-5)


@pytest.mark.parametrize(
    ("role", "form", "settings", "said"),
    [
        ("reward", "merged", {}, "which no merged checkpoint holds"),
        ("policy", "merged", {"serving": "text"}, "--as is about the names in a PEFT adapter"),
        ("value", "peft", {}, "has no role 'value'; saved so far: policy, reward"),
        ("policy", "peft", {"serving": "vlm"}, "has no class that sees"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    role: str, form: str, settings: dict[str, str], said: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        export_role(run, tmp_path / "out", role, form, **settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "out"
    shutil.copytree(run / "adapters/reward", kept)
    before = {p.name: p.read_bytes() for p in kept.iterdir()}
    with pytest.raises(UserError, match="exists and is not empty"):
        export_role(run, kept, "policy", "peft")
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == before
    export_role(run, kept, "policy", "peft", overwrite=True)
    assert sorted(p.name for p in kept.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_policy_without_an_adapter_has_none_to_save(tmp_path: Path) -> None:
    loaded = pe.load_model("tiny-vlm")
    with pytest.raises(UserError, match="has no adapter"):
        pe.save_adapter(tmp_path, Policy(loaded.processor, Weights(loaded.state, None), "tiny-vlm"))
