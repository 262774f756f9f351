"""One episode: a policy and an environment taking turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from pe_rlhf_mm.errors import PromptTooLong, Unanswered, UserError
from pe_rlhf_mm.types import Environment, Message, Outcome, Sample, Step

MAX_TURNS = 32
Ending = Literal["terminated", "out_of_steps", "out_of_turns", "out_of_context", "lost"]


class Episode:
    """An episode while it is played. `conversation`: the sample's messages, and every reply and observation so far."""

    def __init__(self, sample: Sample):
        self.sample = sample
        self.conversation: list[Message] = list(sample.messages)
        self.replies: list[str] = []
        self.steps: list[Step] = []
        self.unanswered: str | None = None

    @property
    def over(self) -> bool:
        return self.steps[-1].terminated or self.steps[-1].truncated

    def see(self, step: Step, max_turns: int) -> None:
        """What the environment answered; an episode of `max_turns` replies that goes on after it is cut there."""
        self.steps.append(step)
        self.conversation += step.observation
        if len(self.replies) == max_turns and not self.over:
            self.cut("out_of_turns")

    def say(self, reply: str | PromptTooLong | Unanswered) -> None:
        """What the policy answered, or why it could not: a conversation that grew out of its context ends there, and
        one that a server left without an answer is lost.

        Raises UserError for a reply that is no string, and PromptTooLong where not even the first prompt fits.
        """
        if isinstance(reply, PromptTooLong):
            if not self.replies:
                raise reply
            self.cut("out_of_context")
        elif isinstance(reply, Unanswered):
            self.unanswered = str(reply)
            self._end("lost", self.unanswered)
        elif isinstance(reply, str):
            self.replies.append(reply)
            self.conversation.append(Message("assistant", reply))
        else:
            raise UserError(
                f"the policy answered sample {self.sample.id} with a {type(reply).__name__}; a string was expected"
            )

    def cut(self, why: Literal["out_of_turns", "out_of_context"]) -> None:
        """Ends the episode from outside: its last step is marked as truncated, and `why` is in its info."""
        self._end(why, True)

    def _end(self, why: str, told: object) -> None:
        last = self.steps[-1]
        self.steps[-1] = dataclasses.replace(last, truncated=True, info={**last.info, why: told})

    def outcome(self) -> Outcome:
        """What has been played."""
        return Outcome(self.sample, self.replies, self.steps, unanswered=self.unanswered)


def play(
    policy: Callable[[Sequence[Message]], str],
    environment: Environment,
    sample: Sample,
    *,
    seed: int,
    max_turns: int = MAX_TURNS,
) -> Outcome:
    """Plays one episode and returns every reply and every step; the conversation grows by both.

    An episode that reaches `max_turns`, or whose conversation outgrows the policy's context (PromptTooLong) after its
    first turn, is cut there, and its last step is marked as truncated.
    """
    episode = Episode(sample)
    episode.see(environment.reset(sample, seed=seed), max_turns)
    while not episode.over:
        episode.say(or_too_long(policy, tuple(episode.conversation)))
        if not episode.over:
            episode.see(environment.step(episode.replies[-1]), max_turns)
    return episode.outcome()


def or_too_long(policy: Callable[[Sequence[Message]], str], conversation: Sequence[Message]) -> str | PromptTooLong:
    """The reply, or the error that says that the conversation does not fit."""
    try:
        return policy(conversation)
    except PromptTooLong as error:
        return error


def ending(outcome: Outcome) -> Ending:
    """How an episode ended; `out_of_steps` where its environment's own budget ended it."""
    last = outcome.steps[-1]
    if "lost" in last.info:
        return "lost"
    if last.terminated and "out_of_steps" not in last.info:
        return "terminated"
    if "out_of_turns" in last.info:
        return "out_of_turns"
    return "out_of_context" if "out_of_context" in last.info else "out_of_steps"


def lost_by(outcome: Outcome) -> str | None:
    """Why an episode was lost, or a sample had no answer; None for what was played or answered."""
    if outcome.unanswered is not None:
        return outcome.unanswered
    return str(outcome.steps[-1].info["lost"]) if outcome.steps and "lost" in outcome.steps[-1].info else None
