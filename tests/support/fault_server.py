"""A real HTTP server on loopback that does what providers do when they fail, in a planned order.

`server.plan("first", error("rate_limit"), good())` is an endpoint with a port of its own; its last reply repeats.
Replies are made in `faults.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any, BinaryIO, Self
from urllib.parse import parse_qsl, urlsplit

Reply = Callable[["Exchange"], None]
_KEY_HEADERS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request. Keys are masked in `headers`; `has_key` is true if this one was sent, plain or `Bearer`."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes = field(repr=False)
    at: float
    keys: Mapping[str, str] = field(repr=False)

    @property
    def body(self) -> Any:
        with contextlib.suppress(ValueError):
            return json.loads(self.raw)
        return None

    @property
    def wire(self) -> str:
        if "/openai/deployments/" in self.path or self.path.startswith("/openai/v1/"):
            return "azure"
        if self.path.endswith("/messages"):
            return "anthropic"
        return "ollama" if "/api/" in self.path else "openai"

    def has_key(self, header: str, key: str) -> bool:
        return self.keys.get(header.lower(), "").removeprefix("Bearer ") == key


class Exchange:
    """One request to answer, and ways to answer it wrongly."""

    def __init__(self, sock: socket.socket, request: Received, endpoint: Endpoint) -> None:
        self.request, self.endpoint, self.open = request, endpoint, True
        self._sock, self.send = sock, sock.sendall

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def respond(self, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.head(status, {"content-type": content_type, "content-length": str(len(body)), **(headers or {})})
        self.send(body)

    def chunk(self, data: bytes) -> None:
        """Sends one chunk of a chunked body; an empty one ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def wait(self, seconds: float = float("inf")) -> None:
        """Do nothing, until the client hangs up, the server closes or the seconds are over."""
        end = time.monotonic() + seconds
        while not self.endpoint.closing.is_set() and (left := end - time.monotonic()) > 0:
            if select.select([self._sock], [], [], min(0.05, left))[0] and not self._sock.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError

    def close(self) -> None:
        self.open = False
        _shut_down(self._sock)

    def reset(self) -> None:
        self.open = False
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Endpoint(ThreadingTCPServer):
    """One port of the server, with its plan and what it saw."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.port: int = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.open: set[socket.socket] = set()
        self.requests = self.asked = list[Received]()
        self.plan()
        threading.Thread(target=self._run, daemon=True).start()

    def plan(self, *replies: Reply) -> Self:
        """Answer with these, one a request; the last one repeats. Drops the old plan and the recorded requests."""
        with self.lock:
            self.replies = replies or (lambda exchange: exchange.respond(599, "text/plain", b"no plan"),)
            self.requests.clear()
            self.connections = 0
        return self

    def reply_to(self, request: Received) -> Reply:
        with self.lock:
            self.requests.append(request)
            return self.replies[min(len(self.requests), len(self.replies)) - 1]

    def stop(self) -> None:
        """Refuse connections from now on, and drop those that are open."""
        self.closing.set()
        _shut_down(self.socket)
        self.server_close()
        with self.lock:
            for sock in self.open:
                _shut_down(sock)

    def _run(self) -> None:
        with contextlib.suppress(ValueError):  # the socket was closed
            while not self.closing.is_set():
                self.handle_request()

    def shutdown_request(self, request: Any) -> None:
        request.close()  # without the usual shutdown, which would come before a reset

    def handle_error(self, request: Any, client_address: Any) -> None:
        raise  # noqa: PLE0704 - it is called in an `except`; an error in a thread fails the test


class _Connection(StreamRequestHandler):
    server: Endpoint
    disable_nagle_algorithm = True  # or an answer in two parts takes 40 ms

    def handle(self) -> None:
        with self.server.lock:
            self.server.connections += 1
            self.server.open.add(self.connection)
        with contextlib.suppress(OSError):
            exchange: Exchange | None = None
            while (exchange is None or exchange.open) and (request := _read(self.rfile)):
                exchange = Exchange(self.connection, request, self.server)
                self.server.reply_to(request)(exchange)
        with self.server.lock:
            self.server.open.discard(self.connection)


class FaultServer(contextlib.ExitStack):
    def __init__(self, kind: type[Endpoint] = Endpoint) -> None:
        super().__init__()
        self.kind, self.endpoints = kind, dict[str, Endpoint]()

    def plan(self, name: str, *replies: Reply) -> Any:
        """The endpoint of this name, made when it is new, with a new plan."""
        if name not in self.endpoints:
            self.endpoints[name] = self.kind()
            self.callback(self.endpoints[name].stop)
        return self.endpoints[name].plan(*replies)


def refused() -> str:
    """A URL on loopback where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _read(reader: BinaryIO) -> Received | None:
    first = reader.readline(65536).split()
    if len(first) != 3:
        return None
    headers = {name.lower(): value for name, value in http.client.parse_headers(reader).items()}
    url = urlsplit(first[1].decode())
    keys = {name: headers[name] for name in _KEY_HEADERS if name in headers}
    return Received(
        method=first[0].decode(),
        path=url.path,
        query=dict(parse_qsl(url.query)),
        headers={**headers, **{name: f"<{len(key)} characters>" for name, key in keys.items()}},
        raw=reader.read(int(headers.get("content-length", 0))),
        at=time.monotonic(),
        keys=keys,
    )
