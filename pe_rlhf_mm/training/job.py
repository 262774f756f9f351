"""What a run is about, and the roles that it begins with."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import jax

from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.observer import Observer
from pe_rlhf_mm.training.run import Run
from pe_rlhf_mm.training.start import Start
from pe_rlhf_mm.types import Task


class How(TypedDict):
    """What every stage is told alike."""

    remat: bool
    seed: int
    observer: Observer


class Job(NamedTuple):
    """One tuning: the task and its id, the model, the settings, where it starts from, and who is told."""

    id: str
    task: Task
    model: Model
    config: TuneConfig
    start: Start | None
    run: Run
    observer: Observer

    @property
    def how(self) -> How:
        """What every stage is told alike."""
        return How(remat=self.config.remat, seed=self.config.seed, observer=self.observer)


def attach(model: Model, config: TuneConfig) -> Roles:
    """The roles before any training: `sft` and `reward` equal the backbone; `policy` and `value` start from `sft`."""
    keys = jax.random.split(jax.random.key(config.seed), 3)
    roles = role_table.only_backbone(model.state)
    for role, rank, key in (("sft", config.lora.rank, keys[0]), ("reward", config.lora.reward_rank, keys[1])):
        if config.mode == "full":
            roles = roles.start(role, BACKBONE)
        else:
            alpha, targets = config.lora.alpha, config.lora.targets
            roles = role_table.new_slot_role(
                roles, role, model.config, rank=rank, alpha=alpha, targets=targets, key=key
            )
    width = model.config.decoder.width
    return roles.with_head("reward", jax.random.normal(keys[2], (width,)) * width**-0.5)
