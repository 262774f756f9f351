"""Safetensors files of a few small arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pe_rlhf_mm import hosts
from pe_rlhf_mm.errors import UserError


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a file. Raises UserError if it is missing or damaged."""
    try:
        tensors: dict[str, np.ndarray] = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
    return tensors


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray | jax.Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a file, replacing an older one only when the new one is complete. Raises UserError on a full disk.

    Of several processes all bring their parts, and the first writes.
    """
    partial, arrays = path.with_suffix(".partial"), {name: hosts.fetched(tensor) for name, tensor in tensors.items()}
    if not hosts.first():
        return
    try:
        save_file(arrays, partial, metadata=dict(metadata or {"format": "pt"}))
    except SafetensorError as error:  # what the library makes of every OSError
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error}. Is the disk full?") from error
    _order_metadata(partial)
    os.replace(partial, path)


def _order_metadata(path: Path) -> None:
    """Puts the metadata in the order of their names. The library writes them in any, and the same is to be the same."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))
