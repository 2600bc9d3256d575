"""Records what one attempt sent and received, through hooks on an HTTP client of ours.

LiteLLM changes responses: a missing finish reason becomes `stop`, a missing usage is counted, a 529 becomes a 500.
Here status, headers and body are kept as received.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from testronaut_llm.gateway.evidence import readable
from testronaut_llm.support.http_body import MOST_BYTES, BodyError, BoundedBody, bounded

MOST_BYTES_OF_A_CHAT = 16 * 1024 * 1024
"""Most bytes of an answer that is not a stream: parsing makes it thirty times as large."""
MOST_BYTES_OF_AN_EVENT, MOST_BYTES_OF_AN_ERROR = 1024 * 1024, 64 * 1024
"""Most bytes of one event of a stream, and of a body under an error status: LiteLLM searches both for secrets on the
event loop, ten seconds a megabyte."""


class SecondRequestError(Exception):
    """LiteLLM or an SDK tried to send a second request within one attempt."""


@dataclass(slots=True)
class Exchange:
    """One request and its response, filled in as they happen. `broke` is the error that ended the body early."""

    requests: int = 0
    sent: dict[str, Any] | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    broke: Exception | None = None
    _traced: bool = False
    _body_begun: bool = False
    _event: int = 0
    _line: bytearray = field(default_factory=bytearray)
    _stream: BoundedBody | None = None

    @property
    def left(self) -> bool:
        """True if a part of the request may have left this machine."""
        return self.requests > 0 and (self._body_begun or self.status is not None or not self._traced)

    @property
    def text(self) -> str:
        """Returns the body as text."""
        return self.body.decode("utf-8", errors="replace")

    def on_request(self, request: httpx.Request) -> None:
        """Notes the request of the attempt. Raises SecondRequestError for a second one."""
        if self.requests:
            raise SecondRequestError("one attempt is one request")
        self.requests = 1
        request.extensions["trace"] = self._trace
        try:
            self.sent = json.loads(request.content)
        except ValueError:
            self.sent = None

    def on_response(self, response: httpx.Response) -> None:
        """Notes the status and headers of the response, and limits the size of its body."""
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        whole_chat = not self._streams and any(name in (self.sent or ()) for name in ("messages", "contents"))
        most = MOST_BYTES_OF_AN_ERROR if self.status >= 400 else MOST_BYTES_OF_A_CHAT if whole_chat else MOST_BYTES
        self._stream = stream = bounded(response, most=most, streams=self._streams)
        stream.through, stream.broke, stream.end = self._take, self._broken, self._last_line

    async def aclose(self) -> None:
        """Closes the response, even if it was not read to its end."""
        if self._stream is not None:
            await self._stream.aclose()

    @property
    def _streams(self) -> bool:
        return self.sent is not None and self.sent.get("stream") is True

    async def _trace(self, event: str, info: dict[str, Any]) -> None:
        self._traced = True
        if event.endswith(".send_request_body.started") and info["request"].method != b"CONNECT":  # of a proxy's tunnel
            self._body_begun = True

    def _take(self, piece: bytes) -> bytes:
        """Keeps a piece of the body; returns it, of a stream its whole lines. Raises BodyError: no event comes."""
        start = max(0, len(self.body) - 6)  # the beginning of an event may be spread over two pieces
        self.body += piece
        self._event = max(self._event, self.body.rfind(b"\ndata:", start), self.body.rfind(b"\n{", start))
        if self._streams and len(self.body) - self._event > MOST_BYTES_OF_AN_EVENT:
            raise BodyError(f"{MOST_BYTES_OF_AN_EVENT:,} bytes of the stream came without an event")
        self._line += piece
        end = max(self._line.rfind(b"\n"), self._line.rfind(b"\r")) + 1 if self._streams else 0
        lines = bytes(self._line[:end])
        del self._line[:end]
        return b"".join(map(readable, lines.splitlines(keepends=True)))

    def _last_line(self) -> bytes:
        return readable(bytes(self._line))

    def _broken(self, error: Exception) -> None:
        self.broke = error
