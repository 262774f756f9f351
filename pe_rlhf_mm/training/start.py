"""Going on from another run: its SFT policy, and its reward model where one is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pe_rlhf_mm.adapters.files import load_role
from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.models.config import VLMConfig
from pe_rlhf_mm.reports.folder import read_run
from pe_rlhf_mm.reports.records import at
from pe_rlhf_mm.training.config import RewardConfig, SFTConfig, TuneConfig
from pe_rlhf_mm.training.jury import made_by, settings_in
from pe_rlhf_mm.training.lora_config import LoraConfig

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


def _as_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def load_start(roles: Roles, start: Start, config: VLMConfig) -> Roles:
    """The roles with those of the other run in their place. Raises UserError for damaged files."""
    for role in start.roles:
        roles = load_role(start.run / "adapters" / role, roles, role, config)
    return roles
