"""A reverse proxy that shows a llama.cpp server under Azure's URLs, to record cassettes of that form.

Bodies and statuses pass unchanged; only the address and the header of the key are translated:
`/openai/deployments/<name>/<call>?api-version=...` with `api-key`, and `/openai/v1/<call>` with `Authorization: Bearer`
or `api-key`. Any other call gets status 599, which no server behind it sends.
"""

from __future__ import annotations

import re
import threading
from http.client import HTTPConnection, HTTPMessage, HTTPResponse  # now: while a cassette is open it is vcrpy's
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

_CLASSIC = re.compile(r"/openai/deployments/[^/]+(/.+)")
_V1 = re.compile(r"/openai/v1(/.+)")
_ANSWER_HEADERS = ("content-type",)


class WireProxy:
    """Runs while its block does; `.url` is what to put into `api_base`.

    Args:
        api_base: the server behind it, ending in `/v1`.
    """

    def __init__(self, api_base: str) -> None:
        self.upstream = urlsplit(api_base)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> WireProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def translate(path: str, headers: HTTPMessage) -> tuple[str, str] | None:
    """The call and the key of a request in Azure's form, or None for another form."""
    url = urlsplit(path)
    bearer = headers.get("Authorization", "").removeprefix("Bearer ")
    if found := _CLASSIC.fullmatch(url.path):
        dated = "api-version" in parse_qs(url.query)
        return (found[1], headers["api-key"]) if dated and headers["api-key"] else None
    if found := _V1.fullmatch(url.path):
        key = headers["api-key"] or bearer
        return (found[1], key) if key else None
    return None


def _handler(proxy: WireProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            call = translate(self.path, self.headers)
            if call is None:
                self._refuse()
                return
            path, key = call
            upstream = HTTPConnection(proxy.upstream.hostname or "", proxy.upstream.port, timeout=60)
            with_key = {"Authorization": f"Bearer {key}", "Content-Type": self.headers["content-type"]}
            upstream.request("POST", proxy.upstream.path + path, body, with_key)
            with upstream.getresponse() as answer:
                self._pass_on(answer)
            upstream.close()

        def _pass_on(self, answer: HTTPResponse) -> None:
            self.send_response(answer.status)
            for name in _ANSWER_HEADERS:
                self.send_header(name, answer.headers[name])
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            while piece := answer.read1(65536):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def _refuse(self) -> None:
            self.send_response(599, "not in an Azure form, or without its key")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    return Handler
