"""Tiny random checkpoints as Hugging Face lays them out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from families import Family
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel


def auto_class(family: Family) -> type:
    return AutoModelForImageTextToText if family.inputs else AutoModelForCausalLM


def write(folder: Path, family: Family, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = family.tokenizer()
    model = auto_class(family).from_config(family.config(tokenizer))
    randomize(model, family.gains, torch.Generator().manual_seed(seed))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rename_weights(folder / "model.safetensors", family.renamed)
    rewrite(folder / "config.json", family.config_file)
    if family.preprocessor:
        rewrite(folder / "preprocessor_config.json", family.preprocessor)


def randomize(model: PreTrainedModel, gains: Mapping[str, float], generator: torch.Generator) -> None:
    """No parameter keeps its first value, norms and biases neither: one that is forgotten shows in the logits."""
    for name, weight in sorted(model.named_parameters()):
        # Norms start from ones or, in Gemma, from zeros. Biases may start anywhere near zero: nobody seeded them.
        start = weight.data.mean().round() if weight.ndim == 1 else 0.0
        scale = 0.2 if weight.ndim == 1 else weight[0].numel() ** -0.5
        gain = next((gain for end, gain in gains.items() if name.endswith(end)), 1.0)
        weight.data = start + gain * scale * torch.randn(weight.shape, generator=generator)


def rename_weights(path: Path, prefixes: Mapping[str, str]) -> None:
    def renamed(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old)), name)

    save_file({renamed(name): weight for name, weight in load_file(path).items()}, path, {"format": "pt"})


def rewrite(path: Path, changes: Mapping[str, Any]) -> None:
    content = (json.loads(path.read_text()) if path.exists() else {}) | dict(changes)
    content = {name: value for name, value in content.items() if value is not None or name not in changes}
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_in_shards(whole: Path, sharded: Path) -> None:
    """The same checkpoint once more, as two files and an index."""
    shutil.rmtree(sharded, ignore_errors=True)
    size = (whole / "model.safetensors").stat().st_size * 5 // 8
    AutoModelForCausalLM.from_pretrained(whole, dtype="auto").save_pretrained(sharded, max_shard_size=size)
    for path in (*whole.glob("tokenizer*"), whole / "chat_template.jinja"):
        shutil.copy(path, sharded)
