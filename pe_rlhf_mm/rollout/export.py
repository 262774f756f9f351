"""Roles of a run, and adapters of a policy, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pe_rlhf_mm.adapters import dora, lora
from pe_rlhf_mm.adapters.files import save_role
from pe_rlhf_mm.adapters.origin import origin_of, read_origin
from pe_rlhf_mm.adapters.peft import Serving, read_adapter, refuse_beside_text, write_adapter
from pe_rlhf_mm.adapters.roles import adapted_by
from pe_rlhf_mm.checkpoints.export import export_merged, export_weights
from pe_rlhf_mm.checkpoints.folders import written_whole
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models import quantize
from pe_rlhf_mm.models.model import Model, folder_of
from pe_rlhf_mm.rollout.load import load_run_role, refusal_of_judge
from pe_rlhf_mm.rollout.policy import Policy

MIXED = (
    "is a mixture of adapters, which asks its experts anew for every token: no single adapter does the same, and no "
    "merged model. Keep it in its run, from where pe-rlhf eval and pe.load_policy read it."
)


def save_adapter(
    folder: str | Path, policy: Policy, *, serving: Serving | None = None, overwrite: bool = False
) -> None:
    """Writes a policy's adapter in the layout of PEFT; `folder` appears whole or not at all.

    `serving`: the class that will serve it, "text" or "vlm"; by default the one that sees, if the model does. Raises
    UserError for a policy without an adapter, and for a folder that cannot be written or holds something, unless that
    is an adapter or a checkpoint to be overwritten.
    """
    bank = policy.weights.bank
    if bank is None:
        raise UserError(f"{policy.name} has no adapter: it is a model by itself. Export it merged.")
    refuse_beside_text(bank.matrices, policy.name)
    if bank.gates is not None:
        raise UserError(f"{policy.name} {MIXED}")
    slot = lora.first(bank)
    config = policy.processor.config
    origin = origin_of("policy", config, policy.weights.state, model=config.name)
    with written_whole(Path(folder), overwrite=overwrite) as partial:
        write_adapter(partial, slot, float(bank.scale[0]), config, origin, serving=serving)


def load_adapter(model: Model, folder: str | Path) -> Policy:
    """A policy of a model and an adapter that was written here or by PEFT.

    Raises UserError if the adapter does not fit the model or was trained on another one, and for the role of a judge.
    """
    origin = read_origin(Path(folder))
    if (origin is not None and origin.head) or (Path(folder) / "head.safetensors").exists():
        raise UserError(refusal_of_judge(origin.role if origin is not None else "reward", folder))
    if origin is not None:
        origin.refuse_other(Path(folder), model.config, model.state)
    slot, scale = read_adapter(Path(folder), model.config)
    return Policy(model.processor, adapted_by(model.state, slot, scale), f"{model.name}+{folder}")


def export_role(
    run: Path,
    out: Path,
    role: str,
    format: Literal["peft", "merged"],
    *,
    serving: Serving | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a role of a run folder as PEFT adapter (with its head in a file of its own), or merged into a checkpoint.

    Raises UserError for a role that is not there, or that the format cannot hold; `out` appears whole or not at all.
    """
    model, roles, role = load_run_role(run, role)
    if role in roles.mixtures:
        raise UserError(f"{run}:{role} {MIXED}")
    source, config = folder_of(model.name), model.config
    for kept in (run, source):
        if kept.resolve().is_relative_to(out.resolve()):
            raise UserError(f"{out} is where {kept} is, which the export reads and would replace. Give another --out.")
    if format == "peft":
        if role in roles.copies:
            raise UserError(
                f"{run} is a run of mode full: its roles are whole models, no adapters. Use --format merged."
            )
        refuse_beside_text(roles.slots[role], f"{run}:{role}")
        with written_whole(out, overwrite=overwrite) as folder:
            save_role(folder, roles, role, config, model.name, serving=serving)
        return
    if role in roles.heads:
        raise UserError(
            f"the role {role} reads a number off a head, which no merged checkpoint holds. Use --format peft."
        )
    if serving is not None:
        raise UserError("--as is about the names in a PEFT adapter; a merged checkpoint keeps those of its source.")
    quantize.refuse(
        model.state,
        "what was trained on it would be merged into other weights than those it was trained on",
        remedy="Use --format peft, and serve the adapter over the backbone quantised alike.",
    )
    if role in roles.copies:
        export_weights(source, out, config, roles.copies[role], overwrite=overwrite)
    else:
        updates = dora.merged(model.state, roles.slots[role], roles.scales[role])
        export_merged(source, out, config, updates, overwrite=overwrite)
