"""A real HTTP server on loopback that does what providers do when they fail, in a planned order.

::

    with FaultServer() as server:
        api = server.plan("first", error("rate_limit", retry_after="2"), good())
        ...                                   # call api.url
        assert [r.path for r in api.requests] == [...]

Each endpoint has its own port. The last reply of a plan repeats. Replies are made in `faults.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

Reply = Callable[["Exchange"], None]
_KEY_HEADERS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request as it came. Keys are masked in `headers`; `has_key` is true if a given one was sent."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes = field(repr=False)
    at: float
    connection: int
    key_digests: Mapping[str, str] = field(repr=False)

    @property
    def body(self) -> Any:
        """The JSON body, or None."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return None

    @property
    def wire(self) -> str:
        """Name of the wire, by path."""
        if "/openai/deployments/" in self.path or self.path.startswith("/openai/v1/"):
            return "azure"
        if self.path.endswith("/messages"):
            return "anthropic"
        return "ollama" if "/api/" in self.path else "openai"

    def has_key(self, header: str, key: str) -> bool:
        """True if this header carried this key, with or without `Bearer`."""
        return self.key_digests.get(header.lower()) == _digest(key)


class Exchange:
    """One request to answer, and ways to answer it wrongly."""

    def __init__(self, sock: socket.socket, request: Received, endpoint: Endpoint) -> None:
        self.request, self.endpoint = request, endpoint
        self.open = True
        self._sock = sock

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and the headers."""
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def respond(self, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Sends a complete and correct response."""
        length = {"content-type": content_type, "content-length": str(len(body))}
        self.head(status, {**length, **(headers or {})})
        self.send(body)

    def chunk(self, data: bytes) -> None:
        """Sends one chunk of a chunked body; an empty one ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def wait(self, seconds: float | None = None) -> None:
        """Do nothing, until the client hangs up, the server closes or the seconds are over."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self.endpoint.closing.is_set() and (end is None or time.monotonic() < end):
            left = 0.05 if end is None else min(0.05, max(0.0, end - time.monotonic()))
            if select.select([self._sock], [], [], left)[0] and not self._sock.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError

    def close(self) -> None:
        """End the connection in the usual way."""
        self.open = False
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Closes the connection with a reset."""
        self.open = False
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Endpoint:
    """One port of the server, with its plan and what it saw."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.closing = threading.Event()
        self._replies: list[Reply] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def plan(self, *replies: Reply) -> Endpoint:
        """Answer with these, one a request; the last one repeats. Drops the old plan and the recorded requests."""
        with self._lock:
            self._replies = list(replies)
            self.requests.clear()
            self.connections = 0
        return self

    def stop(self) -> None:
        """Refuse connections from now on, and drop those that are open."""
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or an answer in two parts takes 40 ms
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
                thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as reader:
            exchange: Exchange | None = None
            while exchange is None or exchange.open:
                request = _read(reader, number)
                if request is None:
                    break
                exchange = Exchange(sock, request, self)
                self._next(request)(exchange)
        with self._lock:
            self._open.discard(sock)

    def _next(self, request: Received) -> Reply:
        with self._lock:
            self.requests.append(request)
            index = min(len(self.requests), len(self._replies)) - 1
            return self._replies[index] if self._replies else _no_plan


class FaultServer:
    """Endpoints by name, each on a port of its own."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for endpoint in self.endpoints.values():
            endpoint.stop()

    def plan(self, name: str, *replies: Reply) -> Endpoint:
        """The endpoint of this name, made when it is new, with a new plan."""
        if name not in self.endpoints:
            self.endpoints[name] = Endpoint()
        return self.endpoints[name].plan(*replies)


def refused() -> str:
    """A URL on loopback where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def _no_plan(exchange: Exchange) -> None:
    exchange.respond(599, "text/plain", b"the fault server has no plan for this endpoint")


def _read(reader: BinaryIO, connection: int) -> Received | None:
    first = reader.readline(65536).split()
    if len(first) != 3:
        return None
    headers = {name.lower(): value for name, value in http.client.parse_headers(reader).items()}
    url = urlsplit(first[1].decode())
    return Received(
        method=first[0].decode(),
        path=url.path,
        query=dict(parse_qsl(url.query)),
        headers={name: _masked(name, value) for name, value in headers.items()},
        raw=_read_body(reader, headers),
        at=time.monotonic(),
        connection=connection,
        key_digests={name: _digest(headers[name].removeprefix("Bearer ")) for name in _KEY_HEADERS if name in headers},
    )


def _read_body(reader: BinaryIO, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return reader.read(int(headers.get("content-length", 0)))
    parts = []
    while size := int(reader.readline().split(b";")[0], 16):
        parts.append(reader.read(size))
        reader.readline()
    reader.readline()
    return b"".join(parts)


def _masked(name: str, value: str) -> str:
    return f"<{len(value)} characters>" if name in _KEY_HEADERS else value


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
