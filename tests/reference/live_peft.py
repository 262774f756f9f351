"""PEFT itself reads what we write, and we read what PEFT writes: with torch, on the tiny checkpoints of every family.

pytest -n 0 tests/reference/live_peft.py          (extra `reference`; `make test-reference` runs it)
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from models import in_float32, logits, slot_of
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.numpy import load_file

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import dora, lora
from pe_rlhf_mm.adapters.peft import MODULES, VLM_LAYERS
from pe_rlhf_mm.adapters.roles import Weights, adapted_by
from pe_rlhf_mm.checkpoints.export import export_merged
from pe_rlhf_mm.rollout.policy import Policy

FIXTURES = Path(__file__).parent.parent / "fixtures"
FAMILIES = sorted(p.name for p in FIXTURES.iterdir())
TOKENS = np.random.default_rng(0).integers(5, 200, (2, 12))
CLOSE = 1e-4
torch.set_num_threads(1)


def trained(model: pe.Model, *, kind: str = "lora") -> Weights:
    """Every kind of matrix adapted; of kind dora, every column a tenth longer."""
    slot = dora.KINDS[kind](model.state, slot_of(model.config, tuple(MODULES)))
    if kind == "dora":
        slot = {target: low._replace(magnitude=1.1 * low.magnitude) for target, low in slot.items()}
    return adapted_by(model.state, slot, 0.5)


def ours(model: pe.Model, weights: Weights) -> np.ndarray:
    return logits(model.config, weights, TOKENS)


def reference(folder: Path) -> torch.nn.Module:
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, name)
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def theirs(model: torch.nn.Module) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=torch.tensor(TOKENS)).logits.numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", dora.KINDS)
def test_peft_reads_what_we_write(family: str, kind: str, tmp_path: Path) -> None:
    model, base = pe.load_model(FIXTURES / family), reference(FIXTURES / family)
    weights = trained(model, kind=kind)
    pe.save_adapter(tmp_path, Policy(model.processor, weights))
    before = theirs(base)
    adapted = PeftModel.from_pretrained(base, tmp_path)
    after = theirs(adapted)
    # No matrix of a tower besides, nor one that PEFT had to make up.
    assert set(get_peft_model_state_dict(adapted)) == set(load_file(tmp_path / "adapter_model.safetensors"))
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(ours(model, weights), after, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("kind", dora.KINDS)
def test_we_read_what_peft_writes(family: str, kind: str, tmp_path: Path) -> None:
    """Each target is named by its path, as towers have modules of the same names; rank-stabilised scaling included."""
    model, base = pe.load_model(FIXTURES / family), reference(FIXTURES / family)
    names = "|".join(module.rpartition(".")[2] for module in MODULES.values())
    place = VLM_LAYERS.get(model.config.family, "model.layers").replace(".", r"\.")
    where = {"target_modules": rf"{place}\.\d+\.\w+\.({names})"}
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=6, use_rslora=True, use_dora=kind == "dora", **where))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        if "lora_magnitude" in name:
            parameter.data *= 1.1
    adapted.save_pretrained(tmp_path)
    policy = pe.load_adapter(model, tmp_path)
    np.testing.assert_allclose(ours(model, policy.weights), theirs(adapted.eval()), atol=CLOSE, rtol=0)


def test_a_merged_checkpoint_gives_the_adapted_logits_in_transformers(family: str, tmp_path: Path) -> None:
    source = in_float32(FIXTURES / family, tmp_path / "source")
    model = pe.load_model(source)
    updates = lora.merged(slot_of(model.config, tuple(MODULES)), 0.5)
    export_merged(source, tmp_path / "merged", model.config, updates)
    after = theirs(reference(tmp_path / "merged"))
    assert np.abs(after - theirs(reference(source))).max() > 0.1
    np.testing.assert_allclose(ours(model, trained(model)), after, atol=CLOSE, rtol=0)


def test_names_for_a_text_class_fit_the_text_class(tmp_path: Path) -> None:
    model = pe.load_model(FIXTURES / "gemma3")
    weights = trained(model)
    pe.save_adapter(tmp_path, Policy(model.processor, weights), serving="text")
    whole = reference(FIXTURES / "gemma3")
    text = transformers.AutoModelForCausalLM.from_config(whole.config.get_text_config(), attn_implementation="eager")
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    after = theirs(PeftModel.from_pretrained(text.eval(), tmp_path))
    np.testing.assert_allclose(ours(model, weights), after, atol=CLOSE, rtol=0)
