"""A reward model as a user holds it: conversations and replies in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pe_rlhf_mm.adapters.averages import with_average
from pe_rlhf_mm.adapters.files import load_role
from pe_rlhf_mm.adapters.origin import fingerprints, read_origin
from pe_rlhf_mm.adapters.roles import Roles, only_backbone
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import Processor
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.json_files import read_json
from pe_rlhf_mm.models.model import Model
from pe_rlhf_mm.reports.records import at
from pe_rlhf_mm.rollout.load import load_run_role
from pe_rlhf_mm.training.judged import judge
from pe_rlhf_mm.training.jury import ALONE, Jury, jury_of, settings_in
from pe_rlhf_mm.training.reward import score
from pe_rlhf_mm.types import Message, Rated, Reply


@dataclass(frozen=True, repr=False)
class RewardModel:
    """A model with the role `reward`, or with several of which a jury combines the words, heads included."""

    processor: Processor
    roles: Roles
    name: str
    jury: Jury = ALONE

    def __repr__(self) -> str:
        """One line: weights would be thousands."""
        return f"RewardModel({self.name!r}, of {self.processor.config.name})"

    def score(self, conversations: Sequence[Sequence[Message]], replies: Sequence[Reply]) -> Float[np.ndarray, " N"]:
        """The score of each reply to its conversation, as in training: deviations of the validation replies' scores.

        Raises UserError for as many replies as there are not conversations, PromptTooLong, ImageError.
        """
        if len(conversations) != len(replies):
            raise UserError(
                f"{len(replies)} replies were given to {len(conversations)} conversations; expected as many."
            )
        if not replies:
            return np.zeros(0, np.float32)
        gallery = Gallery(self.processor.config)
        asked = [Rated(messages, reply, 1.0) for messages, reply in zip(conversations, replies, strict=True)]
        examples = judge(asked, self.processor, gallery, room=1)
        return score(self.roles, self.processor, gallery, [example.rows for example in examples], self.jury)[:, 0]


def average_rewards(models: Sequence[RewardModel], shares: Sequence[float] | None = None) -> RewardModel:
    """One reward model whose update and head are the mean of those of others (WARM), or, by `shares`, lie between them.

    Raises UserError for models over other weights, of other shapes, of mode full, and for ensembles: these have no
    update of their own.
    """
    first, names = models[0], [f"reward-{number}" for number in range(1, len(models) + 1)]
    here = fingerprints(first.roles.backbone)
    for model in models:
        if fingerprints(model.roles.backbone) != here:
            raise UserError(f"{model.name} is over other weights than {first.name}, so the two have no average.")
        if len(model.jury.roles) > 1 or model.jury.roles[0] not in model.roles.slots:
            raise UserError(f"{model.name} is no single adapter, and only those have an average.")
    own = [(model.roles, model.jury.roles[0]) for model in models]
    roles = first.roles._replace(
        slots={name: roles.slots[role] for name, (roles, role) in zip(names, own, strict=True)},
        scales={name: roles.scales[role] for name, (roles, role) in zip(names, own, strict=True)},
        heads={name: roles.heads[role] for name, (roles, role) in zip(names, own, strict=True)},
    )
    told = f"the average of {', '.join(model.name for model in models)}"
    return RewardModel(first.processor, with_average(roles, "reward", names, shares), told)


def load_run_reward(run: str | Path) -> RewardModel:
    """The reward model of a run folder, over the model that the run was of. Raises UserError if it has none."""
    jury = _jury_in(Path(run))
    found = load_run_role(Path(run), jury.roles[0])
    model, roles = found.model, found.roles
    for role in jury.roles[1:]:
        roles = load_role(Path(run) / "adapters" / role, roles, role, model.config)
    return RewardModel(model.processor, roles, f"{run}:reward", jury)


def _jury_in(run: Path) -> Jury:
    """Whose word a run's reward is."""
    told = at(read_json(run / "config.json"), "settings", "reward") if (run / "config.json").is_file() else None
    return jury_of(settings_in(told))._replace(control=None)


def load_reward(model: Model, folder: str | Path) -> RewardModel:
    """The reward model that was exported to a folder (or lies in `adapters/reward` of a run), over its backbone.

    Raises UserError if it has no head, is another role, or was trained on another model.
    """
    origin = read_origin(Path(folder))
    if origin is not None and origin.role.partition("-")[0] != "reward":
        raise UserError(f"{folder} holds the role {origin.role}, and no reward model. Export it with --role reward.")
    roles = load_role(Path(folder), only_backbone(model.state), "reward", model.config)
    return RewardModel(model.processor, roles, f"{model.name}+{folder}")
