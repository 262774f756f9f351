"""What a run is about, the roles that it begins with, and the stages that it goes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import jax

from pe_rlhf_mm.adapters import roles as role_table
from pe_rlhf_mm.adapters.files import load_role
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.training.given import folder_of, mixture_of
from pe_rlhf_mm.training.jury import members_of
from pe_rlhf_mm.training.keeper import Keeper
from pe_rlhf_mm.training.observer import Observer
from pe_rlhf_mm.training.run import Run
from pe_rlhf_mm.training.run_keeper import RunKeeper
from pe_rlhf_mm.training.scorers import EvaluatorReward
from pe_rlhf_mm.training.start import Start, load_start
from pe_rlhf_mm.training.step import Technique
from pe_rlhf_mm.training.stopwatch import Stopwatch
from pe_rlhf_mm.types import Task


class How(TypedDict):
    """What every stage is told alike."""

    technique: Technique
    seed: int
    observer: Observer
    keeper: Keeper


class Job(NamedTuple):
    """One tuning: the task and its id, the model, the settings, where it starts from, who is told, and who keeps it.

    `evaluator`: the reward of RL, where that is neither learned nor the task's own.
    """

    id: str
    task: Task
    model: Model
    config: TuneConfig
    start: Start | None
    run: Run
    observer: Observer
    keeper: RunKeeper
    watch: Stopwatch
    evaluator: EvaluatorReward | None = None

    @property
    def how(self) -> How:
        """What every stage is told alike."""
        technique = Technique(self.config.optimizer, self.config.remat, self.config.accumulate)
        return How(technique=technique, seed=self.config.seed, observer=self.observer, keeper=self.keeper)

    @property
    def given(self) -> tuple[str, ...]:
        """The roles that come from the run that this one starts from."""
        return () if self.start is None else self.start.roles

    def begun(self) -> Roles:
        """The roles before any training, those that are given in their place, and what SFT goes on with."""
        roles, config = attach(self.model, self.config), self.model.config
        if self.start is not None:
            return load_start(roles, self.start, config)
        if self.config.lora.experts:
            return roles.mixed("sft", mixture_of(self.config.lora, self.model))
        reference = self.config.sft.start_from
        return load_role(folder_of(reference), roles, "sft", config) if reference else roles

    def stage(self, name: str, learned: Sequence[str], roles: Roles, learn: Callable[[], Roles]) -> Roles:
        """The roles after a stage, which makes the `learned` ones: as `learn` trains them, unless they were given.

        Of a stage that an earlier attempt has finished, they are read. Raises UserError if they are others now.
        """
        if self.keeper.finished(name):
            return self.keeper.read(name, learned, roles, self.model.config)
        if not set(learned) <= set(self.given):
            with self.watch.of(name):
                roles = learn()
        self.run.save(roles, self.model.config, *learned)
        self.keeper.finish(name, learned)
        return roles


def attach(model: Model, config: TuneConfig) -> Roles:
    """The roles before any training: `sft` and reward models equal the backbone, and so does `value` where it has
    adapters of its own; `policy`, and otherwise `value`, start from `sft`.

    Several reward models begin with the same factors and one head.
    """
    first, second, third = jax.random.split(jax.random.key(config.seed), 3)
    roles = _attached(role_table.only_backbone(model.state), "sft", model, config, first)
    width = model.config.decoder.width
    head = jax.random.normal(third, (width,)) * width**-0.5
    for judge in members_of(config.reward):
        roles = _attached(roles, judge, model, config, second).with_head(judge, head)
    if config.mode == "lora" and "value" in config.lora.fresh:
        roles = _attached(roles, "value", model, config, jax.random.fold_in(first, 1))
    return roles


def _attached(roles: Roles, role: str, model: Model, config: TuneConfig, key: jax.Array) -> Roles:
    """The roles with one more that equals the backbone."""
    if config.mode == "full":
        return roles.start(role, BACKBONE)
    lora = config.lora
    rank, targets = lora.fresh[role.partition("-")[0]]
    return role_table.new_slot_role(
        roles,
        role,
        model.config,
        rank=rank,
        alpha=lora.alpha,
        targets=targets,
        key=key,
        scaling=lora.scaling,
        kind=lora.kind,
    )
