"""Going on from another run: its SFT policy, and its reward model where one is needed; or SFT from given adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pe_rlhf_mm.adapters.files import load_role
from pe_rlhf_mm.adapters.lora import SCALES, Slot
from pe_rlhf_mm.adapters.origin import read_origin
from pe_rlhf_mm.adapters.peft import read_adapter
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.adapters.targets import adapted
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.reports.folder import read_run
from pe_rlhf_mm.reports.records import at
from pe_rlhf_mm.training.config import LoraConfig, RewardConfig, SFTConfig, TuneConfig
from pe_rlhf_mm.training.jury import made_by, settings_in

SECTIONS: dict[str, type] = {"lora": LoraConfig, "sft": SFTConfig, "reward": RewardConfig}


class Start(NamedTuple):
    """What another run has to go on from: `roles` are "sft" and, if it has them and this run needs them, those of its
    reward models."""

    run: Path
    task: str
    roles: tuple[str, ...]
    settings: Mapping[str, Any]

    def remembered(self) -> dict[str, Any]:
        """What the new run says of it."""
        return {"run": str(self.run), "task": self.task, "roles": list(self.roles)}


def read_start(run: str | Path, model: str, config: TuneConfig) -> Start:
    """What a run has to offer to a tuning of `model` (its lasting name) by `config`.

    Raises UserError if the folder is no run or has no SFT policy, or if the run is of another model, mode or
    quantization: adapters fit the weights they were trained on, as those were rounded, and no others.
    """
    folder = Path(run).resolve()
    found = read_run(folder).config
    settings = at(found, "settings")
    asked = {"model": model, "mode": config.mode, "quantize": config.quantize}
    had = {"model": at(found, "model"), "mode": at(settings, "mode"), "quantize": at(settings, "quantize")}
    for name, value in asked.items():
        if had[name] != value:
            raise UserError(
                f"{run} was tuned with {name} {had[name]}, and this run is to have {name} {value}. Both must be the "
                f"same: give --{name} {had[name]}, or start from another run."
            )
    judges = made_by(settings_in(at(settings, "reward"))) if config.learns_reward else ()
    saved = [role for role in ("sft", *judges) if any((folder / "adapters" / role).glob("*.safetensors"))]
    if "sft" not in saved:
        raise UserError(f"{run} has no SFT policy to start from: it ended before that was trained.")
    kept = saved if set(judges) <= set(saved) else ["sft"]  # of several reward models, all or none
    return Start(folder, str(found["task"]), tuple(kept), settings)


def inherited(config: TuneConfig, start: Start) -> TuneConfig:
    """The settings of a run that goes on from another: of what was trained there, those that it was trained with.

    The value model is not taken over, and has the adapters that it is to have here.

    Raises UserError for settings that this release does not know.
    """
    names = ("lora", *dict.fromkeys(role.partition("-")[0] for role in start.roles))
    value = {"value_rank": config.lora.value_rank, "value_targets": config.lora.value_targets}
    try:
        had = {name: SECTIONS[name](**_as_given(start.settings[name])) for name in names}
        return replace(config, **had | {"lora": replace(had["lora"], **value)})
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{start.run / 'config.json'} has settings of another release ({error}), so what was trained with them "
            "cannot be gone on from. Tune anew with this release."
        ) from error


def sft_folder(reference: str) -> Path:
    """The folder of the adapters that SFT is to go on with: of RUN (its policy, or its SFT policy), of RUN:role, or the
    folder itself. Raises UserError if none are there."""
    folder, role = Path(reference), ""
    if not folder.exists() and ":" in reference:
        folder, role = Path(reference.rpartition(":")[0]), reference.rpartition(":")[2]
    roles = [role] if role else ["policy", "sft"]
    for found in ([] if role else [folder]) + [folder / "adapters" / name for name in roles]:
        if any(found.glob("*.safetensors")):
            return found
    raise UserError(
        f"{reference} has no adapters for SFT to go on with: expected a run with the role {' or '.join(roles)}, or a "
        "folder with adapter_model.safetensors."
    )


def refuse_other_adapters(config: TuneConfig, model: Model) -> None:
    """Raises UserError unless the adapters that SFT is to go on with are of this model, write replies, and are what the
    settings say: those say what is trained."""
    reference, folder = config.sft.start_from, sft_folder(config.sft.start_from)
    whole, origin = (folder / "model.safetensors").is_file(), read_origin(folder)
    if origin is not None:
        origin.refuse_other(folder, model.config, model.state)
    if (folder / "head.safetensors").is_file():
        raise UserError(f"{reference} reads a number off a head, and writes no replies: SFT cannot go on with it.")
    if whole != (config.mode == "full"):
        kind, mode = ("all weights of a role", "full") if whole else ("adapters", "lora")
        raise UserError(f"{reference} holds {kind}, and this run is of mode {config.mode}. Give --mode {mode}.")
    if not whole:
        _refuse_other_settings(reference, *read_adapter(folder, model.config), config.lora, model.config)


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


def _as_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def load_start(roles: Roles, start: Start, config: VLMConfig) -> Roles:
    """The roles with those of the other run in their place. Raises UserError for damaged files."""
    for role in start.roles:
        roles = load_role(start.run / "adapters" / role, roles, role, config)
    return roles
