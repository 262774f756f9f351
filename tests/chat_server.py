"""A server that speaks the chat protocol of OpenAI, and answers as a test tells it to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, str]
"""A status, and a body."""


class Asked:
    """What a server was asked: the JSON of every request, and its headers."""

    def __init__(self, url: str):
        self.url = url
        self.reference = f"{url}/v1#small"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []


def prompt_of(request: dict[str, Any]) -> str:
    """The text of the last message."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def said(
    text: str | None,
    *,
    tokens: Sequence[tuple[str, dict[str, float]]] | None = None,
    ended: str = "stop",
    refusal: str | None = None,
) -> Answer:
    """A completion. `tokens`: those of the reply, each with the log-probabilities of the likeliest ones."""
    told = None
    if tokens is not None:
        told = {
            "content": [
                {"token": t, "logprob": 0.0, "bytes": None, "top_logprobs": _likely(likely)} for t, likely in tokens
            ]
        }
    choice = {
        "index": 0,
        "finish_reason": ended,
        "message": {"role": "assistant", "content": text, "refusal": refusal},
        "logprobs": told,
    }
    return 200, json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "small", "choices": [choice]}
    )


def _likely(likely: dict[str, float]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in likely.items()]


def refused(status: int, message: str) -> Answer:
    """An error as servers give it."""
    return status, json.dumps({"error": {"message": message, "type": "error"}})


@contextlib.contextmanager
def serving(answer: Callable[[dict[str, Any], int], Answer]) -> Iterator[Asked]:
    """A server whose answer to the n-th request (from 0) is `answer(request, n)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(asked.requests)
                asked.requests.append(request)
                asked.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, body = answer(request, number)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that waits no longer
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    asked = Asked(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
