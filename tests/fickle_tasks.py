"""Tasks where every reply earns something of its own: rewards and scores move as soon as a policy does."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from pe_rlhf_mm.envs.canvas.environment import CanvasEnv
from pe_rlhf_mm.tasks.canvas.press import Press
from pe_rlhf_mm.testing import ToyTask
from pe_rlhf_mm.types import Outcome, Score, Step


def worth(reply: str) -> float:
    """A number between 0 and 1."""
    return hashlib.sha256(reply.encode()).digest()[0] / 255


class Fickle:
    """What the replies are worth together."""

    def score(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> list[Score]:
        return [Score(worth("".join(outcome.replies))) for outcome in outcomes]


class Pictures(ToyTask):
    evaluators: Sequence[str] = ("fickle_tasks:Fickle",)


class Earning(CanvasEnv):
    def step(self, reply: str) -> Step:
        return dataclasses.replace(super().step(reply), reward=worth(reply))


class Canvas(Press):
    evaluators: Sequence[str] = ("fickle_tasks:Fickle",)

    def environment(self) -> CanvasEnv:
        return Earning(self.problem, dialect=self.dialect, max_steps=self.max_steps)
