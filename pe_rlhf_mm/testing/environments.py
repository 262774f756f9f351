"""Checks of an environment, by playing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pe_rlhf_mm.testing.problems import Problems, check_messages
from pe_rlhf_mm.types import Environment, Sample, Step

MAX_TURNS = 32
NONSENSE = "no action of any environment {]"

Solve = Callable[[Sample], Sequence[str] | None]


def check_env(
    environment: Environment, samples: Sequence[Sample], *, solve: Solve | None = None, seed: int = 0, n: int = 4
) -> list[str]:
    """The problems of an environment, played with nonsense and, where `solve` knows replies, to the end."""
    problems = Problems()
    if not problems.expect(
        isinstance(environment, Environment),
        f"the environment is a {type(environment).__name__}; expected an object with reset, step and close",
    ):
        return problems
    for sample in samples[:n]:
        replies = solve(sample) if solve is not None else None
        what = f"sample {sample.id!r}"
        with problems.during(f"a reply that is no action, in {what},"):
            _play(environment, sample, [NONSENSE, ""], seed, problems)
        if replies is not None:
            with problems.during(f"the solution of {what}"):
                steps, again = (_play(environment, sample, replies, seed, problems) for _ in range(2))
                problems.expect(steps[-1].terminated, f"{what} is not terminated after its solution {list(replies)}")
                total = sum(step.reward for step in steps)
                problems.expect(total > 0, f"{what} earns {total} by its solution; expected more than 0")
                problems.expect(
                    [(s.observation, s.reward) for s in steps] == [(s.observation, s.reward) for s in again],
                    f"{what} goes another way when it is reset with the same seed; episodes must be reproducible",
                )
    for _ in range(2):
        with problems.during("close(), which may be called twice,"):
            environment.close()
    return problems


def _play(
    environment: Environment, sample: Sample, replies: Sequence[str], seed: int, problems: Problems
) -> list[Step]:
    """The steps of an episode, checked, up to its end or to the last reply."""
    steps = [environment.reset(sample, seed=seed)]
    for reply in replies[:MAX_TURNS]:
        if steps[-1].terminated or steps[-1].truncated:
            break
        steps.append(environment.step(reply))
    for number, step in enumerate(steps):
        what = f"step {number} of sample {sample.id!r}"
        if not problems.expect(isinstance(step, Step), f"{what} is a {type(step).__name__}; expected pe_rlhf_mm.Step"):
            continue
        for signal in ("terminated", "truncated"):
            problems.expect(isinstance(getattr(step, signal), bool), f"{what}: {signal} must be True or False")
        problems.expect(math.isfinite(step.reward), f"{what}: the reward is {step.reward}")
        if step.observation or not (step.terminated or step.truncated):
            check_messages(step.observation, what, problems)
    return steps
