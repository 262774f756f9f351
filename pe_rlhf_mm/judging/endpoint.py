"""A judge behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from pe_rlhf_mm.errors import Unanswered
from pe_rlhf_mm.judging.reading import read_verdict
from pe_rlhf_mm.rollout.server import Server
from pe_rlhf_mm.types import Message, Verdict

CALLS = 10_000
"""Questions put to a server at most, unless told otherwise."""
TOKENS = 2048
"""Tokens of an answer at most, unless told otherwise: models think before they choose."""
TELLS = {"logprobs": True, "top_logprobs": 20}
"""The likeliest tokens at every place: 20 is the most that servers give, and some give none."""


class Endpoint:
    """A model that a server offers, asked at temperature 0."""

    def __init__(
        self,
        reference: str,
        *,
        calls: int = CALLS,
        max_tokens: int = TOKENS,
        at_once: int = 8,
        retries: int = 4,
        timeout: float = 120.0,
    ):
        """`reference`: http://host:port/v1#model. `calls`: questions at most, retries not counted; `max_tokens`: of an
        answer; `at_once`: questions side by side. `timeout`: seconds for each try. Raises UserError for anything else,
        and without the package openai."""
        self.id, self._at_once = reference, at_once
        self._asked = {"temperature": 0, "max_tokens": max_tokens}
        self._server = Server(reference, calls=calls, retries=retries, timeout=timeout)

    def __repr__(self) -> str:
        return f"Endpoint({self.id!r})"

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        """The choice of every reply, with probabilities where the server tells them; None and why for all else."""
        given = dict(self.verdicts(conversations, choices))
        return [given[number] for number in range(len(conversations))]

    def verdicts(
        self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]
    ) -> Iterator[tuple[int, Verdict]]:
        """The number of a conversation and its verdict, as they come."""
        with ThreadPoolExecutor(self._at_once) as pool:
            jobs = {pool.submit(self._verdict, c, choices): number for number, c in enumerate(conversations)}
            try:
                for job in as_completed(jobs):
                    yield jobs[job], job.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _verdict(self, conversation: Sequence[Message], choices: Sequence[str]) -> Verdict:
        try:
            verdict = read_verdict(self._server.complete(conversation, self._asked, TELLS), choices)
        except Unanswered as error:
            return Verdict(None, str(error))
        return verdict._replace(why=self._server.shown(verdict.why))
