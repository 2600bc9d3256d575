"""What really went over the wire in one attempt, seen from hooks on an HTTP client of ours.

LiteLLM repairs, renames and invents: a missing finish reason becomes `stop`, a missing usage is
counted, a 529 becomes a 500. Here status, headers and body are kept as they came. The clients follow
no redirect (the prompt and the key would go along) and never use a proxy for loopback.
"""

from __future__ import annotations

import json
import os
import ssl
import zlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httpx

from testronaut_llm.providers.endpoint import is_loopback

MOST_BYTES = 64 * 1024 * 1024
"""A body longer than this is no answer of a model; reading on would only fill the memory."""
MOST_BYTES_OF_A_LINE, MOST_BYTES_OF_AN_ERROR = 1024 * 1024, 64 * 1024
"""Of a stream's line, and of a body under an error status: LiteLLM puts both into its exceptions and searches those
for secrets, at ten seconds a megabyte, on the caller's event loop."""

current: ContextVar[Exchange | None] = ContextVar("testronaut_llm_exchange", default=None)
"""The attempt that requests of this thread or task belong to."""


class BodyTooLargeError(Exception):
    """The body went past what an answer, a stream's line or an error may have."""


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
    _line: int = 0
    _stream: httpx.AsyncByteStream | None = None

    async def aclose(self) -> None:
        """Ends the response, read to its end or not."""
        if self._stream is not None:
            await self._stream.aclose()

    @property
    def text(self) -> str:
        """The body as text, unpacked; what cannot be unpacked is left out."""
        raw = bytes(self.body)
        if self.headers.get("content-encoding", "").lower() in ("gzip", "deflate", "x-gzip"):
            try:
                raw = zlib.decompressobj(wbits=47).decompress(raw, MOST_BYTES)
            except zlib.error:
                return ""
        return raw.decode("utf-8", errors="replace")

    def take(self, chunk: bytes) -> bytes:
        """Keeps a piece of the body.

        Raises:
            BodyTooLargeError: the body is longer than any answer.
        """
        self.body += chunk
        self._line = len(chunk) - chunk.rfind(b"\n") - 1 + (0 if b"\n" in chunk else self._line)
        streams = self.sent is not None and self.sent.get("stream") is True
        most = MOST_BYTES if self.status is None or self.status < 400 else MOST_BYTES_OF_AN_ERROR
        if len(self.body) > most or (streams and self._line > MOST_BYTES_OF_A_LINE):
            raise BodyTooLargeError
        return chunk


class _Tee(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, exchange: Exchange) -> None:
        self._stream, self._exchange = stream, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield self._exchange.take(chunk)
        except Exception as error:
            self._exchange.broke = error
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()


def async_client(url: str | None) -> httpx.AsyncClient:
    """Returns a client for one endpoint; what it carries ends in the current `Exchange`."""

    async def on_request(request: httpx.Request) -> None:
        _on_request(request)

    async def on_response(response: httpx.Response) -> None:
        _on_response(response)

    return httpx.AsyncClient(event_hooks={"request": [on_request], "response": [on_response]}, **_settings(url))


def _on_request(request: httpx.Request) -> None:
    if (exchange := current.get()) is None:
        return
    if exchange.requests:
        raise SecondRequestError("one attempt is one request")
    exchange.requests += 1
    try:
        exchange.sent = json.loads(request.content)
    except ValueError:
        exchange.sent = None


def _on_response(response: httpx.Response) -> None:
    if (exchange := current.get()) is None:
        return
    exchange.status = response.status_code
    exchange.headers = {name.lower(): value for name, value in response.headers.items()}
    if isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = exchange._stream = _Tee(response.stream, exchange)  # noqa: SLF001 - same idea, same file


def _settings(url: str | None) -> dict[str, Any]:
    plain_loopback = url is not None and is_loopback(url) and url.startswith("http:")
    return {
        "follow_redirects": False,
        "trust_env": url is None or not is_loopback(url),
        "headers": {"accept-encoding": "gzip, deflate"},
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0),
        "verify": False if plain_loopback else _tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
    }


@lru_cache(maxsize=4)
def _tls(file: str | None, folder: str | None) -> ssl.SSLContext:
    """What trusts servers, for all clients: reading the certificate store takes tens of milliseconds."""
    return httpx.create_ssl_context(trust_env=bool(file or folder))
