"""Checks of an environment, by playing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real

from pe_rlhf_mm.testing.problems import Problems, check_messages, check_replies
from pe_rlhf_mm.types import Environment, Sample, Step

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
        _play_twice(environment, sample, [NONSENSE, ""], seed, "with replies that are no actions", problems)
        if solve is None:
            continue
        with problems.during(f"solve() of sample {sample.id!r}"):
            replies = solve(sample)
            if check_replies(replies, f"solve() of sample {sample.id!r}", problems) and replies is not None:
                _check_solution(environment, sample, replies, seed, problems)
    for _ in range(2):
        with problems.during("close(), which may be called twice,"):
            environment.close()
    return problems


def _check_solution(
    environment: Environment, sample: Sample, replies: Sequence[str], seed: int, problems: Problems
) -> None:
    steps = _play_twice(environment, sample, replies, seed, "with its solution", problems)
    if steps is not None:
        what = f"sample {sample.id!r}"
        problems.expect(steps[-1].terminated, f"{what} is not terminated after its solution {list(replies)}")
        total = sum(step.reward for step in steps)
        problems.expect(total > 0, f"{what} earns {total} by its solution; expected more than 0")


def _play_twice(
    environment: Environment, sample: Sample, replies: Sequence[str], seed: int, how: str, problems: Problems
) -> list[Step] | None:
    """The steps of an episode, or None if it broke; a second one must go the same way."""
    what = f"sample {sample.id!r}, played {how},"
    with problems.during(what):
        before = len(problems)
        steps = _play(environment, sample, replies, seed, problems)
        if len(problems) == before:
            again = _play(environment, sample, replies, seed, problems)
            problems.expect(
                [(s.observation, s.reward) for s in steps] == [(s.observation, s.reward) for s in again],
                f"{what} goes another way when it is reset with the same seed; episodes must be reproducible",
            )
            return steps
    return None


def _play(
    environment: Environment, sample: Sample, replies: Sequence[str], seed: int, problems: Problems
) -> list[Step]:
    """The steps of an episode, checked, up to its end, to the last reply, or to something that is no step."""
    steps: list[Step] = []
    for turn in range(len(replies) + 1):
        step = environment.step(replies[turn - 1]) if turn else environment.reset(sample, seed=seed)
        if not _check_step(step, f"step {turn} of sample {sample.id!r}", problems):
            break
        steps.append(step)
        if step.terminated or step.truncated:
            break
    return steps


def _check_step(step: Step, what: str, problems: Problems) -> bool:
    """Whether it is a step at all; what is wrong with its contents is noted."""
    if not problems.expect(isinstance(step, Step), f"{what} is a {type(step).__name__}; expected pe_rlhf_mm.Step"):
        return False
    for signal in ("terminated", "truncated"):
        value = getattr(step, signal)
        problems.expect(isinstance(value, bool), f"{what}: {signal} is {value!r:.80}; expected True or False")
    problems.expect(
        isinstance(step.reward, Real) and math.isfinite(step.reward),
        f"{what}: the reward is {step.reward!r:.80}; expected a finite number",
    )
    if step.observation or not (step.terminated or step.truncated):
        check_messages(step.observation, what, problems)
    return True
