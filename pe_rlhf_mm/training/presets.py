"""Which settings a task is tuned with when the user says nothing."""

from __future__ import annotations

from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.training.config import TuneConfig
from pe_rlhf_mm.types import Task


def settings_of(task: Task) -> TuneConfig:
    """The task's own settings, its attribute `tuning`, or the paper's defaults."""
    tuning = getattr(task, "tuning", TuneConfig())
    if not isinstance(tuning, TuneConfig):
        raise UserError(f"{type(task).__name__}.tuning must be a TuneConfig, not a {type(tuning).__name__}")
    return tuning
