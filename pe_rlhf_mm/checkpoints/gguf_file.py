"""What a GGUF file holds: fields, and arrays that may be quantised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pe_rlhf_mm.errors import UserError


class Fields(dict[str, Any]):
    """The fields of one file; to ask for one that it lacks is a UserError."""

    def __init__(self, source: Path, values: Mapping[str, Any]):
        super().__init__(values)
        self.source = source

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.source} has no field {key!r}, which a model needs. Make or copy the file again.")

    @property
    def architecture(self) -> str:
        return str(self["general.architecture"])

    def of_model(self, key: str) -> Any:
        """A field that is named after the architecture, for instance `llama.block_count`."""
        return self[f"{self.architecture}.{key}"]


def read(source: Path) -> tuple[Fields, dict[str, Any]]:
    """The fields, and the tensors by their names. Raises UserError for a file that is missing, cut short or no GGUF."""
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise UserError("GGUF files are read by the package gguf: pip install 'pe-rlhf-mm[gguf]'") from error
    try:
        reader = GGUFReader(source)
        values = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}.") from error
    except (ValueError, IndexError) as error:
        raise UserError(f"{source} is damaged or not a GGUF file: {error}. Copy it again.") from error
    return Fields(source, values), {tensor.name: tensor for tensor in reader.tensors}


def dequantised(tensor: Any) -> np.ndarray:
    """A tensor as float32 [out, in]. Raises UserError for a quantisation that cannot be undone."""
    from gguf.quants import dequantize

    try:
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    except NotImplementedError as error:
        kind = tensor.tensor_type.name
        raise UserError(f"{tensor.name} is stored as {kind}, which cannot be read here. Take another file.") from error
