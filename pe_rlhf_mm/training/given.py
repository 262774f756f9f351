"""Adapters that a run is given: those that SFT goes on with, and the experts of a mixture."""

from __future__ import annotations

import math
from pathlib import Path

from pe_rlhf_mm.adapters.lora import SCALES, Slot
from pe_rlhf_mm.adapters.mixture import Mixture, new_mixture
from pe_rlhf_mm.adapters.origin import ADAPTER, MIXTURE, read_origin
from pe_rlhf_mm.adapters.peft import read_adapter
from pe_rlhf_mm.adapters.targets import adapted
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.models.places import placed_slot
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.lora_config import LoraConfig


def folder_of(reference: str) -> Path:
    """The folder of given adapters: of RUN (its policy, or its SFT policy), of RUN:role, or the folder itself. Raises
    UserError if none are there."""
    folder, role = Path(reference), ""
    if not folder.exists() and ":" in reference:
        folder, role = Path(reference.rpartition(":")[0]), reference.rpartition(":")[2]
    roles = [role] if role else ["policy", "sft"]
    for found in ([] if role else [folder]) + [folder / "adapters" / name for name in roles]:
        if any(found.glob("*.safetensors")):
            return found
    raise UserError(
        f"{reference} has no adapters to go on with: expected a run with the role {' or '.join(roles)}, or a folder "
        f"with {ADAPTER}."
    )


def refuse_other_adapters(config: TuneConfig, model: Model) -> None:
    """Raises UserError unless the adapters that SFT is to go on with are of this model, write replies, and are what the
    settings say: those say what is trained."""
    reference = config.sft.start_from
    folder = _writing(reference, model)
    whole = (folder / "model.safetensors").is_file()
    if whole != (config.mode == "full"):
        kind, mode = ("all weights of a role", "full") if whole else ("adapters", "lora")
        raise UserError(f"{reference} holds {kind}, and this run is of mode {config.mode}. Give --mode {mode}.")
    if not whole:
        _refuse_other_settings(reference, *_adapter(reference, folder, model), config.lora, model.config)


def mixture_of(lora: LoraConfig, model: Model) -> Mixture:
    """The mixture of the experts that the settings name, before any training.

    Raises UserError unless all are adapters of this model that write replies, beside matrices of the decoder.
    """
    experts = [_adapter(reference, _writing(reference, model), model) for reference in lora.experts]
    slots = [placed_slot(model.config, slot) for slot, _ in experts]
    scales = [scale for _, scale in experts]
    return new_mixture(model.config, slots, scales, kind=lora.gates, balance=lora.balance)


def _writing(reference: str, model: Model) -> Path:
    """The folder of what a reference names. Raises UserError if it is of another model, or judges replies."""
    folder = folder_of(reference)
    origin = read_origin(folder)
    if origin is not None:
        origin.refuse_other(folder, model.config, model.state)
    if (folder / "head.safetensors").is_file():
        raise UserError(f"{reference} reads a number off a head, and writes no replies, which is what is wanted here.")
    return folder


def _adapter(reference: str, folder: Path, model: Model) -> tuple[Slot, float]:
    for file, what in ((MIXTURE, "is a mixture of adapters itself"), ("model.safetensors", "holds a whole model")):
        if (folder / file).is_file():
            raise UserError(f"{reference} {what}, and one adapter is wanted here.")
    return read_adapter(folder, model.config)


def _refuse_other_settings(reference: str, slot: Slot, scale: float, lora: LoraConfig, model: VLMConfig) -> None:
    had, one = {name: low.a.shape[-1] for name, low in slot.items()}, next(iter(slot.values()))
    kind, alpha = "lora" if one.magnitude is None else "dora", scale / SCALES[lora.scaling](1.0, one.a.shape[-1])
    wanted = dict.fromkeys(adapted(model, lora.targets), lora.rank)
    if had != wanted or kind != lora.kind or not math.isclose(alpha, lora.alpha, rel_tol=1e-5):
        raise UserError(
            f"{reference} has other adapters than this run is to train: give --lora.rank {one.a.shape[-1]} "
            f"--lora.targets {' '.join(had)} --lora.kind {kind} --lora.alpha {alpha:.6g}, with --lora.scaling "
            f"{lora.scaling}."
        )
