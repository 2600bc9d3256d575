"""What really went over the wire in one attempt, seen from hooks on an HTTP client of ours.

LiteLLM repairs, renames and invents: a missing finish reason becomes `stop`, a missing usage is
counted, a 529 becomes a 500. Here status, headers and body are kept as they came. The clients follow
no redirect (the prompt and the key would go along) and never use a proxy for loopback.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx

from testronaut_llm.gateway.readable_body import ReadableBody
from testronaut_llm.providers.network import client_settings
from testronaut_llm.support.http_body import MOST_BYTES, BodyError, Unpacker, bound, bounded, unpacker

MOST_BYTES_OF_A_CHAT = 16 * 1024 * 1024
"""Of an answer that is no stream: it is parsed in one go, and becomes thirty times as large."""
MOST_BYTES_OF_AN_EVENT, MOST_BYTES_OF_AN_ERROR = 1024 * 1024, 64 * 1024
"""Of a stream from the beginning of one event to that of the next, comments and empty lines included, and of a body
under an error status: LiteLLM puts both into its exceptions and searches those for secrets, at ten seconds a megabyte,
on the caller's event loop."""
_CHATS = ("messages", "contents")
"""What the body of a request for a chat has, and of one for vectors has not."""
_EVENTS = (b"\ndata:", b"\n{")
"""How an event begins: a server-sent one, a line of NDJSON."""

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)

current: ContextVar[Exchange | None] = ContextVar("testronaut_llm_exchange", default=None)
"""The attempt that requests of this thread or task belong to."""


class SecondRequestError(Exception):
    """Something below wanted to ask again by itself."""


@dataclass(slots=True)
class Exchange:
    """The request that was sent and what came back, filled in while it happens."""

    requests: int = 0
    sent: dict[str, Any] | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    broke: Exception | None = None
    traced: bool = False
    body_begun: bool = False
    _event: int = 0
    _unpacker: Unpacker = field(default_factory=Unpacker)
    _stream: httpx.SyncByteStream | httpx.AsyncByteStream | None = None

    @property
    def left(self) -> bool:
        """True if the request may have left this machine; no part of its body has, where no connection was made."""
        return self.requests > 0 and (self.body_begun or self.status is not None or not self.traced)

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Takes note of how far httpx is; a proxy that is asked for a tunnel has not been sent the request yet."""
        self.traced = True
        if event.endswith(".send_request_body.started") and info["request"].method != b"CONNECT":
            self.body_begun = True

    async def aclose(self) -> None:
        """Ends the response, read to its end or not."""
        if isinstance(self._stream, httpx.AsyncByteStream):
            await self._stream.aclose()

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", errors="replace")

    @property
    def streams(self) -> bool:
        """True if a stream was asked for."""
        return self.sent is not None and self.sent.get("stream") is True

    def begin(self, response: httpx.Response) -> None:
        """Takes the head of the response; its body comes later, unpacked."""
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        whole_chat = not self.streams and any(name in (self.sent or ()) for name in _CHATS)
        most = MOST_BYTES_OF_AN_ERROR if self.status >= 400 else MOST_BYTES_OF_A_CHAT if whole_chat else MOST_BYTES
        self._unpacker = unpacker(response, most=most, streams=self.streams)
        readable = ReadableBody(lines=self.streams)
        bound(response, lambda chunk: map(readable.take, self.take(chunk)), self._broken, readable.end)
        self._stream = response.stream

    def take(self, chunk: bytes) -> Iterator[bytes]:
        """Keeps a piece of the body, and returns it unpacked.

        Raises:
            BodyError: the body is longer than any answer.
        """
        for piece in self._unpacker.take(chunk):
            start = max(0, len(self.body) - 6)  # the beginning of an event may be spread over two pieces
            self.body += piece
            self._event = max(self._event, *(self.body.rfind(begin, start) for begin in _EVENTS))
            if self.streams and len(self.body) - self._event > MOST_BYTES_OF_AN_EVENT:
                raise BodyError(f"{MOST_BYTES_OF_AN_EVENT:,} bytes of the stream came without an event")
            yield piece

    def _broken(self, error: Exception) -> None:
        self.broke = error


def async_client(url: str | None) -> httpx.AsyncClient:
    """Returns a client for one endpoint; what it carries ends in the current `Exchange`."""

    async def on_request(request: httpx.Request) -> None:
        _on_request(request)

    async def on_response(response: httpx.Response) -> None:
        _on_response(response)

    return httpx.AsyncClient(
        event_hooks={"request": [on_request], "response": [on_response]},
        headers={"accept-encoding": "gzip"},
        **client_settings(url, asynchronous=True, limits=_LIMITS),
    )


def _on_request(request: httpx.Request) -> None:
    if (exchange := current.get()) is None:
        return
    if exchange.requests:
        raise SecondRequestError("one attempt is one request")
    exchange.requests += 1
    request.extensions["trace"] = exchange.trace
    try:
        exchange.sent = json.loads(request.content)
    except ValueError:
        exchange.sent = None


def _on_response(response: httpx.Response) -> None:
    if (exchange := current.get()) is None:
        bounded(response)
    else:
        exchange.begin(response)
