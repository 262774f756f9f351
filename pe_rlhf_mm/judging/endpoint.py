"""A judge behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(lambda conversation: self._verdict(conversation, choices), conversations))

    def _verdict(self, conversation: Sequence[Message], choices: Sequence[str]) -> Verdict:
        try:
            verdict = read_verdict(self._server.complete(conversation, self._asked, TELLS), choices)
        except Unanswered as error:
            return Verdict(None, str(error))
        return verdict._replace(why=self._server.shown(verdict.why))
