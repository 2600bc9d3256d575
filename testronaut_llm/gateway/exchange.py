"""Records what one attempt sent and received, through hooks on an HTTP client of ours.

LiteLLM changes responses: a missing finish reason becomes `stop`, a missing usage is counted, a 529 becomes a 500.
Here status, headers and body are kept as received.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from testronaut_llm.gateway.light_body import LightBody
from testronaut_llm.gateway.provider_errors import parsed
from testronaut_llm.support.http_body import MOST_BYTES, BodyError, BoundedBody, bounded

MOST_BYTES_OF_A_CHAT = 16 * 1024 * 1024
"""Most bytes of an answer that is not a stream: parsing makes it thirty times as large."""
MOST_BYTES_OF_AN_EVENT, MOST_BYTES_OF_AN_ERROR = 1024 * 1024, 64 * 1024
"""Most bytes of one event of a stream, and of an error's body, in which LiteLLM searches for secrets."""
MOST_NUMBERS, MOST_BYTES_OF_A_VECTOR = 16_384, 128 * 1024
"""Most numbers, and bytes, for each text to embed; known models return up to 12,288 numbers."""


class SecondRequestError(Exception):
    """LiteLLM or an SDK tried to send a second request within one attempt."""


@dataclass(slots=True)
class Exchange:
    """One request and its response, filled in as they happen."""

    texts: int = 0  # how many are to be embedded
    requests: int = 0
    sent: dict[str, Any] | None = None
    waits: bool = False  # for a connection, so that nothing has left this machine
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    broke: Exception | None = None  # what ended the body early
    light: LightBody = field(default_factory=LightBody)
    _streams: bool = False
    _passed_on: int = 0
    _event: int = 0
    _commas: int = 0
    _stream: BoundedBody | None = None

    @property
    def left(self) -> bool:
        """True if a part of the request may have left this machine."""
        return self.requests > 0 and not self.waits

    @property
    def text(self) -> str:
        """Returns the body as text."""
        return self.body.decode("utf-8", errors="replace")

    async def on_request(self, request: httpx.Request) -> None:
        """Notes the request of the attempt. Raises SecondRequestError for a second one."""
        if self.requests:
            raise SecondRequestError("one attempt is one request")
        self.requests, self.waits = 1, True
        sent = parsed(request.content.decode("utf-8", "replace"))
        self.sent = sent if isinstance(sent, dict) else None
        self._streams = self.sent is not None and self.sent.get("stream") is True
        request.stream = _RequestBody(self, request.content)

    async def on_response(self, response: httpx.Response) -> None:
        """Notes the status and headers of the response, and limits the size of its body."""
        self.status, self.headers, self.waits = response.status_code, dict(response.headers.items()), False
        self._streams = self._streams or "event-stream" in self.headers.get("content-type", "")  # Gemini: by its URL
        most = max(MOST_BYTES, self.texts * MOST_BYTES_OF_A_VECTOR)
        if self.status >= 400:
            most = MOST_BYTES_OF_AN_ERROR
        elif not self._streams and not self.texts:
            most = MOST_BYTES_OF_A_CHAT
        self._stream = stream = bounded(response, most=most, streams=self._streams)
        stream.through, stream.end = self._take, self._rest

    async def aclose(self) -> None:
        """Closes the response, even if it was not read to its end."""
        stream, self._stream = self._stream, None  # they refer to each other
        if stream is not None:
            self.broke = stream.broke
            await stream.aclose()

    def _take(self, piece: bytes) -> bytes:
        """Keeps a piece of the body; returns the whole lines of a stream. Raises BodyError: no event comes."""
        start = max(0, len(self.body) - 6)  # the beginning of an event may be spread over two pieces
        self.body += piece
        self._commas += piece.count(b",") if self.texts else 0
        if self._commas > self.texts * MOST_NUMBERS:
            raise BodyError(f"the body holds more than {MOST_NUMBERS:,} numbers a text, and was not read to its end")
        if not self._streams:
            return b""
        self._event = max(self._event, self.body.rfind(b"\ndata:", start), self.body.rfind(b"\n{", start))
        if len(self.body) - self._event > MOST_BYTES_OF_AN_EVENT:
            raise BodyError(f"{MOST_BYTES_OF_AN_EVENT:,} bytes of the stream came without an event")
        begin = self._passed_on
        end = max(self.body.rfind(b"\n", begin), self.body.rfind(b"\r", begin)) + 1
        self._passed_on = max(begin, end)
        return b"".join(map(self.light.of, bytes(self.body[begin : self._passed_on]).splitlines(keepends=True)))

    def _rest(self) -> bytes:
        """Returns what was not passed on."""
        return self.light.of(bytes(self.body[self._passed_on :]))


class _RequestBody(httpx.AsyncByteStream):
    """The body of a request, which notes when a connection begins to send it."""

    def __init__(self, exchange: Exchange, content: bytes) -> None:
        self._exchange, self._content = exchange, content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._exchange.waits = False
        yield self._content
