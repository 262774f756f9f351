"""Checkpoints in the Hugging Face layout: config.json, safetensors in one file or in shards, tokenizer, template.

No torch. Weights stream from disk into stacked arrays one at a time, so that host memory holds little more than the
model. Nothing is executed: pickled weights and remote code are refused.
"""

from __future__ import annotations

import functools
import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding
from safetensors import SafetensorError, safe_open

from pe_rlhf_mm import hosts
from pe_rlhf_mm.checkpoints.backbone import dotted
from pe_rlhf_mm.checkpoints.names import IGNORED, canonical, is_stacked, stored
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.models import vlm
from pe_rlhf_mm.models.config import Quantization, VLMConfig
from pe_rlhf_mm.models.families import SUPPORTED, Ids, config_of
from pe_rlhf_mm.models.places import place_of_layer, place_of_stack, places_of
from pe_rlhf_mm.models.quantize import Quantized, covers, quantized

FLOATS = ("F64", "F32", "F16", "BF16")


class Tensor(NamedTuple):
    """Where a tensor is on disk."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        with safe_open(self.path, "numpy") as file:  # opened anew each time: a mapped file counts as memory in use
            tensor: np.ndarray = file.get_tensor(self.name)
        return tensor


def transformers() -> Any:
    """The library of that name. It is slow to import, and would warn that torch is missing, which we never want."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import transformers

    return transformers


def read_description(folder: Path) -> Any:
    """Reads `config.json` as transformers understands it. Raises UserError for what is damaged or not supported."""
    path = folder / "config.json"
    family, supported = read_json(path).get("model_type"), ", ".join(SUPPORTED)
    if family not in SUPPORTED:
        code = " and asks for code of its own (auto_map), which is never executed" * ("auto_map" in read_json(path))
        raise UserError(f"{path} says model_type {family!r}{code}; supported: {supported}.")
    try:
        return transformers().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # what it raises for a wrong field has no common class
        raise UserError(f"{path} does not describe a model: {error!s:.300}. Copy the checkpoint again.") from error


def config_from(folder: Path, description: Any, ids: Ids) -> VLMConfig:
    """The model that a folder describes. Raises UserError for fields that are missing or not supported."""
    images = folder / "preprocessor_config.json"
    if description.get_text_config() is not description and not images.is_file():
        raise UserError(f"{folder} has no preprocessor_config.json, which says how images are resized.")
    try:
        return config_of(description, read_json(images) if images.is_file() else {}, ids, folder.name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'config.json'} does not describe a model: {error}. Copy the checkpoint again."
        ) from error


