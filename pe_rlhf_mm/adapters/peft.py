"""Adapters in the layout of PEFT, which PEFT itself and vLLM read.

Names on disk are those of the class that will *serve* the model: the same decoder is `model.layers` in a text class and
`model.language_model.layers` in a class that sees. A server that finds no adapter under the names it knows serves the
bare backbone without a word, so which class is meant is always said, and never guessed by the reader of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.lora import LowRank, Slot
from pe_rlhf_mm.adapters.origin import Origin
from pe_rlhf_mm.adapters.targets import adapted, matrices
from pe_rlhf_mm.adapters.tensors import read_tensors, write_tensors
from pe_rlhf_mm.checkpoints.names import canonical
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json, write_json
from pe_rlhf_mm.models.config import VLMConfig

Serving = Literal["text", "vlm"]
MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
TEXT_LAYERS = "model.layers"
VLM_LAYERS = {
    "smolvlm": "model.text_model.layers",
    "gemma3": "model.language_model.layers",
    "paligemma": "model.language_model.layers",
    "qwen2_5_vl": "model.language_model.layers",
    "qwen3_vl": "model.language_model.layers",
}
"""Where the decoder's layers are in the classes that see, of transformers 5."""
LENGTHS = "lora_magnitude_vector"
DECODER = "language_model.layers"
"""Where they are in the spelling that all names are brought to."""
OURS = "PE_RLHF_MM"
"""The type of adapters that PEFT would load without some of their matrices: one that it does not know, and refuses."""
UNDERSTOOD: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
    "use_bdlora": None,
    "use_qalora": False,
}
"""Settings that would change what an adapter does, and the only value of each that is supported."""
HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the backbone as it is; with others, PEFT subtracts from its weights."""


def layers_of(config: VLMConfig, serving: Serving | None) -> str:
    """Where the decoder's layers are in the class that serves; by default in the one that sees, if the model does.

    Raises UserError for a class that sees, of a model that does not.
    """
    if serving == "vlm" and config.family not in VLM_LAYERS:
        raise UserError(f"{config.name} ({config.family}) has no class that sees in transformers; use --as text.")
    return TEXT_LAYERS if serving == "text" else VLM_LAYERS.get(config.family, TEXT_LAYERS)


def write_adapter(
    folder: Path, slot: Slot, scale: float, config: VLMConfig, origin: Origin, *, serving: Serving | None = None
) -> None:
    """Writes `adapter_model.safetensors` and `adapter_config.json`, replacing older ones only when complete."""
    place, tensors = layers_of(config, serving), {}
    for target, low in hosts.fetched(slot).items():
        for layer in range(low.a.shape[0]):
            name = f"base_model.model.{_module(target, place, layer)}"
            # PEFT keeps lora_A as [R, in] and lora_B as [out, R]: both are the transpose of ours.
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(low.a[layer].T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(low.b[layer].T)
            if low.magnitude is not None:
                tensors[f"{name}.{LENGTHS}"] = low.magnitude[layer]
    rank = next(iter(slot.values())).a.shape[-1]
    settings = {
        "peft_type": OURS if beside_text(slot) else "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin.model,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "use_dora": any(low.magnitude is not None for low in slot.values()),
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": _target_modules(place, [target for target in slot if target in MODULES]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapter_model.safetensors", tensors, origin.metadata())
    if hosts.first():
        write_json(folder / "adapter_config.json", settings)


def beside_text(targets: Iterable[str]) -> list[str]:
    """The targets that are not of the decoder: some classes have them fused or as bare weights, and PEFT none of them
    under a name of its own."""
    return [target for target in targets if target not in MODULES]


def refuse_beside_text(targets: Iterable[str], whose: str | Path) -> None:
    """Raises UserError for adapters that PEFT could not load whole."""
    if beside := beside_text(targets):
        raise UserError(
            f"{whose} has adapters beside {', '.join(beside)}, of tower or projector, for which the layout of PEFT has "
            "no names that hold for every class. Use --format merged, which adds them to the weights."
        )


def _module(target: str, place: str, layer: int) -> str:
    return f"{place}.{layer}.{MODULES[target]}" if target in MODULES else f"{target}.{layer}"


def _target_modules(place: str, targets: Sequence[str]) -> list[str] | str:
    """Short names in a text class; an expression in one that sees, where a tower has modules of the same names."""
    short = [MODULES[target].rpartition(".")[2] for target in targets]
    if place == TEXT_LAYERS:
        return short
    return rf"{re.escape(place)}\.\d+\.(self_attn|mlp)\.({'|'.join(short)})"


def read_adapter(folder: Path, config: VLMConfig) -> tuple[Slot, float]:
    """Reads an adapter written here or by PEFT, whatever class it was made for: its factors and its scale.

    Raises UserError for damaged files, settings that are not supported, and an adapter of another model.
    """
    settings = _settings(folder)
    _refuse_pickle(folder)
    tensors = read_tensors(folder / "adapter_model.safetensors")
    stored = {canonical(name.removeprefix("base_model.model.")): tensor for name, tensor in tensors.items()}
    if len(stored) < len(tensors):
        raise UserError(f"the adapter in {folder} has some matrices twice, under the names of different classes.")
    targets = [t for t, module in MODULES.items() if any(f".{module}.lora_" in name for name in stored)]
    targets += [t for t in beside_text(matrices(config)) if any(name.startswith(f"{t}.") for name in stored)]
    if not targets:
        example = f"base_model.model.{layers_of(config, None)}.0.{MODULES['q']}.lora_A.weight"
        raise UserError(f"the adapter in {folder} matches no layer of {config.name}; expected names such as {example}.")
    rank, shapes = settings["r"], adapted(config, targets)
    every = [(target, layer, matrix) for target, matrix in shapes.items() for layer in range(matrix.layers)]
    wanted: dict[str, tuple[int, ...]] = {
        f"{_module(t, DECODER, layer)}.lora_{f}.weight": (rank, i) if f == "A" else (o, rank)
        for t, layer, (_, i, o) in every
        for f in "AB"
    }
    if settings.get("use_dora"):
        wanted |= {f"{_module(t, DECODER, n)}.{LENGTHS}": (o,) for t, n, (*_, o) in every}
    _refuse_misfits(folder, wanted, {name: tensor.shape for name, tensor in stored.items()})
    slot = {}
    for target, matrix in shapes.items():
        names = [_module(target, DECODER, n) for n in range(matrix.layers)]
        a, b = (np.stack([stored[f"{n}.lora_{f}.weight"].T.astype(np.float32) for n in names]) for f in "AB")
        slot[target] = LowRank(jnp.asarray(a), jnp.asarray(b))
        if settings.get("use_dora"):
            lengths = np.stack([stored[f"{n}.{LENGTHS}"].astype(np.float32) for n in names])
            slot[target] = slot[target]._replace(magnitude=jnp.asarray(lengths))
    return slot, settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no adapter: there is no adapter_config.json")
    settings = read_json(path)
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
        raise UserError(f"{path} describes no adapter: expected r, a whole number above 0, and lora_alpha, a number")
    if settings.get("peft_type") == OURS:
        settings["peft_type"] = "LORA"
    asked = {name: settings.get(name, value) for name, value in UNDERSTOOD.items()}
    wrong = {name: value for name, value in asked.items() if (value or None) != (UNDERSTOOD[name] or None)}
    if settings.get("init_lora_weights") not in HARMLESS_STARTS:
        wrong["init_lora_weights"] = settings["init_lora_weights"]
    if wrong:
        named = "; ".join(f"{name} is {value!r}" for name, value in wrong.items())
        raise UserError(f"{path} asks for what is not supported and would change the adapter: {named}.")
    return settings


def _refuse_pickle(folder: Path) -> None:
    if not (folder / "adapter_model.safetensors").exists() and (folder / "adapter_model.bin").exists():
        raise UserError(
            f"{folder} has its adapter as a pickle (adapter_model.bin), which can run code and is never opened. Save "
            "it from PEFT with safe_serialization=True, which writes adapter_model.safetensors."
        )


def _refuse_misfits(folder: Path, wanted: Mapping[str, tuple], found: Mapping[str, tuple]) -> None:
    wrong = [f"missing: {n}" for n in wanted.keys() - found.keys()]
    wrong += [f"not part of the model: {n}" for n in found.keys() - wanted.keys()]
    wrong += [f"{n}: shape {found[n]}, expected {s}" for n, s in wanted.items() if n in found and found[n] != s]
    if wrong:
        raise UserError(f"the adapter in {folder} does not fit the model:\n  " + "\n  ".join(sorted(wrong)))
