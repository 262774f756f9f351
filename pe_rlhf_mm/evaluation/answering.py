"""What a policy says to samples: replies, or whole episodes where the task has an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm.envs.pool import pool_of
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.evaluation.attempts import Attempt
from pe_rlhf_mm.evaluation.episodes import play_samples
from pe_rlhf_mm.types import Message, Outcome, Task

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy

PolicyFunction = Callable[[Sequence[Message]], str]
Keep = Callable[[int, Outcome], None]
"""Hears of every outcome when it is finished, and the number of its attempt."""
CHUNK = 512


def answer(
    task: Task,
    policy: Policy | PolicyFunction,
    attempts: Sequence[Attempt],
    *,
    environments: int,
    max_tokens: int,
    temperature: float,
    keep: Keep,
) -> None:
    """Lets a policy answer samples of a task, greedily at temperature 0."""
    pool = pool_of(task, environments) if attempts else None
    if pool is None:
        run_policy(policy, attempts, max_tokens=max_tokens, temperature=temperature, keep=keep)
    else:
        with pool:
            play_samples(policy, pool, attempts, max_tokens=max_tokens, temperature=temperature, keep=keep)


def refuse_equal_tries(policy: Policy | PolicyFunction, repeats: int, temperature: float) -> None:
    """Raises UserError for replies that would all be the same, or a temperature for what draws by itself."""
    if hasattr(policy, "generate") and repeats > 1 and temperature == 0:
        raise UserError(f"{repeats} greedy replies are the same reply. Give a temperature, as 0.7.")
    if not hasattr(policy, "generate") and temperature != 0:
        raise UserError("a function as policy draws its own replies, and takes no temperature.")


def facts_of(policy: Any) -> dict[str, Any]:
    """What a log says of a Policy or a plain function: its name, and what it is known again by.

    A function is known by its name alone.
    """
    if hasattr(policy, "fingerprint"):
        return {"policy": policy.name, "fingerprint": policy.fingerprint()}
    name = f"{getattr(policy, '__module__', '?')}:{getattr(policy, '__qualname__', type(policy).__name__)}"
    return {"policy": name, "fingerprint": name}


def run_policy(
    policy: Policy | PolicyFunction,
    attempts: Sequence[Attempt],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    keep: Keep | None = None,
) -> list[Outcome]:
    """Replies of a policy, or of a plain function, to single-turn samples."""
    outcomes: list[Outcome] = []
    chunk = CHUNK if hasattr(policy, "generate") else 1
    for start in range(0, len(attempts), chunk):
        block = attempts[start : start + chunk]
        replies = _replies(policy, block, max_tokens, temperature)
        answered = [Outcome(a.sample, [reply], repeat=a.repeat) for a, reply in zip(block, replies, strict=True)]
        outcomes += answered
        if keep is not None:
            for number, outcome in enumerate(answered, start=start):
                keep(number, outcome)
    return outcomes


def _replies(
    policy: Policy | PolicyFunction, attempts: Sequence[Attempt], max_tokens: int, temperature: float
) -> Iterable[str]:
    samples = [attempt.sample for attempt in attempts]
    if hasattr(policy, "generate"):
        asked, seeds = [sample.messages for sample in samples], [attempt.draws for attempt in attempts]
        groups = policy.generate(asked, max_tokens=max_tokens, temperature=temperature, seed=seeds)
        return [group[0] for group in groups]
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
