"""Unpacks the body of a response piece by piece, up to a bound: a few bytes can expand to gigabytes.

httpx unpacks any chain of `content-encoding`, a whole chunk at once. Here that header is removed, so that httpx unpacks
nothing, and the body is replaced by a stream of ours.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

MOST_BYTES = 64 * 1024 * 1024
"""Most bytes of a body, packed and unpacked."""
MOST_PARTS = 250_000
"""Most lists and objects of one JSON document: 25 bytes of it can become kilobytes of Python objects."""
BYTES_OF_A_PART = 12
"""A stream may hold one more in each so many bytes; the shortest events that servers send hold one in 11.75."""
PIECE = 64 * 1024
"""Most bytes unpacked at a time."""
_GZIP_OR_ZLIB = 47  # zlib's `wbits` for both headers


class BodyError(httpx.DecodingError):
    """The body is too large, damaged, or packed other than once with gzip or deflate."""


class BoundedBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of a response, for sync and async clients. It undoes at most one layer of gzip or deflate.

    It may have `most` bytes, packed and unpacked, and `MOST_PARTS` lists and objects; more if it `streams` documents.
    """

    def __init__(self, response: httpx.Response, most: int, *, streams: bool) -> None:
        kind = response.headers.get("content-type", "")
        self.most, self.streams = most, streams or "event-stream" in kind or "ndjson" in kind
        self.through: Callable[[bytes], bytes] = bytes  # takes each unpacked piece, returns the bytes for the reader
        self.end: Callable[[], bytes] = bytes  # returns the bytes after the last piece of a complete body
        self.broke: Exception | None = None  # what ended the body of an async client
        self._stream: Any = response.stream
        self._encoding = response.headers.get("content-encoding", "").strip().lower()
        self._inflate = None if self._encoding in ("", "identity") else zlib.decompressobj(_GZIP_OR_ZLIB)
        self._came = self._became = self._parts = 0

    def _pieces(self, chunk: bytes) -> Iterator[bytes]:
        if self._inflate is not None and self._encoding not in ("gzip", "x-gzip", "deflate"):
            raise BodyError(f"its content-encoding is {self._encoding[:60]!r}; expected none, gzip or deflate")
        self._came += len(chunk)
        while chunk:
            piece, chunk = self._unpacked(chunk) if self._inflate is not None else (chunk, b"")
            left = self.most - self._became
            self._became += len(piece)
            self._parts += piece.count(b"{") + piece.count(b"[")
            yield self.through(piece[:left])
            if max(self._came, self._became) > self.most:
                raise BodyError(f"the body is larger than {self.most:,} bytes, and was not read to its end")
            most = MOST_PARTS + (self._became // BYTES_OF_A_PART if self.streams else 0)
            if self._parts > most:
                raise BodyError(f"the body holds more than {most:,} lists and objects, and was not read to its end")

    def _unpacked(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Returns a piece of the unpacked chunk, and the remaining chunk; bytes after the end are dropped."""
        inflate: Any = self._inflate
        try:
            return inflate.decompress(chunk, PIECE), inflate.unconsumed_tail
        except zlib.error as error:
            raise BodyError(f"the body is not valid {self._encoding} ({error})") from None

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            yield from self._pieces(chunk)
        yield self.end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                for piece in self._pieces(chunk):
                    yield piece
                    if self._inflate is not None:
                        await asyncio.sleep(0)  # one packed chunk can take minutes: allows the deadline to cancel
            yield self.end()
        except Exception as error:
            self.broke = error
            raise

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


def bounded(response: httpx.Response, *, most: int = MOST_BYTES, streams: bool = False) -> BoundedBody:
    """Bounds the unread body of a response, and returns it. Also a response hook of sync clients."""
    response.stream = body = BoundedBody(response, most, streams=streams)
    response.headers.pop("content-encoding", None)
    return body