def load_state(
    folder: Path,
    config: VLMConfig,
    dtype: jnp.dtype,
    quantize: Quantization | None = None,
    mesh: Mesh | None = None,
) -> nnx.State:
    """Reads the weights, quantises kernels as they come, and lays every layer straight into its place on the mesh.

    Raises UserError that lists every missing, unknown and mis-shaped tensor at once.
    """
    tensors, state = tensors_of(folder), vlm.abstract_state(config)
    wanted = {path: (dotted(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    _refuse_misfits(folder, config, tensors, dict(wanted.values()))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, place: _gather(config, tensors, dotted(path), leaf.shape, dtype, quantize, place),
        state,
        places_of(config, mesh),
    )


def _gather(
    config: VLMConfig,
    tensors: Mapping[str, Tensor],
    ours: str,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    quantize: Quantization | None,
    place: Sharding,
) -> jax.Array | Quantized:
    """One weight of ours, its layers stacked."""
    parts = stored(config, ours)
    read = (part.view(tensors[part.name].read()) for part in parts)
    if not is_stacked(ours):
        # A copy of its own: training in mode full gives weights away, and NumPy's memory is not JAX's to reuse.
        return hosts.placed(next(read).reshape(shape).astype(dtype), place, may_alias=False)
    if quantize is not None and covers(ours):
        return _stacked((quantized(jnp.asarray(layer), quantize) for layer in read), len(parts), place)
    return _stacked((layer.reshape(shape[1:]).astype(dtype) for layer in read), len(parts), place)


def _stacked(layers: Iterable[Any], count: int, place: Sharding) -> Any:
    """Layers (arrays or quantised kernels) along a new first axis: there is never more than one beside the stack."""
    stack = None
    for index, layer in enumerate(layers):
        if stack is None:
            places = place_of_stack(place, layer)
            stack = jax.tree.map(lambda x, at: jnp.zeros((count, *x.shape), x.dtype, device=at), layer, places)
        put = jax.tree.map(lambda x, at: hosts.placed(x, place_of_layer(at)), layer, places)
        stack = _with_layer(stack, put, index)
    return stack


@functools.partial(jax.jit, donate_argnums=0)
def _with_layer(stack: Any, layer: Any, index: int) -> Any:
    """One layer put into its place where the stack lies, in place: the stack stays on its devices as it was."""
    return jax.tree.map(lambda s, x: jax.lax.dynamic_update_index_in_dim(s, x, index, 0), stack, layer)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by its canonical name, from the headers of its files.

    Raises UserError for damaged files, missing shards, pickled weights, and two tensors of one canonical name.
    """
    found: dict[str, Tensor] = {}
    for path in _files(folder):
        for tensor in _header(path):
            name = canonical(tensor.name)
            if name in found:
                raise UserError(
                    f"{path} has {tensor.name} and {found[name].path} has {found[name].name}: one too many."
                )
            found[name] = tensor
    return found


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted({str(name) for name in dict(read_json(index).get("weight_map") or {}).values()})
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing or not shards:
            raise UserError(f"{index} lists shards that are not there: {', '.join(missing) or 'none at all'}.")
        return [folder / name for name in shards]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickled = sorted(p.name for suffix in ("bin", "pt", "pth") for p in folder.glob(f"*.{suffix}"))
    if pickled:
        raise UserError(
            f"{folder} has its weights as pickles ({', '.join(pickled[:3])}), which can run code and are never opened. "
            "Use the safetensors version of the checkpoint."
        )
    raise UserError(f"{folder} has no model.safetensors. Copy the checkpoint again.")


def _header(path: Path) -> Iterator[Tensor]:
    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118  it is no dictionary
                part = file.get_slice(name)
                yield Tensor(path, name, tuple(part.get_shape()), part.get_dtype())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}. Copy the checkpoint again.") from error


def _refuse_misfits(
    folder: Path, config: VLMConfig, tensors: Mapping[str, Tensor], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> None:
    wrong, used = [], set()
    for ours, leaf in wanted.items():
        shape = leaf.shape[1:] if is_stacked(ours) else leaf.shape
        for name, view in stored(config, ours):
            used.add(name)
            if name not in tensors:
                wrong.append(f"missing: {name}")
                continue
            tensor = tensors[name]
            if tensor.dtype not in FLOATS:
                wrong.append(f"{tensor.name} is stored as {tensor.dtype}; expected one of {', '.join(FLOATS)}")
            elif not _fits(tensor.shape, shape, view):
                wrong.append(f"{tensor.name} has shape {tensor.shape}, which does not make {shape}")
    ignored = {"lm_head.weight"} if config.tied else set()
    spare = [t.name for n, t in tensors.items() if n not in used | ignored and not IGNORED.search(n)]
    wrong += [f"not part of the model: {name}" for name in spare]
    if wrong:
        listed = "\n  ".join(sorted(set(wrong)))
        raise UserError(
            f"the weights in {folder} do not fit its config.json:\n  {listed}\nAre both of the same checkpoint?"
        )


def _fits(theirs: tuple[int, ...], ours: tuple[int, ...], view: Any) -> bool:
    """Whether the view of a tensor of that shape is ours; a flattened convolution kernel may differ by a reshape."""
    try:
        seen = view(np.broadcast_to(np.int8(0), theirs)).shape
    except (ValueError, IndexError):
        return False
    return seen == ours or (len(seen) > 2 and seen[-1] == ours[-1] and math.prod(seen) == math.prod(ours))


def fetched(name: str) -> Path:
    """The folder of a model on the Hugging Face hub, downloaded unless it is in the cache already.

    Raises UserError if it does not exist or cannot be reached.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]))
    except Exception as error:  # network, permission and naming errors have no common class
        raise UserError(
            f"no model {name!r}: it is no folder here, and the hub did not give it: "
            + textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
        ) from error
