"""PEFT itself reads what we write, and we read what PEFT writes: with torch, on the tiny checkpoints of every family.

pytest -n 0 tests/reference/live_peft.py          (extra `reference`; `make test-reference` runs it)
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import lora
from pe_rlhf_mm.adapters.peft import MODULES, VLM_LAYERS
from pe_rlhf_mm.adapters.roles import Weights
from pe_rlhf_mm.checkpoints.export import export_merged
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.rollout.policy import Policy
from pe_rlhf_mm.types import Prompts

FIXTURES = Path(__file__).parent.parent / "fixtures"
FAMILIES = sorted(p.name for p in FIXTURES.iterdir())
TOKENS = np.random.default_rng(0).integers(5, 200, (2, 12))
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
CLOSE = 1e-4
torch.set_num_threads(1)


def random_slot(model: pe.Model) -> lora.Slot:
    shapes = vlm.adapter_shapes(model.config, TARGETS)
    slot = lora.new_slot(jax.random.key(0), shapes, layers=model.config.decoder.layers, rank=3)
    keys = jax.random.split(jax.random.key(1), len(slot))
    return {
        t: lora.LowRank(low.a, 0.3 * jax.random.normal(k, low.b.shape))
        for k, (t, low) in zip(keys, slot.items(), strict=True)
    }


def ours(model: pe.Model, weights: Weights) -> np.ndarray:
    """Logits of a causal reading of bare text: no prompt, so that PaliGemma too reads one way only."""
    rows = vlm.prompt_rows(model.config, Prompts(jnp.asarray(TOKENS), jnp.ones(TOKENS.shape, bool)))
    if model.config.seen_at_once == "prompt":
        rows = rows._replace(enter=jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape))
    bound = vlm.bind(model.config, weights.state)
    return np.asarray(bound.logits(bound.hidden(rows, None, weights.bank)[0]))


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


def test_peft_reads_what_we_write(family: str, tmp_path: Path) -> None:
    model, base = pe.load_model(FIXTURES / family), reference(FIXTURES / family)
    weights = Weights(model.state, lora.only(random_slot(model), 0.5))
    pe.save_adapter(tmp_path, Policy(model.processor, weights))
    before = theirs(base)
    after = theirs(PeftModel.from_pretrained(base, tmp_path))
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(ours(model, weights), after, atol=CLOSE, rtol=0)


def test_we_read_what_peft_writes(family: str, tmp_path: Path) -> None:
    """Each target is named by its path, as towers have modules of the same names; rank-stabilised scaling included."""
    model, base = pe.load_model(FIXTURES / family), reference(FIXTURES / family)
    names = "|".join(module.rpartition(".")[2] for module in MODULES.values())
    place = VLM_LAYERS.get(model.config.family, "model.layers").replace(".", r"\.")
    settings = LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=rf"{place}\.\d+\.\w+\.({names})")
    adapted = get_peft_model(base, settings)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path)
    policy = pe.load_adapter(model, tmp_path)
    np.testing.assert_allclose(ours(model, policy.weights), theirs(adapted.eval()), atol=CLOSE, rtol=0)


def test_a_merged_checkpoint_gives_the_adapted_logits_in_transformers(family: str, tmp_path: Path) -> None:
    """Stored as bfloat16 like its source, so the reference is our own reading of the same rounded weights too."""
    model = pe.load_model(FIXTURES / family)
    slot = random_slot(model)
    export_merged(FIXTURES / family, tmp_path / "merged", model.config, slot, 0.5)
    merged = pe.load_model(tmp_path / "merged")
    after = theirs(reference(tmp_path / "merged"))
    np.testing.assert_allclose(ours(merged, Weights(merged.state, None)), after, atol=CLOSE, rtol=0)
    adapted = ours(model, Weights(model.state, lora.only(slot, 0.5)))
    assert np.abs(adapted - after).mean() < 0.1 * np.abs(adapted - ours(model, Weights(model.state, None))).mean()


def test_names_for_a_text_class_fit_the_text_class(tmp_path: Path) -> None:
    model = pe.load_model(FIXTURES / "gemma3")
    weights = Weights(model.state, lora.only(random_slot(model), 0.5))
    pe.save_adapter(tmp_path, Policy(model.processor, weights), serving="text")
    whole = reference(FIXTURES / "gemma3")
    text = transformers.AutoModelForCausalLM.from_config(whole.config.get_text_config(), attn_implementation="eager")
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    after = theirs(PeftModel.from_pretrained(text.eval(), tmp_path))
    np.testing.assert_allclose(ours(model, weights), after, atol=CLOSE, rtol=0)
