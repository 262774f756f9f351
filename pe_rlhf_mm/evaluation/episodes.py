"""Episodes for an evaluation: any policy against a pool of environments, and how the episodes went."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from pe_rlhf_mm.envs.episode import MAX_TURNS, ending, lost_by, or_too_long
from pe_rlhf_mm.envs.pool import EnvPool
from pe_rlhf_mm.envs.waves import PolicyOfMany, play_all
from pe_rlhf_mm.errors import PromptTooLong, Unanswered, UserError
from pe_rlhf_mm.evaluation.attempts import Attempt, reply_seed
from pe_rlhf_mm.rollout.endpoint import EndpointPolicy
from pe_rlhf_mm.types import Message, Outcome

if TYPE_CHECKING:
    from pe_rlhf_mm.rollout.policy import Policy


class EpisodeCounts(NamedTuple):
    """Numbers of episodes, of replies in them, of the replies that could not be carried out as actions, and of times
    that an environment replayed an episode after a fault.

    The rest count episodes by their end: `terminated` by the task itself, `out_of_steps` by the environment's budget,
    `out_of_turns` and `out_of_context` from outside, `lost` by a failure that is not the policy's.
    """

    episodes: int
    replies: int
    action_errors: int
    replays: int
    terminated: int
    out_of_steps: int
    out_of_turns: int
    out_of_context: int
    lost: int

    def text(self) -> str:
        """One line."""
        share = f" ({100 * self.action_errors / self.replies:.1f} %)" if self.replies else ""
        ends = {"out of steps": self.out_of_steps, "out of turns": self.out_of_turns}
        ends |= {"out of context": self.out_of_context, "lost": self.lost}
        told = [f"{n} {how}" for how, n in ends.items() if n]
        return (
            f"{self.episodes} episodes, {self.replies} replies, {self.action_errors}{share} not carried out; "
            f"{', '.join([f'{self.terminated} ended by the task', *told])}"
        )


def count_episodes(outcomes: Sequence[Outcome]) -> EpisodeCounts:
    """Counts what happened in episodes."""
    ends = Counter[str](ending(outcome) for outcome in outcomes)
    return EpisodeCounts(
        len(outcomes),
        sum(len(outcome.replies) for outcome in outcomes),
        sum("action_error" in step.info for outcome in outcomes for step in outcome.steps),
        sum(max((step.info.get("replays", 0) for step in outcome.steps), default=0) for outcome in outcomes),
        **{name: ends[name] for name in EpisodeCounts._fields[4:]},
    )


def play_samples(
    policy: Policy | EndpointPolicy | Callable[[Sequence[Message]], str],
    pool: EnvPool,
    attempts: Sequence[Attempt],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    max_turns: int = MAX_TURNS,
    keep: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    """Episodes of a policy, or of a plain function, one for each attempt."""
    samples, repeats, seeds, draws = zip(*attempts, strict=True) if attempts else ((), (), (), ())
    answers, outcomes = answers_of(policy, max_tokens, temperature, draws), dict[int, Outcome]()

    def numbered(number: int, outcome: Outcome) -> None:
        outcomes[number] = dataclasses.replace(outcome, repeat=repeats[number])
        if keep is not None:
            keep(number, outcomes[number])

    play_all(answers, pool, samples, seeds, max_turns=max_turns, keep=numbered)
    return [outcomes[number] for number in range(len(attempts))]


def refuse_all_lost(outcomes: Sequence[Outcome]) -> None:
    """Raises UserError if every episode is lost, or no sample answered: there is nothing to say of the policy then."""
    losses = [lost_by(outcome) for outcome in outcomes]
    if losses and None not in losses:
        happened = "episodes were lost" if outcomes[0].steps else "samples are without an answer"
        raise UserError(f"all {len(losses)} {happened}, the first one because: {losses[0]}")


def answers_of(
    policy: Policy | EndpointPolicy | Callable[[Sequence[Message]], str],
    max_tokens: int,
    temperature: float = 0.0,
    draws: Sequence[int] = (),
) -> PolicyOfMany:
    """Many conversations to replies: by one call of a Policy or of a server's, and one call each of a plain function.

    `draws`: the seed of every episode's replies, where they are drawn.
    """
    if not hasattr(policy, "generate"):
        return lambda conversations, _: [or_too_long(policy, conversation) for conversation in conversations]
    if isinstance(policy, EndpointPolicy):
        return functools.partial(_ask, policy, max_tokens, temperature, draws)
    generate = functools.partial(cast("Policy", policy).generate, max_tokens=max_tokens, temperature=temperature)

    def answers(conversations: Sequence[Sequence[Message]], numbers: Sequence[int]) -> list[str | PromptTooLong]:
        seeds = _seeds(draws, conversations, numbers)
        try:
            return [group[0] for group in generate(conversations, seed=seeds)]
        except PromptTooLong:  # it names the first one only, and the others must not wait for it
            errors = [_too_long(cast("Policy", policy), told, max_tokens) for told in conversations]
        fitting = [i for i, error in enumerate(errors) if error is None]
        replies = iter(
            generate([conversations[i] for i in fitting], seed=[seeds[i] for i in fitting]) if fitting else ()
        )
        return [next(replies)[0] if error is None else error for error in errors]

    return answers


def _seeds(draws: Sequence[int], conversations: Sequence[Sequence[Message]], numbers: Sequence[int]) -> list[int]:
    """Of the next reply of every episode."""
    return [
        reply_seed(draws[number], len(told)) if draws else 0
        for number, told in zip(numbers, conversations, strict=True)
    ]


def _ask(
    policy: EndpointPolicy,
    max_tokens: int,
    temperature: float,
    draws: Sequence[int],
    conversations: Sequence[Sequence[Message]],
    numbers: Sequence[int],
) -> list[str | Unanswered]:
    seeds = _seeds(draws, conversations, numbers)
    found = dict(policy.replies(conversations, temperature=temperature, max_tokens=max_tokens, seed=seeds))
    return [found[number] for number in range(len(conversations))]


def _too_long(policy: Policy, conversation: Sequence[Message], max_tokens: int) -> PromptTooLong | None:
    from pe_rlhf_mm.data.images import Gallery

    try:
        policy.processor.encode([conversation], Gallery(policy.processor.config), room=max_tokens)
    except PromptTooLong as error:
        return error
    return None
