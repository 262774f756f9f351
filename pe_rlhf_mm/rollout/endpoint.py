"""A policy behind an OpenAI-compatible server: it is asked, and nothing of it is known but its replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from pe_rlhf_mm.errors import OutOfRange, Unanswered, UserError
from pe_rlhf_mm.rollout.server import Server
from pe_rlhf_mm.types import Message


class EndpointPolicy:
    """A model that a server offers, asked for replies. Its address is its name, and all that it is known again by."""

    def __init__(self, reference: str, *, at_once: int = 8, retries: int = 4, timeout: float = 120.0):
        """`reference`: http://host:port/v1#model. `at_once`: questions side by side. `timeout`: seconds for each try.
        Raises UserError for anything else, and without the package openai."""
        self.name, self._at_once = reference, at_once
        self._server = Server(reference, retries=retries, timeout=timeout)

    def __repr__(self) -> str:
        return f"EndpointPolicy({self.name!r})"

    def fingerprint(self) -> str:
        """Its address: what a server does behind it cannot be told."""
        return self.name

    def replies(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        temperature: float = 0.0,
        max_tokens: int = 64,
        seed: Sequence[int] = (),
    ) -> Iterator[tuple[int, str | Unanswered]]:
        """The number of a conversation and its reply, or why there is none, as they come.

        `seed`: of each reply that is drawn; a server may not heed it. Raises UserError, with the rest not asked, once
        the server has failed so often that nobody answers there.
        """
        seeds: Sequence[int | None] = seed or [None] * len(conversations)
        with ThreadPoolExecutor(self._at_once) as pool:
            jobs = {
                pool.submit(self._reply, conversation, temperature, max_tokens, own): number
                for number, (conversation, own) in enumerate(zip(conversations, seeds, strict=True))
            }
            try:
                for job in as_completed(jobs):
                    yield jobs[job], job.result()
                    if self._server.hopeless is not None:
                        raise UserError(f"{self.name}: {self._server.hopeless}")
            finally:
                pool.shutdown(cancel_futures=True)

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        temperature: float = 0.0,
        max_tokens: int = 64,
        samples: int = 1,
        seed: int = 0,
    ) -> list[list[str]]:
        """`samples` replies to each conversation, as those of a Policy. Raises Unanswered for the first that fails."""
        if type(samples) is not int or samples < 1:
            raise OutOfRange(f"samples must be a whole number above 0, not {samples!r}")
        asked = [conversation for conversation in conversations for _ in range(samples)]
        seeds = [seed + number for number in range(len(asked))]
        found = [""] * len(asked)
        for number, reply in self.replies(asked, temperature=temperature, max_tokens=max_tokens, seed=seeds):
            if isinstance(reply, Unanswered):
                raise reply
            found[number] = reply
        return [found[start : start + samples] for start in range(0, len(found), samples)]

    def __call__(self, messages: Sequence[Message]) -> str:
        """The greedy reply to one conversation."""
        return self.generate([messages])[0][0]

    def _reply(
        self, conversation: Sequence[Message], temperature: float, max_tokens: int, seed: int | None
    ) -> str | Unanswered:
        asked = {"temperature": temperature, "max_tokens": max_tokens}
        wished = {"seed": seed} if temperature and seed is not None else {}
        try:
            return text_of(self._server.complete(conversation, asked, wished))
        except Unanswered as error:
            return error


def text_of(said: Any) -> str:
    """The text of a choice. A refusal in words is a reply, and so is no word at all. Raises Unanswered for a filter."""
    text, refusal, ended = said.message.content, said.message.refusal, said.finish_reason
    if ended == "content_filter":
        raise Unanswered("the server filtered the content")
    return str(text or refusal or "")
