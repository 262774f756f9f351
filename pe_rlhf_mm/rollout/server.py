"""A model behind an OpenAI-compatible server: vLLM, llama.cpp, transformers serve, or a provider."""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pe_rlhf_mm.data.images import encode_png, open_image
from pe_rlhf_mm.errors import Unanswered, UserError
from pe_rlhf_mm.types import Image, Message, Text

HOPELESS = 8
"""After so many failures in a row nobody answers there, and the rest is not asked."""
SHOWN = 300
"""Characters of an error or a reply that is repeated to the user."""
REFERENCE = re.compile(r"(?P<url>https?://[^\s#?]+)#(?P<model>\S+)")


class Server:
    """One model that a server offers.

    The key is OPENAI_API_KEY in the environment, and is kept nowhere else: whatever is said of a failure is said
    without it. A question that meets 408, 409, 429, 5xx, a time-out or no connection is asked again after a pause that
    doubles. It may be used by several threads.
    """

    def __init__(self, reference: str, *, calls: int | None = None, retries: int = 4, timeout: float = 60.0):
        """`reference`: http://host:port/v1#model. `calls`: questions at most, retries not counted. `timeout`: seconds
        for each try. Raises UserError for anything else, and without the package openai."""
        found = REFERENCE.fullmatch(reference)
        if found is None or "@" in found["url"]:
            raise UserError(
                "the address of a model must look like http://host:port/v1#model, without a name, password or key in "
                "it; a key is taken from OPENAI_API_KEY."
            )
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "a model behind an address needs the package openai: pip install 'pe-rlhf-mm[judge]'."
            ) from error
        self.reference, self._model = reference, found["model"]
        self._key = os.environ.get("OPENAI_API_KEY", "")
        self._client = openai.OpenAI(
            base_url=found["url"], api_key=self._key or "none", max_retries=retries, timeout=timeout
        )
        self._allowed, self._left = calls, calls
        self._failures, self._last_failure = 0, ""
        self._refuses_wishes = False
        self._lock = threading.Lock()

    def refuse_silence(self) -> None:
        """Raises UserError if nobody answers there at all; what is answered does not matter, and costs nothing."""
        import openai

        try:
            self._client.with_options(max_retries=1, timeout=10).models.list()
        except openai.APIConnectionError as error:
            why = self.shown(str(error.__cause__ or error))
            raise UserError(
                f"nobody answers at {self.reference} ({why}). Start the server, or correct the address."
            ) from error
        except (openai.OpenAIError, ValueError):
            pass

    @property
    def hopeless(self) -> str | None:
        """Why nothing more is asked: the last failure of HOPELESS in a row; None while there is hope."""
        if self._failures < HOPELESS:
            return None
        return f"not asked, after {self._failures} failures in a row, the last: {self._last_failure}"

    def complete(
        self, conversation: Sequence[Message], asked: Mapping[str, Any], wished: Mapping[str, Any] | None = None
    ) -> Any:
        """The first choice of a chat completion, as the client `openai` hands it over: it has a message.

        `asked`: fields of the request besides the messages. `wished`: those that a server may refuse, and is then asked
        without from there on. Raises Unanswered, with the reason, for whatever goes wrong.
        """
        import openai

        self._take_off_budget()
        try:
            completion = self._create([_as_json(message) for message in conversation], asked, wished or {})
            choice = completion.choices[0]
            _ = choice.message.content
        except (AttributeError, IndexError, TypeError):
            raise self._failed(
                f"the server answered with something that is no chat completion: {completion!r}"
            ) from None
        except openai.APIStatusError as error:
            raise self._failed(f"HTTP {error.status_code}: {error.message}") from None
        except openai.APITimeoutError:
            raise self._failed("the server did not answer in time") from None
        except openai.OpenAIError as error:
            raise self._failed(f"the server could not be reached: {error.__cause__ or error}") from None
        except ValueError as error:
            raise self._failed(f"the server answered with something that is no JSON: {error}") from None
        except UserError as error:
            raise Unanswered(f"it could not be asked: {error}") from error
        with self._lock:
            self._failures = 0
        return choice

    def shown(self, text: str) -> str:
        """Without the key, which a server may repeat, and short; in this order, or half a key could stay."""
        return (text.replace(self._key, "[key]") if self._key else text)[:SHOWN]

    def _take_off_budget(self) -> None:
        """Raises Unanswered where nothing more may be asked."""
        with self._lock:
            if self._left is not None and self._left < 1:
                raise Unanswered(f"the budget of {self._allowed} calls is used up")
            if self.hopeless is not None:
                raise Unanswered(self.hopeless)
            if self._left is not None:
                self._left -= 1

    def _failed(self, why: str) -> Unanswered:
        with self._lock:
            self._failures += 1
            self._last_failure = self.shown(why)
        return Unanswered(self.shown(why))

    def _create(self, messages: list[Any], asked: Mapping[str, Any], wished: Mapping[str, Any]) -> Any:
        import openai

        create: Any = self._client.chat.completions.create
        wishes = {} if self._refuses_wishes else wished
        try:
            return create(model=self._model, messages=messages, **asked, **wishes)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            if not wishes:
                raise
        completion = create(model=self._model, messages=messages, **asked)
        self._refuses_wishes = True  # it was not the question that was refused
        return completion


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
