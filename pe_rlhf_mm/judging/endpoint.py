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
ASKED = {"temperature": 0, "max_tokens": 64}
TELLS = {"logprobs": True, "top_logprobs": 20}
"""The likeliest tokens at every place: 20 is the most that servers give, and some give none."""


class Endpoint:
    """A model that a server offers, asked at temperature 0."""

    def __init__(
        self, reference: str, *, calls: int = CALLS, at_once: int = 8, retries: int = 4, timeout: float = 60.0
    ):
        """`reference`: http://host:port/v1#model. `calls`: questions at most, retries not counted; `at_once`: side by
        side. `timeout`: seconds for each try. Raises UserError for anything else, and without the package openai."""
        self.id, self._at_once = reference, at_once
        self._server = Server(reference, calls=calls, retries=retries, timeout=timeout)

    def __repr__(self) -> str:
        return f"Endpoint({self.id!r})"

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        """The choice of every reply, with probabilities where the server tells them; None and why for all else."""
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(lambda conversation: self._verdict(conversation, choices), conversations))

    def _verdict(self, conversation: Sequence[Message], choices: Sequence[str]) -> Verdict:
        try:
            verdict = read_verdict(self._server.complete(conversation, ASKED, TELLS), choices)
        except Unanswered as error:
            return Verdict(None, str(error))
        return verdict._replace(why=self._server.shown(verdict.why))
