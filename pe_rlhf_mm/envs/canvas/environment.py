"""Screens to act on: what a policy says becomes an action, and the next picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pe_rlhf_mm.envs.actions import ActionError, Dialect, UIAction, codec
from pe_rlhf_mm.envs.canvas.layout import SIDE
from pe_rlhf_mm.envs.canvas.problem import Problem
from pe_rlhf_mm.types import Image, Message, Sample, Step, Text

SIZE = (SIDE, SIDE)
"""Pixels of a screenshot, across and down."""
GIVING_UP = ("done", "infeasible")
"""Actions that end an episode; a solved one has ended before."""


class CanvasEnv:
    """The problem of a sample as an episode: reward 1 when it is solved, 0 when it is lost or given up.

    Each step shows the screen; a reply that is no action, or an action that cannot be carried out, leaves it as it is
    and is answered with a line that says why. After `max_steps` replies the episode ends, and has failed.
    """

    def __init__(self, problem: Callable[[Sample], Problem], *, dialect: Dialect = "percent", max_steps: int = 8):
        """`problem`: makes a fresh problem of a sample, the same one each time."""
        self._make, self._codec, self._max_steps = problem, codec(dialect), max_steps
        self._problem: Problem | None = None

    def reset(self, sample: Sample, *, seed: int) -> Step:
        """The screen and the goal; all that is random comes from the sample."""
        self._problem, self._replies = self._make(sample), 0
        return Step([self._seen(self._problem, self._problem.goal)])

    def step(self, reply: str) -> Step:
        """Carries out a reply. Raises RuntimeError where no episode is going on."""
        problem = self._problem
        if problem is None:
            raise RuntimeError("no episode is going on: call reset first")
        self._replies += 1
        info: dict[str, Any] = {}
        try:
            info["action"] = self._act(problem, reply)
        except ActionError as error:
            info["action_error"] = str(error)
        solved = problem.verdict
        ended = solved is not None or ("action" in info and info["action"].kind in GIVING_UP)
        if not ended and self._replies >= self._max_steps:
            ended, info["out_of_steps"] = True, True
        if ended:
            self._problem = None
        seen = self._seen(problem, info.get("action_error"))
        return Step([seen], float(solved is True), terminated=ended, info=info)

    def close(self) -> None:
        """Nothing to close."""
        self._problem = None

    def _act(self, problem: Problem, reply: str) -> UIAction:
        """Raises ActionError for a reply that is no action, and for one that cannot be carried out."""
        action = self._codec.parse(reply, SIZE)
        if action.kind not in GIVING_UP:
            problem.screen.act(action)
        return action

    def _seen(self, problem: Problem, said: str | None) -> Message:
        picture = Image(problem.screen.draw())
        return Message("user", (picture,) if said is None else (picture, Text(said)))
