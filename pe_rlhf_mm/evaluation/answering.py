"""What a policy says to samples: replies, or whole episodes where the task has an environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pe_rlhf_mm import registry
from pe_rlhf_mm.envs.pool import pool_of
from pe_rlhf_mm.errors import Unanswered, UserError
from pe_rlhf_mm.evaluation.attempts import Attempt
from pe_rlhf_mm.evaluation.episodes import play_samples
from pe_rlhf_mm.rollout.endpoint import EndpointPolicy
from pe_rlhf_mm.types import Message, Outcome, Sample, Task

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy

PolicyFunction = Callable[[Sequence[Message]], str]
Keep = Callable[[int, Outcome], None]
"""Hears of every outcome when it is finished, and the number of its attempt; of one at a time, but in any thread."""
CHUNK = 512
"""Prompts that a Policy is given at once. While it answers them, the outcomes of the chunk before are kept."""


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
    name = registry.reference_to(policy)
    return {"policy": name, "fingerprint": name}


def run_policy(
    policy: Policy | PolicyFunction,
    attempts: Sequence[Attempt],
    *,
    max_tokens: int,
    temperature: float,
    keep: Keep,
) -> None:
    """Replies of a policy, or of a plain function, to single-turn samples."""
    if isinstance(policy, EndpointPolicy):
        _run_as_they_come(policy, attempts, max_tokens=max_tokens, temperature=temperature, keep=keep)
        return
    if hasattr(policy, "generate"):
        _run_in_chunks(policy.generate, attempts, max_tokens=max_tokens, temperature=temperature, keep=keep)
        return
    for number, attempt in enumerate(attempts):
        keep(number, Outcome(attempt.sample, [_reply(policy, attempt.sample)], repeat=attempt.repeat))


def _run_in_chunks(
    generate: Callable[..., list[list[str]]],
    attempts: Sequence[Attempt],
    *,
    max_tokens: int,
    temperature: float,
    keep: Keep,
) -> None:
    with ThreadPoolExecutor(1) as beside:  # left, by an exception too, when all that is answered is kept
        kept: Future[None] | None = None
        for start in range(0, len(attempts), CHUNK):
            block = attempts[start : start + CHUNK]
            asked, seeds = [attempt.sample.messages for attempt in block], [attempt.draws for attempt in block]
            groups = generate(asked, max_tokens=max_tokens, temperature=temperature, seed=seeds)
            answered = [Outcome(a.sample, [group[0]], repeat=a.repeat) for a, group in zip(block, groups, strict=True)]
            if kept is not None:
                kept.result()
            kept = beside.submit(_keep_all, keep, start, answered)
        if kept is not None:
            kept.result()


def _run_as_they_come(
    policy: EndpointPolicy, attempts: Sequence[Attempt], *, max_tokens: int, temperature: float, keep: Keep
) -> None:
    """A reply of a server was paid for: it is kept as soon as it is there."""
    asked, seeds = [attempt.sample.messages for attempt in attempts], [attempt.draws for attempt in attempts]
    for number, reply in policy.replies(asked, temperature=temperature, max_tokens=max_tokens, seed=seeds):
        attempt = attempts[number]
        given = {"replies": [], "unanswered": str(reply)} if isinstance(reply, Unanswered) else {"replies": [reply]}
        keep(number, Outcome(attempt.sample, repeat=attempt.repeat, **given))


def _keep_all(keep: Keep, start: int, answered: Sequence[Outcome]) -> None:
    for number, outcome in enumerate(answered, start=start):
        keep(number, outcome)


def _reply(policy: PolicyFunction, sample: Sample) -> str:
    try:
        reply = policy(sample.messages)
    except Exception as error:
        error.add_note(f"(the policy was answering sample {sample.id})")
        raise
    if not isinstance(reply, str):
        raise UserError(f"the policy answered sample {sample.id} with a {type(reply).__name__}; a string was expected")
    return reply
