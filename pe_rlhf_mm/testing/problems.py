"""What a check has found, and the checks that tasks and environments share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

from pe_rlhf_mm.types import Image, Message, Role, Text


class Problems(list[str]):
    """What was found, in words."""

    def expect(self, holds: bool, problem: str) -> bool:
        """Notes the problem unless the expectation holds, and says whether it does."""
        if not holds:
            self.append(problem)
        return holds

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Notes what is raised inside, under the name of what was being done."""
        try:
            yield
        except Exception as error:
            self.append(f"{what} raised {type(error).__name__}: {error}")


def check_messages(messages: Sequence[Message], what: str, problems: Problems) -> None:
    """Notes what is wrong with a conversation that a policy is to go on with; pictures are opened."""
    if not problems.expect(
        isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages) > 0,
        f"{what}: messages is {messages!r:.80}; expected a list of Message, with one at least",
    ):
        return
    for message in messages:
        if not problems.expect(
            isinstance(message, Message), f"{what} has a {type(message).__name__} among its messages; expected Message"
        ):
            continue
        roles = get_args(Role)
        problems.expect(message.role in roles, f"{what}: role {message.role!r} is none of {', '.join(roles)}")
        if problems.expect(
            isinstance(message.content, Sequence),
            f"{what}: the content of a message is {message.content!r:.80}; expected a string, or a list of parts",
        ):
            for part in message.parts:
                check_part(part, what, problems)
    last = messages[-1]
    problems.expect(
        not isinstance(last, Message) or last.role != "assistant",
        f"{what} ends with the assistant: nothing is left to say",
    )


def check_part(part: Text | Image, what: str, problems: Problems) -> None:
    """Notes a part that is neither text nor a picture that opens."""
    if isinstance(part, Image):
        from pe_rlhf_mm.data.images import open_image

        with problems.during(f"opening a picture of {what}"):
            open_image(part)
    else:
        problems.expect(
            isinstance(part, Text) and isinstance(part.text, str),
            f"{what} has the part {part!r:.80}; expected Text of a string, or Image",
        )


def told(messages: Sequence[Message]) -> list[tuple[str, list[str]]]:
    """Roles and texts: what two passes must have in common."""
    return [(m.role, [part.text for part in m.parts if isinstance(part, Text)]) for m in messages]


def check_replies(replies: Sequence[str] | None, what: str, problems: Problems) -> bool:
    """Whether a solution is what it should be: None, or replies."""
    right = isinstance(replies, Sequence) and not isinstance(replies, str) and all(isinstance(r, str) for r in replies)
    return problems.expect(
        replies is None or right, f"{what} gave {replies!r:.80}; expected a list of replies, or None where nobody knows"
    )
