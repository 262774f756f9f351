"""How far a stage has come, and who keeps it so that a run that was killed goes on from there."""

from __future__ import annotations

from typing import Generic, NamedTuple, Protocol

from pe_rlhf_mm.adapters.roles import Learned
from pe_rlhf_mm.training.step import TrainState


class Reached(NamedTuple, Generic[Learned]):
    """The state after a step, and the best that was validated before it, if there is one.

    `coefficient`: what the next batch is drawn with, of a stage whose drawing has one.
    """

    state: TrainState[Learned]
    best: Learned | None = None
    best_score: float = float("-inf")
    coefficient: float = 0.0


class Keeper(Protocol):
    def begin(self, stage: str, fresh: Reached[Learned]) -> Reached[Learned]:
        """Where a stage goes on: as it was kept, or `fresh` if nothing is kept of it."""

    def step(self, stage: str, reached: Reached[Learned]) -> None:
        """The last step on a batch is done. Whether it is kept the keeper decides; the next gives the weights away."""


class Forgetful:
    """Keeps nothing."""

    def begin(self, stage: str, fresh: Reached[Learned]) -> Reached[Learned]:
        """Every stage begins where it begins."""
        return fresh

    def step(self, stage: str, reached: Reached[Learned]) -> None: ...
