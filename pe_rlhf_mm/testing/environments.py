"""Checks of an environment, by playing it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from pe_rlhf_mm.envs.actions import LONGEST_REPLY, UIAction
from pe_rlhf_mm.testing.problems import Problems, check_messages, check_replies
from pe_rlhf_mm.types import Environment, Image, Sample, Step, Text

NONSENSE = ("no action of any environment {]", "", "far too long " * LONGEST_REPLY)

INFO: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "action": (lambda value: isinstance(value, UIAction), "the UIAction that was carried out"),
    "action_error": (lambda value: isinstance(value, str) and value != "", "what is wrong with the action, in words"),
    "lost": (lambda value: isinstance(value, str) and value != "", "what has failed, in words"),
    "replays": (lambda value: type(value) is int and value >= 0, "how often the episode was replayed"),
}
"""The keys of a step's info that others read, what is right there, and how that is said."""

Solve = Callable[[Sample], Sequence[str] | None]
Seen = tuple[object, ...]


def check_env(
    environment: Environment, samples: Sequence[Sample], *, solve: Solve | None = None, seed: int = 0, n: int = 4
) -> list[str]:
    """The problems of an environment, played with nonsense and, where `solve` knows replies, to the end.

    `solve` may have to play for its replies: it is asked once for each of `n` samples. An episode that is lost to a
    fault is a problem too, since nothing is known about that sample then, and no other one is made of it.
    """
    problems = Problems()
    if not problems.expect(
        isinstance(environment, Environment),
        f"the environment is a {type(environment).__name__}; expected an object with reset, step and close",
    ):
        return problems
    for sample in samples[:n]:
        _play_twice(environment, sample, NONSENSE, seed, "with replies that are no actions", problems)
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
    """The steps of an episode, or None if it broke or was lost; a second one must go the same way."""
    what = f"sample {sample.id!r}, played {how},"
    before = len(problems)
    with problems.during(what):
        steps = _play(environment, sample, replies, seed, what, problems)
        again = _play(environment, sample, replies, seed, what, problems) if len(problems) == before else []
        if len(problems) == before:
            problems.expect(
                list(map(_seen, steps)) == list(map(_seen, again)),
                f"{what} goes another way when it is reset with the same seed; episodes must be reproducible",
            )
            return steps
    return None


def _seen(step: Step) -> Seen:
    """What two episodes must have in common: texts, pixels of pictures, rewards and signals."""
    messages = tuple((message.role, *map(_content, message.parts)) for message in step.observation)
    return messages, step.reward, step.terminated, step.truncated


def _content(part: Text | Image) -> Seen:
    """A text, or a picture by its size and a digest of its pixels: one picture may come in several forms."""
    if isinstance(part, Text):
        return (part.text,)
    from pe_rlhf_mm.data.images import open_image

    picture = open_image(part)
    return picture.size, hashlib.sha256(picture.tobytes()).digest()


def _play(
    environment: Environment, sample: Sample, replies: Sequence[str], seed: int, what: str, problems: Problems
) -> list[Step]:
    """The steps of an episode, checked, up to its end, to the last reply, or to something that is no step."""
    steps: list[Step] = []
    for turn in range(len(replies) + 1):
        step = environment.step(replies[turn - 1]) if turn else environment.reset(sample, seed=seed)
        if not _check_step(step, f"step {turn} of sample {sample.id!r}", problems):
            break
        steps.append(step)
        if "lost" in step.info:
            problems.append(f"{what} was lost in step {turn}, and is not known to be right: {step.info['lost']}")
        if step.terminated or step.truncated or "lost" in step.info:
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
    return _check_info(step, what, problems)


def _check_info(step: Step, what: str, problems: Problems) -> bool:
    """Whether info can be looked into; what is wrong with the keys that others read is noted."""
    info = step.info
    if not problems.expect(isinstance(info, Mapping), f"{what}: info is {info!r:.80}; expected a mapping"):
        return False
    for key, (right, expected) in INFO.items():
        if key in info:
            problems.expect(right(info[key]), f"{what}: info has {key!r}: {info[key]!r:.80}; expected {expected}")
    if "lost" in info:
        problems.expect(
            not step.observation and step.reward == 0 and step.truncated and not step.terminated,
            f"{what} is lost, and must be truncated, not terminated, and have no observation and no reward",
        )
    return True
