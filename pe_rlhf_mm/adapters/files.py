"""Roles on disk: adapters in the layout of PEFT, the scalar head in a file of its own, whole copies as a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pe_rlhf_mm.adapters.lora import LowRank, Slot
from pe_rlhf_mm.adapters.roles import Head, Roles
from pe_rlhf_mm.checkpoints import backbone
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json, write_json
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.vlm import adapter_shapes

MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
PREFIX = "base_model.model.model.layers"


def save_role(folder: Path, roles: Roles, role: str, base: str) -> None:
    """Writes one role's adapters or copy, and its head if it has one, replacing older files only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    if role in roles.copies:
        backbone.save_state(folder, roles.copies[role], jnp.float32)
    else:
        _save_slot(folder, roles.slots[role], float(roles.scales[role]), base)
    if role in roles.heads:
        head = roles.heads[role]
        _replace(folder / "head.safetensors", {"weight": np.asarray(head.weight), "bias": np.asarray(head.bias)})


def load_role(folder: Path, roles: Roles, role: str, config: VLMConfig) -> Roles:
    """Adds a role from its folder. Raises UserError if a file is damaged, or does not fit the model."""
    if (folder / "model.safetensors").is_file():
        copy = backbone.load_state(folder, config, jnp.dtype(jnp.float32))
        roles = roles._replace(copies={**roles.copies, role: copy})
    else:
        slot, scale = _load_slot(folder, config)
        roles = roles._replace(slots={**roles.slots, role: slot}, scales={**roles.scales, role: jnp.float32(scale)})
    if (folder / "head.safetensors").is_file():
        stored = _read(folder / "head.safetensors")
        if stored.keys() != {"weight", "bias"} or stored["weight"].shape != (config.decoder.width,):
            raise UserError(f"{folder / 'head.safetensors'} is not a head of a model of width {config.decoder.width}")
        head = Head(jnp.asarray(stored["weight"]), jnp.asarray(stored["bias"]))
        roles = roles._replace(heads={**roles.heads, role: head})
    return roles


def _save_slot(folder: Path, slot: Slot, scale: float, base: str) -> None:
    tensors = {}
    for target, low in slot.items():
        for layer in range(low.a.shape[0]):
            name = f"{PREFIX}.{layer}.{MODULES[target]}"
            # PEFT keeps lora_A as [R, in] and lora_B as [out, R]: both are the transpose of ours.
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(np.asarray(low.a[layer]).T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(np.asarray(low.b[layer]).T)
    rank = next(iter(slot.values())).a.shape[-1]
    _replace(folder / "adapter_model.safetensors", tensors)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": [MODULES[target].rpartition(".")[2] for target in slot],
    }
    write_json(folder / "adapter_config.json", settings)


def _load_slot(folder: Path, config: VLMConfig) -> tuple[Slot, float]:
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no adapter: there is no adapter_config.json")
    settings = read_json(path)
    if not {"r", "lora_alpha", "target_modules"} <= settings.keys():
        raise UserError(f"{path} describes no adapter: expected r, lora_alpha and target_modules")
    rank, layers = settings["r"], config.decoder.layers
    short = {module.rpartition(".")[2]: target for target, module in MODULES.items()}
    unknown = [m for m in settings["target_modules"] if m not in short]
    if unknown:
        raise UserError(f"{path}: target_modules {unknown} are not matrices of this decoder")
    shapes = adapter_shapes(config, tuple(short[m] for m in settings["target_modules"]))
    stored, slot = _read(folder / "adapter_model.safetensors"), {}
    wanted = {
        f"{PREFIX}.{layer}.{MODULES[t]}.lora_{f}.weight": (rank, i) if f == "A" else (o, rank)
        for t, (i, o) in shapes.items()
        for layer in range(layers)
        for f in "AB"
    }
    found = {name: tensor.shape for name, tensor in stored.items()}
    wrong = [f"missing: {n}" for n in wanted.keys() - found.keys()]
    wrong += [f"not part of the model: {n}" for n in found.keys() - wanted.keys()]
    wrong += [f"{n}: shape {found[n]}, expected {s}" for n, s in wanted.items() if n in found and found[n] != s]
    if wrong:
        raise UserError(f"the adapter in {folder} does not fit the model:\n  " + "\n  ".join(sorted(wrong)))
    for target in shapes:
        names = [f"{PREFIX}.{layer}.{MODULES[target]}" for layer in range(layers)]
        a, b = (np.stack([stored[f"{n}.lora_{f}.weight"].T for n in names]) for f in "AB")
        slot[target] = LowRank(jnp.asarray(a), jnp.asarray(b))
    return slot, settings["lora_alpha"] / rank


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        tensors: dict[str, np.ndarray] = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
    return tensors


def _replace(path: Path, tensors: dict[str, np.ndarray]) -> None:
    partial = path.with_suffix(".partial")
    save_file(jax.tree.map(np.asarray, tensors), partial, metadata={"format": "pt"})
    os.replace(partial, path)
