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
    from pe_rlhf_mm.data.images import open_image

    if not problems.expect(len(messages) > 0, f"{what} has no messages"):
        return
    for message in messages:
        if not problems.expect(
            isinstance(message, Message), f"{what} has a {type(message).__name__} among its messages; expected Message"
        ):
            continue
        problems.expect(message.role in get_args(Role), f"{what}: unknown role {message.role!r}")
        for part in message.parts:
            if problems.expect(
                isinstance(part, Text | Image),
                f"{what} has a {type(part).__name__} in a message; expected Text or Image",
            ) and isinstance(part, Image):
                with problems.during(f"opening a picture of {what}"):
                    open_image(part)
    last = messages[-1]
    problems.expect(
        not isinstance(last, Message) or last.role != "assistant",
        f"{what} ends with the assistant: nothing is left to say",
    )
