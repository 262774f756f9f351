"""The checks of environments: the toy passes, and what is broken in one way is reported in that way and no other."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import pytest

from pe_rlhf_mm.envs.episode import play
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.testing import ToyEnvironment, ToyTask, check_env, check_task
from pe_rlhf_mm.types import Message, Sample, Step

ASK = Message("user", "Count.")
SAMPLES = [Sample("two", [ASK], target=2), Sample("minus", [ASK], target=-1)]


def solve(sample: Sample) -> Sequence[str]:
    return ["up" if sample.target > 0 else "down"] * abs(sample.target) + ["done"]


def test_the_toy_environment_conforms() -> None:
    assert check_env(ToyEnvironment(), SAMPLES, solve=solve) == []
    assert check_env(ToyEnvironment(), SAMPLES) == []
    assert check_env(ToyEnvironment(), SAMPLES, solve=lambda sample: None) == []


def test_an_episode_of_the_toy_environment_can_be_played() -> None:
    replies = iter(["up", "left", "up", "done"])
    outcome = play(lambda messages: next(replies), ToyEnvironment(), SAMPLES[0], seed=0)
    assert [step.reward for step in outcome.steps] == [0, 0, 0, 0, 1]
    assert [step.terminated for step in outcome.steps] == [False, False, False, False, True]
    assert outcome.steps[2].info == {"action_error": "no action 'left'"}


class Counting(ToyTask):
    """A task that is played."""

    def __init__(self, environment: Any):
        self.environment = lambda: environment

    def samples(self, split: str, *, seed: int = 0) -> Any:
        if split not in self.SIZES:
            raise UserError(f"no split {split!r}")
        return [Sample(f"{split}-{n}", [ASK], target=n) for n in range(1, 4)]

    preferences = None
    solve = staticmethod(solve)


def test_a_task_is_checked_together_with_its_environment() -> None:
    assert check_task(Counting(ToyEnvironment())) == []
    problems = check_task(Counting(WithoutSignals()))
    assert len(problems) == 3
    assert all("is not terminated after its solution" in problem for problem in problems)


class FailsAtNonsense(ToyEnvironment):
    def step(self, reply: str) -> Step:
        self.count += {"up": 1, "down": -1, "done": 0}[reply]
        return Step([], 1.0, terminated=True) if reply == "done" else Step([ASK])


class FailsAtReset(ToyEnvironment):
    def reset(self, sample: Sample, *, seed: int) -> Step:
        raise RuntimeError("no display")


class GivesNoStep(ToyEnvironment):
    def step(self, reply: str) -> Any:
        return "the counter stands at 1"


class ResetsToNothing(ToyEnvironment):
    def reset(self, sample: Sample, *, seed: int) -> Any:
        super().reset(sample, seed=seed)


class ShowsNothing(ToyEnvironment):
    def reset(self, sample: Sample, *, seed: int) -> Step:
        super().reset(sample, seed=seed)
        return Step([])


class SpeaksForThePolicy(ToyEnvironment):
    def reset(self, sample: Sample, *, seed: int) -> Step:
        return Step([*super().reset(sample, seed=seed).observation, Message("assistant", "up")])


class Ends(ToyEnvironment):
    """Changes the step that ends an episode."""

    def ended(self, step: Step) -> Step:
        return step

    def step(self, reply: str) -> Step:
        step = super().step(reply)
        return self.ended(step) if step.terminated else step


class WithoutSignals(Ends):
    def ended(self, step: Step) -> Step:
        return Step([ASK], step.reward)


class CutsInstead(Ends):
    def ended(self, step: Step) -> Step:
        return Step([], step.reward, truncated=True)


class SignalsWithNumbers(Ends):
    def ended(self, step: Step) -> Step:
        return Step([], step.reward, terminated=1)  # type: ignore[arg-type]


class CutsWithWords(Ends):
    def ended(self, step: Step) -> Step:
        return Step([], step.reward, terminated=True, truncated="no")  # type: ignore[arg-type]


class EarnsNothing(Ends):
    def ended(self, step: Step) -> Step:
        return Step([], 0.0, terminated=True)


class EarnsNoNumber(Ends):
    def ended(self, step: Step) -> Step:
        return Step([], float("nan"), terminated=True)


class EarnsWords(Ends):
    def ended(self, step: Step) -> Step:
        return Step([], "much", terminated=True)  # type: ignore[arg-type]


class EarnsByChance(Ends):
    def ended(self, step: Step) -> Step:
        return Step([], 1 + random.random(), terminated=True)


class ShowsByChance(ToyEnvironment):
    def reset(self, sample: Sample, *, seed: int) -> Step:
        super().reset(sample, seed=seed)
        return Step([Message("user", f"Episode {random.random()}")])


class Remembers(ToyEnvironment):
    """A second episode starts where the first one ended."""

    def reset(self, sample: Sample, *, seed: int) -> Step:
        count = getattr(self, "count", 0)
        step = super().reset(sample, seed=seed)
        self.count = count
        return step


class ClosesOnce(ToyEnvironment):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (object(), "the environment is a object; expected an object with reset, step and close"),
        (FailsAtNonsense(), "sample '.*', played with replies that are no actions, raised KeyError: 'no action"),
        (FailsAtReset(), "sample '.*', played with .*, raised RuntimeError: no display"),
        (GivesNoStep(), "step 1 of sample '.*' is a str; expected pe_rlhf_mm.Step"),
        (ResetsToNothing(), "step 0 of sample '.*' is a NoneType; expected pe_rlhf_mm.Step"),
        (ShowsNothing(), r"step 0 of sample '.*': messages is \[\]"),
        (SpeaksForThePolicy(), "step 0 of sample '.*' ends with the assistant"),
        (WithoutSignals(), "is not terminated after its solution"),
        (CutsInstead(), "is not terminated after its solution"),
        (SignalsWithNumbers(), "step . of sample '.*': terminated is 1; expected True or False"),
        (CutsWithWords(), "step . of sample '.*': truncated is 'no'; expected True or False"),
        (EarnsNothing(), "earns 0.0 by its solution; expected more than 0"),
        (EarnsNoNumber(), "step . of sample '.*': the reward is nan; expected a finite number"),
        (EarnsWords(), "step . of sample '.*': the reward is 'much'; expected a finite number"),
        (EarnsByChance(), "played with its solution, goes another way when it is reset with the same seed"),
        (ShowsByChance(), "goes another way when it is reset with the same seed"),
        (Remembers(), "goes another way when it is reset with the same seed|earns 0.0 by its solution"),
        (ClosesOnce(), "close.., which may be called twice, raised RuntimeError: closed already"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_wrong_with_an_environment_is_reported_and_nothing_else(environment: Any, said: str) -> None:
    problems = check_env(environment, SAMPLES, solve=solve)
    assert problems
    for problem in problems:
        assert re.search(said, problem), problem


@pytest.mark.parametrize(("replies", "said"), [("done", "gave 'done'"), ([3], r"gave \[3\]"), (7, "gave 7")])
def test_a_solution_that_is_no_list_of_replies_is_reported(replies: Any, said: str) -> None:
    (problem,) = check_env(ToyEnvironment(), SAMPLES[:1], solve=lambda sample: replies)
    assert re.search(f"solve.. of sample 'two' {said}; expected a list of replies", problem)


def test_an_error_in_solve_is_reported_as_one_of_solve() -> None:
    def broken(sample: Sample) -> Sequence[str]:
        raise ZeroDivisionError("oh")

    assert check_env(ToyEnvironment(), SAMPLES[:1], solve=broken) == [
        "solve() of sample 'two' raised ZeroDivisionError: oh"
    ]
