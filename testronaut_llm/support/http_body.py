"""Unpacks bodies of responses piece by piece, up to a bound: a few bytes can expand to gigabytes.

httpx unpacks any chain of `content-encoding`, a whole chunk at once. A response hook removes that header, so that
httpx unpacks nothing, and replaces the body by a stream of ours.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

MOST_BYTES = 64 * 1024 * 1024
"""Most bytes of a body, packed and unpacked."""
MOST_PARTS = 250_000
"""Most lists and objects of one JSON document: 25 bytes of it can become kilobytes of Python objects."""
PIECE = 64 * 1024
"""Most bytes unpacked at a time."""
_GZIP_OR_ZLIB = 47  # zlib's `wbits` for both headers

Take = Callable[[bytes], Iterator[bytes]]


class BodyError(httpx.DecodingError):
    """The body is too large, damaged, or packed other than once with gzip or deflate."""


class Unpacker:
    """Unpacks at most one layer of gzip or deflate.

    `most` bounds the packed and the unpacked bytes. A stream of documents may have any number of parts.
    """

    def __init__(self, encoding: str = "", *, most: int = MOST_BYTES, streams: bool = False) -> None:
        self._encoding, self._most, self._streams = encoding.strip().lower(), most, streams
        self._came = self._became = self._parts = 0
        self._inflate = None if self._encoding in ("", "identity") else zlib.decompressobj(_GZIP_OR_ZLIB)

    def take(self, chunk: bytes) -> Iterator[bytes]:
        """Yields the chunk, unpacked, in pieces; the last one before a BodyError is cut at the bound."""
        if self._inflate is not None and self._encoding not in ("gzip", "x-gzip", "deflate"):
            raise BodyError(f"its content-encoding is {self._encoding[:60]!r}; expected none, gzip or deflate")
        self._came += len(chunk)
        while chunk:
            piece, chunk = self._inflated(self._inflate, chunk) if self._inflate is not None else (chunk, b"")
            left = self._most - self._became
            self._became += len(piece)
            self._parts += 0 if self._streams else piece.count(b"{") + piece.count(b"[")
            yield piece[:left]
            if max(self._came, self._became) > self._most:
                raise BodyError(f"the body is larger than {self._most:,} bytes, and was not read to its end")
            if self._parts > MOST_PARTS:
                raise BodyError(
                    f"the body holds more than {MOST_PARTS:,} lists and objects, and was not read to its end"
                )

    def _inflated(self, inflate: Any, chunk: bytes) -> tuple[bytes, bytes]:
        """Returns a piece of the unpacked chunk, and the remaining chunk; bytes after the end are dropped."""
        try:
            return inflate.decompress(chunk, PIECE), inflate.unconsumed_tail
        except zlib.error as error:
            raise BodyError(f"the body is not valid {self._encoding} ({error})") from None


def bound(
    response: httpx.Response,
    take: Take,
    broke: Callable[[Exception], None] = lambda _: None,
    end: Callable[[], bytes] = bytes,
) -> None:
    """Passes the unread body of a response through `take`, piece by piece.

    `broke` is called with the error that ends it; `end` returns the bytes after the last piece of a complete body.
    """
    response.headers.pop("content-encoding", None)
    if isinstance(response.stream, httpx.SyncByteStream | httpx.AsyncByteStream):
        response.stream = _Stream(response.stream, take, broke, end)


def bounded(response: httpx.Response) -> None:
    """A response hook: the body is unpacked once at most, and stays within `MOST_BYTES` and `MOST_PARTS`."""
    bound(response, unpacker(response).take)


def unpacker(response: httpx.Response, *, most: int = MOST_BYTES, streams: bool = False) -> Unpacker:
    """Returns the unpacker for the body of this response."""
    kind = response.headers.get("content-type", "")
    streams = streams or "event-stream" in kind or "ndjson" in kind
    return Unpacker(response.headers.get("content-encoding", ""), most=most, streams=streams)


class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of a response, for sync and async clients; `stream` is the original one."""

    def __init__(self, stream: Any, take: Take, broke: Callable[[Exception], None], end: Callable[[], bytes]) -> None:
        self._stream, self._take, self._broke, self._end = stream, take, broke, end

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            yield from filter(None, self._take(chunk))
        yield self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                for piece in filter(None, self._take(chunk)):
                    yield piece
                    if len(chunk) < len(piece):
                        await asyncio.sleep(0)  # one packed chunk can take minutes: allows the deadline to cancel
            yield self._end()
        except Exception as error:
            self._broke(error)
            raise

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()
