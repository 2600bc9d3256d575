"""A reverse proxy that shows a llama.cpp server under Azure's URLs, to record cassettes of that form.

Bodies and statuses pass unchanged; only the address and the header of the key are translated:
`/openai/deployments/<name>/<call>?api-version=...` with `api-key`, and `/openai/v1/<call>` with `Authorization: Bearer`
or `api-key`. Any other call gets status 599, which no server behind it sends.
"""

from __future__ import annotations

import re
from http.client import HTTPConnection  # now: while a cassette is open it is vcrpy's
from urllib.parse import urlsplit

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response
from werkzeug.serving import WSGIRequestHandler

WSGIRequestHandler.protocol_version = "HTTP/1.0"  # else a threaded server changes it for all servers of the process


class WireProxy(HTTPServer):
    """Runs while its block does; `.url` is what to put into `api_base`. The server behind it ends in `/v1`."""

    def __init__(self, api_base: str) -> None:
        super().__init__(threaded=True)
        self.upstream = urlsplit(api_base)
        self.expect_request(re.compile("")).respond_with_handler(self._pass_on)

    @property
    def url(self) -> str:
        return self.url_for("").rstrip("/")

    def _pass_on(self, request: Request) -> Response:
        key = request.headers.get("api-key", "")
        if found := re.fullmatch(r"/openai/deployments/[^/]+(/.+)", request.path):
            key = key if "api-version" in request.args else ""
        elif found := re.fullmatch(r"/openai/v1(/.+)", request.path):
            key = key or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not (found and key):
            return Response("not in an Azure form, or without its key", 599)
        upstream = HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=60)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": request.headers["Content-Type"]}
        upstream.request("POST", self.upstream.path + found[1], request.get_data(), headers)
        with upstream.getresponse() as answer:
            passed = Response(answer.read(), answer.status, {"Content-Type": answer.headers["content-type"]})
        upstream.close()
        return passed
