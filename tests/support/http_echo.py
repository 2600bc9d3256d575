"""A small real HTTP server that answers with what it was told, for tests of the test tools."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


class EchoServer:
    """Answers `POST` with the posted body, `GET` with the path; counts requests."""

    def __init__(
        self, *, headers: dict[str, str] | None = None, body: bytes | None = None, zipped: bool = False
    ) -> None:
        self.requests = 0
        self.headers, self.body, self.zipped = headers or {}, body, zipped
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> EchoServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(echo: EchoServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["content-length"])))

        def do_GET(self) -> None:
            self._answer(self.path.encode())

        def _answer(self, received: bytes) -> None:
            echo.requests += 1
            body = received if echo.body is None else echo.body
            self.send_response(200)
            if echo.zipped:
                body = gzip.compress(body)
                self.send_header("content-encoding", "gzip")
            for name, value in {"content-type": "application/json", **echo.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler
