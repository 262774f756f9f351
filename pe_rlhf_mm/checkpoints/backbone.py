"""Backbone weights on disk: `model.safetensors` beside `config.json`, read strictly, written whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.flax import load_file

from pe_rlhf_mm import hosts
from pe_rlhf_mm.adapters.tensors import write_tensors
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.models import quantize, vlm
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.places import places_of

MODEL_TYPE = "pe_rlhf_tiny_vlm"


def names(state: nnx.State) -> dict[str, jax.Array]:
    """Every weight under its dotted path, for instance `decoder.layers.q.kernel` [L, in, out]."""
    return {".".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def dotted(path: tuple) -> str:
    """A weight's name out of its path in the tree, for instance `decoder.layers.blocks.q.kernel`."""
    return ".".join(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey))


def built(kind: Any, value: Any) -> Any:
    """A value of a dataclass field's type, out of what JSON made of it; of several dataclasses the one that fits."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: built(hints.get(name), part) for name, part in value.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple:
        return tuple(built(get_args(kind)[0], part) for part in value)
    if isinstance(value, dict) and get_args(kind):
        fits = [k for k in get_args(kind) if dataclasses.is_dataclass(k) and value.keys() == get_type_hints(k).keys()]
        return built(fits[0], value) if fits else value
    return value


def is_own(folder: Path) -> bool:
    """Whether a checkpoint is in the layout that this module writes. Raises UserError for what is no checkpoint."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no checkpoint folder: it has no config.json.")
    return read_json(folder / "config.json").get("model_type") == MODEL_TYPE


def read_config(folder: Path) -> VLMConfig:
    """Reads `config.json`. Raises UserError for a missing file, broken JSON, or a family that is not supported."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is no checkpoint folder: it has no config.json.")
    values = read_json(path)
    family = values.get("model_type")
    if family != MODEL_TYPE:
        raise UserError(f"{path} says model_type {family!r}; supported: {MODEL_TYPE!r}.")
    try:
        return built(VLMConfig, {k: v for k, v in values.items() if k != "model_type"})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a model: {error}. Copy the checkpoint again.") from error


def load_state(folder: Path, config: VLMConfig, dtype: jnp.dtype, mesh: Mesh | None = None) -> nnx.State:
    """Reads the weights onto the mesh, or the one in use, if there is one.

    Raises UserError that lists every missing, unknown and mis-shaped tensor at once.
    """
    path = folder / "model.safetensors"
    try:
        stored = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no model.safetensors. Copy the checkpoint again.") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}. Copy the checkpoint again.") from error
    state = vlm.abstract_state(config)
    wanted = names(state)
    wrong = [f"missing: {n}" for n in sorted(wanted.keys() - stored.keys())]
    wrong += [f"not part of the model: {n}" for n in sorted(stored.keys() - wanted.keys())]
    wrong += [
        f"{n}: shape {stored[n].shape} in the file, {wanted[n].shape} in the model"
        for n in sorted(wanted.keys() & stored.keys())
        if stored[n].shape != wanted[n].shape
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit its config.json:\n  " + "\n  ".join(wrong) + "\nAre both of the same checkpoint?"
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _, place: hosts.placed(stored[dotted(path)].astype(dtype), place),
        state,
        places_of(config, mesh),
    )


def save_state(folder: Path, state: nnx.State, dtype: jnp.dtype) -> None:
    """Writes the weights, replacing an older file only once the new one is complete.

    Raises UserError for weights that are quantised, and on a full disk.
    """
    quantize.refuse(state, "a checkpoint holds weights in full")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", {name: value.astype(dtype) for name, value in names(state).items()})
