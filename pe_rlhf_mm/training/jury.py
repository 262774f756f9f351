"""Who says what a reply is worth: one reward model, or several whose words are combined, and a control beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pe_rlhf_mm.algorithms.ensembles import ENSEMBLES
from pe_rlhf_mm.training.config import RewardConfig


class Jury(NamedTuple):
    """The roles whose words are combined, by one of ENSEMBLES, and one that says what it thinks and is not asked."""

    roles: tuple[str, ...] = ("reward",)
    combine: str = "mean"
    doubt: float = 0.0
    control: str | None = None

    @property
    def readers(self) -> tuple[str, ...]:
        """All that read replies."""
        return self.roles if self.control is None else (*self.roles, self.control)

    def verdict(self, said: Mapping[str, Float[Any, "*n"]]) -> Float[Array, "*n"]:
        """Of what each role said, arrays of one shape, what counts."""
        return ENSEMBLES[self.combine](jnp.stack([said[role] for role in self.roles]), self.doubt)

    def aside(self, said: Mapping[str, Float[Any, "*n"]]) -> dict[str, Float[Array, "*n"]]:
        """What is measured beside the verdict: how far several roles differ, and the control's word."""
        differ = {"disagreement": self.disagreement(said)} if len(self.roles) > 1 else {}
        return differ if self.control is None else {**differ, "control": said[self.control]}

    def disagreement(self, said: Mapping[str, Float[Any, "*n"]]) -> Float[Array, "*n"]:
        """The standard deviation of what the roles said of each reply."""
        return jnp.stack([said[role] for role in self.roles]).std(axis=0)


ALONE = Jury()
"""The role `reward`."""


def members_of(settings: RewardConfig) -> tuple[str, ...]:
    """The roles that are trained: `reward`, or one a member, counted from 1."""
    if settings.members == 1:
        return ("reward",)
    return tuple(f"reward-{number}" for number in range(1, settings.members + 1))


def jury_of(settings: RewardConfig) -> Jury:
    """Whose word the reward is of what is trained by these settings."""
    members = members_of(settings)
    control = members[-1] if settings.control else None
    if settings.members == 1 or settings.combine == "warm":
        return Jury(control=control)
    asked = members[:-1] if settings.control else members
    return Jury(asked, settings.combine, settings.doubt, control)


def made_by(settings: RewardConfig) -> tuple[str, ...]:
    """The roles that a training of reward models leaves behind: its members, and their average where there is one."""
    members, jury = members_of(settings), jury_of(settings)
    return (*jury.roles, *(member for member in members if member not in jury.roles))


def missing(settings: RewardConfig, given: Collection[str]) -> bool:
    """Whether reward models are to be trained, since not all of them are given."""
    return not set(made_by(settings)) <= set(given)


def settings_in(told: object) -> RewardConfig:
    """Of the section `reward` of a run's config.json, what says who is asked; a release may have had no members yet."""
    names = ("members", "combine", "doubt", "control")
    return RewardConfig(**{name: told[name] for name in names if name in told} if isinstance(told, dict) else {})
