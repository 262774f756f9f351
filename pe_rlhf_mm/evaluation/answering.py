"""What a policy says to samples: replies, or whole episodes where the task has an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm.envs.pool import pool_of
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.episodes import play_samples
from pe_rlhf_mm.types import Message, Outcome, Sample, Task

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy

PolicyFunction = Callable[[Sequence[Message]], str]
Keep = Callable[[int, Outcome], None]
"""Hears of every outcome when it is finished, and the number of its sample."""
CHUNK = 512


def answer(
    task: Task,
    policy: Policy | PolicyFunction,
    samples: Sequence[Sample],
    seeds: Sequence[int],
    *,
    environments: int,
    max_tokens: int,
    keep: Keep,
) -> None:
    """Lets a policy answer samples of a task; `seeds` are those of their episodes, where there are any."""
    pool = pool_of(task, environments) if samples else None
    if pool is None:
        run_policy(policy, samples, max_tokens=max_tokens, keep=keep)
    else:
        with pool:
            play_samples(policy, pool, samples, seeds, max_tokens=max_tokens, keep=keep)


def facts_of(policy: Any) -> dict[str, Any]:
    """What a log says of a Policy or a plain function: its name, and what it is known again by.

    A function is known by its name alone.
    """
    if hasattr(policy, "fingerprint"):
        return {"policy": policy.name, "fingerprint": policy.fingerprint()}
    name = f"{getattr(policy, '__module__', '?')}:{getattr(policy, '__qualname__', type(policy).__name__)}"
    return {"policy": name, "fingerprint": name}


def run_policy(
    policy: Policy | PolicyFunction, samples: Sequence[Sample], *, max_tokens: int, keep: Keep | None = None
) -> list[Outcome]:
    """Greedy replies of a policy, or of a plain function, to single-turn samples."""
    outcomes: list[Outcome] = []
    chunk = CHUNK if hasattr(policy, "generate") else 1
    for start in range(0, len(samples), chunk):
        block = samples[start : start + chunk]
        answered = [Outcome(s, [r]) for s, r in zip(block, _replies(policy, block, max_tokens), strict=True)]
        outcomes += answered
        if keep is not None:
            for number, outcome in enumerate(answered, start=start):
                keep(number, outcome)
    return outcomes


def _replies(policy: Policy | PolicyFunction, samples: Sequence[Sample], max_tokens: int) -> Iterable[str]:
    if hasattr(policy, "generate"):
        return [group[0] for group in policy.generate([s.messages for s in samples], max_tokens=max_tokens)]
    replies = []
    for sample in samples:
        try:
            reply = policy(sample.messages)
        except Exception as error:
            error.add_note(f"(the policy was answering sample {sample.id})")
            raise
        if not isinstance(reply, str):
            raise UserError(
                f"the policy answered sample {sample.id} with a {type(reply).__name__}; a string was expected"
            )
        replies.append(reply)
    return replies
