"""The stage of a run in which reward models are trained: one, or several members at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pe_rlhf_mm.adapters.roles import Roles
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.training.job import Job
from pe_rlhf_mm.training.jury import made_by
from pe_rlhf_mm.training.members import train_members
from pe_rlhf_mm.training.reward import Judged, train_reward_model


def reward_stage(
    job: Job, roles: Roles, gallery: Gallery, examples: Sequence[Judged], validation: Sequence[Judged]
) -> Roles:
    """The roles with the reward models of a job: as they are trained, or as they were given."""
    settings = job.config.reward
    recipe = train_members if settings.members > 1 else train_reward_model
    learn = functools.partial(recipe, roles, job.model.processor, gallery, examples, validation, settings)
    return job.stage("reward_model", made_by(settings), roles, lambda: learn(**job.how))
