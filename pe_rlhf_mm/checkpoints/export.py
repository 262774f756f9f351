"""A checkpoint written again with other weights: same files, same names, same types, adapters added to the matrices.

What is not adapted is copied bit for bit. A weight of ours is a view of the tensor on disk (`names.py`), so writing
through the view puts it back where it came from, out of whichever shard, fused with others or not.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  teaches NumPy bfloat16, in which most checkpoints are stored
import numpy as np
from flax import nnx
from jaxtyping import Array
from safetensors import safe_open

from pe_rlhf_mm.adapters.targets import path_of
from pe_rlhf_mm.adapters.tensors import write_tensors
from pe_rlhf_mm.checkpoints import backbone, huggingface
from pe_rlhf_mm.checkpoints.folders import written_whole
from pe_rlhf_mm.checkpoints.names import canonical, stored
from pe_rlhf_mm.models.config import VLMConfig

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")


def export_merged(
    source: Path, out: Path, config: VLMConfig, updates: Mapping[str, Array], *, overwrite: bool = False
) -> None:
    """Writes the checkpoint `source` to `out` with an adapter added, by the names of its matrices, summed in float32.

    Raises UserError if `out` cannot be written or holds something; it appears whole or not at all.
    """
    changes = {
        ".".join(map(str, (*path_of(target), "kernel"))): np.asarray(update) for target, update in updates.items()
    }
    with written_whole(out, overwrite=overwrite) as folder:
        _copy_all_but_weights(source, folder)
        _rewrite(source, folder, _placed(source, config, changes), add=True)


def export_weights(source: Path, out: Path, config: VLMConfig, state: nnx.State, *, overwrite: bool = False) -> None:
    """Writes the checkpoint `source` to `out` with all its weights replaced: a role of mode `full`. Raises as above."""
    values = {name: np.asarray(value) for name, value in backbone.names(state).items()}
    if config.tied:  # some checkpoints hold the table twice, and transformers unties copies that differ
        values["decoder.head"] = values["decoder.embedding"]
    with written_whole(out, overwrite=overwrite) as folder:
        _copy_all_but_weights(source, folder)
        _rewrite(source, folder, _placed(source, config, values), add=False)


def _copy_all_but_weights(source: Path, folder: Path) -> None:
    kept = [p for p in source.iterdir() if p.is_file() and not any(p.match(pattern) for pattern in WEIGHTS)]
    for path in kept:
        shutil.copyfile(path, folder / path.name)


Placed = dict[str, list[tuple]]
"""By canonical name of a tensor: which parts of it get which values, as pairs of a view and an array."""


def _placed(source: Path, config: VLMConfig, values: Mapping[str, np.ndarray]) -> Placed:
    if backbone.is_own(source):  # names and shapes are ours already
        return {name: [(lambda tensor: tensor, value)] for name, value in values.items()}
    placed: Placed = {}
    for ours, value in values.items():
        parts = stored(config, ours)
        for part, layer in zip(parts, value if len(parts) > 1 or value.ndim > 2 else [value], strict=True):
            placed.setdefault(part.name, []).append((part.view, layer))
    return placed


def _rewrite(source: Path, folder: Path, placed: Placed, *, add: bool) -> None:
    """Writes every file of weights again, one in memory at a time."""
    for path in sorted({tensor.path for tensor in huggingface.tensors_of(source).values()}):
        with safe_open(path, "numpy") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            for view, value in placed.get(canonical(name), ()):
                target = view(tensor)
                new = value.reshape(target.shape).astype(np.float32)
                target[...] = (target.astype(np.float32) + new if add else new).astype(tensor.dtype)
        write_tensors(folder / path.name, tensors, metadata)
