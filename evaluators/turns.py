"""What evaluators share that read conversations: every reply with what it answers, and outcomes that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pe_rlhf_mm.errors import ImageError, PromptTooLong
from pe_rlhf_mm.types import Message, Outcome, Score


def turns(outcome: Outcome) -> list[tuple[list[Message], str]]:
    """Every reply, behind the conversation that it answers."""
    messages = list(outcome.sample.messages)
    messages += outcome.steps[0].observation if outcome.steps else ()
    found = []
    for number, reply in enumerate(outcome.replies, start=1):
        found.append((list(messages), reply))
        messages.append(Message("assistant", reply))
        messages += outcome.steps[number].observation if number < len(outcome.steps) else ()
    return found


def score_readable(outcomes: Sequence[Outcome], score: Callable[[Sequence[Outcome]], list[Score]]) -> list[Score]:
    """Scores all at once; what a model cannot read, or has no reply, is not scored, and the others are."""
    if not outcomes:
        return []
    if len(outcomes) == 1 and not outcomes[0].replies:
        return [Score(None, "there is no reply")]
    try:
        if all(outcome.replies for outcome in outcomes):
            return score(outcomes)
    except (PromptTooLong, ImageError) as error:
        if len(outcomes) == 1:
            return [Score(None, f"the model cannot read it: {error}")]
    middle = len(outcomes) // 2
    return score_readable(outcomes[:middle], score) + score_readable(outcomes[middle:], score)
