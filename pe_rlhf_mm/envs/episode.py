"""One episode: a policy and an environment taking turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pe_rlhf_mm.types import Environment, Message, Outcome, Sample, Step


def play(
    policy: Callable[[Sequence[Message]], str],
    environment: Environment,
    sample: Sample,
    *,
    seed: int,
    max_turns: int = 32,
) -> Outcome:
    """Plays one episode and returns every reply and every step; the conversation grows by both.

    An episode that reaches `max_turns` is cut there, and its last step is marked as truncated.
    """
    first = environment.reset(sample, seed=seed)
    conversation = [*sample.messages, *first.observation]
    replies: list[str] = []
    steps: list[Step] = [first]
    while not (steps[-1].terminated or steps[-1].truncated):
        if len(replies) == max_turns:
            last = steps[-1]
            steps[-1] = Step(last.observation, last.reward, False, True, {**last.info, "out_of_turns": True})
            break
        replies.append(policy(conversation))
        steps.append(environment.step(replies[-1]))
        conversation += [Message("assistant", replies[-1]), *steps[-1].observation]
    return Outcome(sample, replies, steps)
