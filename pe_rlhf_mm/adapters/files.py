"""Roles on disk: adapters in the layout of PEFT, the scalar head in a file of its own, whole copies as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp

from pe_rlhf_mm.adapters.mixture_files import read_mixture, write_mixture
from pe_rlhf_mm.adapters.origin import JUDGES, MIXTURE, origin_of, read_origin
from pe_rlhf_mm.adapters.peft import Serving, read_adapter, write_adapter
from pe_rlhf_mm.adapters.roles import Head, Roles, type_of
from pe_rlhf_mm.adapters.tensors import read_tensors, write_tensors
from pe_rlhf_mm.checkpoints import backbone
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.places import placed_slot


def save_role(
    folder: Path, roles: Roles, role: str, config: VLMConfig, base: str, *, serving: Serving | None = None
) -> None:
    """Writes one role's adapters or copy, and its head if it has one, replacing older files only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    if role in roles.mixtures:
        origin = origin_of(role, config, roles.backbone, model=base, head=role in roles.heads)
        write_mixture(folder, roles.mixtures[role], origin)
    elif role in roles.copies:
        backbone.save_state(folder, roles.copies[role], type_of(roles.copies[role]))
    else:
        origin = origin_of(role, config, roles.backbone, model=base, head=role in roles.heads)
        write_adapter(folder, roles.slots[role], float(roles.scales[role]), config, origin, serving=serving)
    if role in roles.heads:
        head = roles.heads[role]
        write_tensors(folder / "head.safetensors", {"weight": head.weight, "bias": head.bias})


def load_role(folder: Path, roles: Roles, role: str, config: VLMConfig) -> Roles:
    """Adds a role from its folder. Raises UserError if a file is missing or damaged, or is of another model."""
    origin = read_origin(folder)
    if origin is not None:
        origin.refuse_other(folder, config, roles.backbone)
    if (folder / "model.safetensors").is_file():
        copy = backbone.load_state(folder, config, type_of(roles.backbone))
        roles = roles._replace(copies={**roles.copies, role: copy})
    elif (folder / MIXTURE).is_file():
        roles = roles.mixed(role, read_mixture(folder, config))
    else:
        slot, scale = read_adapter(folder, config)
        slot = placed_slot(config, slot)
        roles = roles._replace(slots={**roles.slots, role: slot}, scales={**roles.scales, role: jnp.float32(scale)})
    if role in JUDGES or (origin is not None and origin.head) or (folder / "head.safetensors").is_file():
        roles = roles._replace(heads={**roles.heads, role: _read_head(folder / "head.safetensors", config)})
    return roles


def _read_head(path: Path, config: VLMConfig) -> Head:
    if not path.is_file():
        raise UserError(f"{path} does not exist, and what lies beside it reads a number off a head. Copy it again.")
    stored = read_tensors(path)
    if {name: tensor.shape for name, tensor in stored.items()} != {"weight": (config.decoder.width,), "bias": ()}:
        raise UserError(f"{path} is not a head of a model of width {config.decoder.width}")
    return Head(jnp.asarray(stored["weight"]), jnp.asarray(stored["bias"]))
