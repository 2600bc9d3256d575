"""What really went over the wire in one attempt, seen from hooks on an HTTP client of ours.

LiteLLM repairs, renames and invents: a missing finish reason becomes `stop`, a missing usage is counted, a 529 becomes
a 500. Here status, headers and body are kept as they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from testronaut_llm.gateway.evidence import readable
from testronaut_llm.support.http_body import MOST_BYTES, BodyError, Unpacker, bound, unpacker

MOST_BYTES_OF_A_CHAT = 16 * 1024 * 1024
"""Of an answer that is no stream: it is parsed in one go, and becomes thirty times as large."""
MOST_BYTES_OF_AN_EVENT, MOST_BYTES_OF_AN_ERROR = 1024 * 1024, 64 * 1024
"""Of a stream from one event to the next, and of a body under an error status: LiteLLM searches both for secrets, ten
seconds a megabyte, on the event loop."""


class SecondRequestError(Exception):
    """LiteLLM or an SDK tried to send a second request within one attempt."""


@dataclass(slots=True)
class Exchange:
    """One request and its response, filled in as they happen. `broke` is what ended the body early."""

    requests: int = 0
    sent: dict[str, Any] | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    broke: Exception | None = None
    _traced: bool = False
    _body_begun: bool = False
    _event: int = 0
    _unpacker: Unpacker = field(default_factory=Unpacker)
    _line: bytearray = field(default_factory=bytearray)
    _stream: httpx.AsyncByteStream | None = None

    @property
    def left(self) -> bool:
        """True if the request may have left this machine. Without a connection, no part of its body has."""
        return self.requests > 0 and (self._body_begun or self.status is not None or not self._traced)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", errors="replace")

    def on_request(self, request: httpx.Request) -> None:
        """Notes the one request of the attempt. Raises SecondRequestError at another."""
        if self.requests:
            raise SecondRequestError("one attempt is one request")
        self.requests = 1
        request.extensions["trace"] = self._trace
        try:
            self.sent = json.loads(request.content)
        except ValueError:
            self.sent = None

    def on_response(self, response: httpx.Response) -> None:
        """Notes the head of the response, and bounds its body."""
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        whole_chat = not self._streams and any(name in (self.sent or ()) for name in ("messages", "contents"))
        most = MOST_BYTES_OF_AN_ERROR if self.status >= 400 else MOST_BYTES_OF_A_CHAT if whole_chat else MOST_BYTES
        self._unpacker = unpacker(response, most=most, streams=self._streams)
        bound(response, self._take, self._broken, lambda: readable(bytes(self._line)))
        if isinstance(response.stream, httpx.AsyncByteStream):
            self._stream = response.stream

    async def aclose(self) -> None:
        """Closes the response, read to its end or not."""
        if self._stream is not None:
            await self._stream.aclose()

    @property
    def _streams(self) -> bool:
        return self.sent is not None and self.sent.get("stream") is True

    async def _trace(self, event: str, info: dict[str, Any]) -> None:
        self._traced = True
        if event.endswith(".send_request_body.started") and info["request"].method != b"CONNECT":  # of a proxy's tunnel
            self._body_begun = True

    def _take(self, chunk: bytes) -> Iterator[bytes]:
        """Keeps a piece of the body and returns it unpacked, of a stream whole lines. Raises BodyError at the bound."""
        for piece in self._unpacker.take(chunk):
            start = max(0, len(self.body) - 6)  # the beginning of an event may be spread over two pieces
            self.body += piece
            self._event = max(self._event, *(self.body.rfind(begin, start) for begin in (b"\ndata:", b"\n{")))
            if self._streams and len(self.body) - self._event > MOST_BYTES_OF_AN_EVENT:
                raise BodyError(f"{MOST_BYTES_OF_AN_EVENT:,} bytes of the stream came without an event")
            self._line += piece
            end = max(self._line.rfind(b"\n"), self._line.rfind(b"\r")) + 1 if self._streams else 0
            lines = bytes(self._line[:end])
            del self._line[:end]
            yield b"".join(map(readable, lines.splitlines(keepends=True)))

    def _broken(self, error: Exception) -> None:
        self.broke = error
