"""A judge behind an OpenAI-compatible server: vLLM, llama.cpp, transformers serve, or a provider."""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pe_rlhf_mm.data.images import encode_png, open_image
from pe_rlhf_mm.errors import UserError
from pe_rlhf_mm.judging.reading import read_completion
from pe_rlhf_mm.types import Image, Message, Text, Verdict

CALLS = 10_000
"""Questions put to a server at most, unless told otherwise."""
MAX_TOKENS = 64
TOP = 20
"""Likeliest tokens asked for: the most that servers give."""
SHOWN = 300
"""Characters of an error or a reply that `why` repeats."""
HOPELESS = 8
"""After so many failures in a row nobody answers there, and the rest is not asked."""
REFERENCE = re.compile(r"(?P<url>https?://[^\s#?]+)#(?P<model>\S+)")


class Endpoint:
    """A model that a server offers, asked at temperature 0.

    The key is OPENAI_API_KEY in the environment, and is kept nowhere else: whatever is said of a failure is said
    without it. A question that meets 408, 409, 429, 5xx, a time-out or no connection is asked again after a pause that
    doubles.
    """

    def __init__(
        self, reference: str, *, calls: int = CALLS, at_once: int = 8, retries: int = 4, timeout: float = 60.0
    ):
        """`reference`: http://host:port/v1#model. `calls`: questions at most, retries not counted; `at_once`: side by
        side. `timeout`: seconds for each try. Raises UserError for anything else, and without the package openai."""
        found = REFERENCE.fullmatch(reference)
        if found is None or "@" in found["url"]:
            raise UserError(
                "the address of a judge must look like http://host:port/v1#model, without a name, password or key in "
                "it; a key is taken from OPENAI_API_KEY."
            )
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "a judge behind an address needs the package openai: pip install 'pe-rlhf-mm[judge]'."
            ) from error
        self.id, self._model = reference, found["model"]
        self._key = os.environ.get("OPENAI_API_KEY", "")
        self._client = openai.OpenAI(
            base_url=found["url"], api_key=self._key or "none", max_retries=retries, timeout=timeout
        )
        self._allowed, self._left, self._at_once = calls, calls, at_once
        self._failures, self._last_failure = 0, ""
        self._tells: dict[str, Any] = {"logprobs": True, "top_logprobs": TOP}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Endpoint({self.id!r})"

    def choose(self, conversations: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Verdict]:
        """The choice of every reply, with probabilities where the server tells them; None and why for all else."""
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(lambda conversation: self._verdict(conversation, choices), conversations))

    def _verdict(self, conversation: Sequence[Message], choices: Sequence[str]) -> Verdict:
        import openai

        if (refused := self._refused()) is not None:
            return Verdict(None, refused)
        try:
            verdict = read_completion(self._complete([_as_json(message) for message in conversation]), choices)
            failure = ""
        except openai.APIStatusError as error:
            failure = f"HTTP {error.status_code}: {error.message}"
        except openai.APITimeoutError:
            failure = "the server did not answer in time"
        except openai.OpenAIError as error:
            failure = f"the server could not be reached: {error.__cause__ or error}"
        except ValueError as error:
            failure = f"the server answered with something that is no JSON: {error}"
        except UserError as error:
            return Verdict(None, f"it could not be asked: {error}")
        with self._lock:
            self._failures = self._failures + 1 if failure else 0
            self._last_failure = self._shown(failure)
        return Verdict(None, self._shown(failure)) if failure else verdict._replace(why=self._shown(verdict.why))

    def _refused(self) -> str | None:
        """Why the next question is not asked; otherwise it is taken off the budget."""
        with self._lock:
            if self._left < 1:
                return f"the budget of {self._allowed} calls is used up"
            if self._failures >= HOPELESS:
                return f"not asked, after {self._failures} failures in a row, the last: {self._last_failure}"
            self._left -= 1
            return None

    def _complete(self, messages: list[Any]) -> Any:
        """A chat completion, with the likeliest tokens unless the server refuses to tell them."""
        import openai

        asked, tells = {"model": self._model, "temperature": 0, "max_tokens": MAX_TOKENS}, self._tells
        create: Any = self._client.chat.completions.create
        try:
            return create(messages=messages, **asked, **tells)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            if not tells:
                raise
        completion = create(messages=messages, **asked)
        self._tells = {}  # it was not the question that was refused
        return completion

    def _shown(self, why: str) -> str:
        """Without the key, which a server may repeat, and short; in this order, or half a key could stay."""
        return (why.replace(self._key, "[key]") if self._key else why)[:SHOWN]


def _as_json(message: Message) -> dict[str, Any]:
    """A message as the protocol has it. Turns of tools are the user's: the protocol knows none without a call."""
    role = "user" if message.role == "tool" else message.role
    if all(isinstance(part, Text) for part in message.parts):  # some servers take nothing but a string
        return {"role": role, "content": "".join(part.text for part in message.parts if isinstance(part, Text))}
    return {"role": role, "content": [_part(part) for part in message.parts]}


def _part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    content = base64.b64encode(encode_png(open_image(part))).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}
