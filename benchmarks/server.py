"""A server on loopback that answers every chat with the same text, or JSON if asked, for the speed benchmarks.

Prints its port. `GET /0.3` tells how many requests came and makes later answers take 0.3 s.
"""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT, DOCUMENT = "hello", '{"text": "hello"}'


def answer(content: str) -> bytes:
    """Returns the body of a chat completion."""
    document = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
    return json.dumps(document).encode()


ANSWER, JSON_ANSWER = answer(TEXT), answer(DOCUMENT)


class Handler(BaseHTTPRequestHandler):
    """Answers after a delay, if one is set."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Head and body in one packet, as real servers send them.
    asked, delay = 0, 0.0

    def do_POST(self) -> None:
        """Answers a chat."""
        asked = self.rfile.read(int(self.headers["content-length"]))
        Handler.asked += 1
        time.sleep(Handler.delay)
        self._send(JSON_ANSWER if b'"response_format"' in asked else ANSWER)

    def do_GET(self) -> None:
        """Sends the number of requests; later answers take as many seconds as the path says."""
        told, Handler.asked, Handler.delay = str(Handler.asked).encode(), 0, float(self.path[1:])
        self._send(told)

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer.request_queue_size = 1024
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
