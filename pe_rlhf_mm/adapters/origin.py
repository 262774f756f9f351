"""What an adapter is: which role it plays, and over which weights it was trained. Shapes alone would let others pass.

It is kept in the metadata of `adapter_model.safetensors`, beside the format that PEFT writes there: it can neither be
lost nor changed without the matrices. Adapters that PEFT trained have none, and say nothing but the name of a model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from pe_rlhf_mm import hosts
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import to_json
from pe_rlhf_mm.models import quantize
from pe_rlhf_mm.models.config import VLMConfig

JUDGES = ("reward", "value")
"""Roles that are nothing without their head."""
CORNER = 256
"""Rows and columns of a matrix that are looked at: of 9 billion weights 20 million, which takes no time."""
ADAPTER, MIXTURE = "adapter_model.safetensors", "mixture.safetensors"
"""The files that say where they come from."""
IN_LAYERS, BESIDE = "layers", "rest"
KEY = "pe_rlhf_mm"


def fingerprints(state: nnx.State) -> dict[str, str]:
    """Hashes of the signs of a model's weights: of those that are quantised, unless they are, and of all others.

    Signs stay as they are in whatever type a checkpoint is loaded, float16 included, where tiny numbers become zeros
    that keep their sign. Quantised matrices do not keep them, so of a quantised model only the others are compared. Of
    every matrix at most 256 rows are looked at, evenly spaced, and 256 columns: training moves all of them.
    """
    weights = {".".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}
    parts = {
        BESIDE: {name: weight for name, weight in weights.items() if not quantize.covers(name)},
        IN_LAYERS: {name: weight for name, weight in weights.items() if quantize.covers(name)},
    }
    if any(isinstance(weight, quantize.Quantized) for weight in parts[IN_LAYERS].values()):
        del parts[IN_LAYERS]
    return {name: _hash(part) for name, part in parts.items()}


def _hash(weights: Mapping[str, jax.Array]) -> str:
    digest, signs = hashlib.sha256(), hosts.fetched(_signs(dict(weights)))
    for name in sorted(signs):
        digest.update(f"{name} {weights[name].shape}".encode() + np.packbits(signs[name]).tobytes())
    return digest.hexdigest()[:16]


@jax.jit
def _signs(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.signbit(_corner(weight)) for name, weight in weights.items()}


def _corner(weight: jax.Array) -> jax.Array:
    return weight[..., :: math.ceil(weight.shape[-2] / CORNER), :CORNER] if weight.ndim > 1 else weight


@dataclass(frozen=True)
class Origin:
    """The role of an adapter, whether a head belongs to it, and the model that it was trained on."""

    role: str
    head: bool
    model: str
    family: str
    fingerprints: Mapping[str, str]

    def metadata(self) -> dict[str, str]:
        """As it is written beside the tensors."""
        return {"format": "pt", KEY: to_json(dataclasses.asdict(self), indent=None)}

    def refuse_other(self, folder: Path, config: VLMConfig, state: nnx.State) -> None:
        """Raises UserError, which names both, unless the adapter was trained on a model of this family and weights."""
        told = f"the adapter in {folder} was trained on {self.model}, of the family {self.family}"
        remedy = "Load the model that it was trained on."
        if self.family != config.family:
            raise UserError(f"{told}, and {config.name} is of the family {config.family}. {remedy}")
        here = fingerprints(state)
        for part in sorted(here.keys() & self.fingerprints.keys()):
            if here[part] != self.fingerprints[part]:
                raise UserError(
                    f"{told}, with weights of the fingerprint {self.fingerprints[part]}, and those of {config.name} "
                    f"have {here[part]} ({part}): they are others. {remedy}"
                )


def origin_of(role: str, config: VLMConfig, state: nnx.State, *, model: str, head: bool = False) -> Origin:
    """The origin of an adapter of `role` over a model's weights; `model` is what that is called."""
    return Origin(role, head, model, config.family, fingerprints(state))


def read_origin(folder: Path) -> Origin | None:
    """What an adapter says of itself: None if it says nothing, as those of PEFT, or cannot be read at all.

    Raises UserError for what another release wrote.
    """
    path = next((folder / name for name in (MIXTURE, ADAPTER) if (folder / name).is_file()), folder / ADAPTER)
    try:
        with safe_open(path, "numpy") as file:
            told = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError):  # whoever reads the tensors will say so
        return None
    try:
        return Origin(**json.loads(told)) if told is not None else None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} says in its metadata ({KEY}) what this release does not know: {error}.") from error
