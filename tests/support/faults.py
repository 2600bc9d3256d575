"""Replies of the fault server: the failures of providers' servers, and good answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fault_server import Exchange, Reply
from good_answers import Good, answer, sse

from testronaut_llm.testing.cassette_format import field_to_body, from_yaml

Headers = Mapping[str, str]
_REQUEST_ID = {"x-request-id": "req-fault-1", "request-id": "req-fault-1"}

# Status, message, code at OpenAI, type at Anthropic, as documented. `data/error_messages.yaml` has what servers said.
_INVALID, _REQUESTS = "invalid_request_error", "Rate limit reached on requests per min (RPM): Limit 3, Used 3."
_CASES: Mapping[str, tuple[int, str, str | None, str]] = {
    "bad_request": (400, "Invalid role: 'robot'.", "invalid_value", _INVALID),
    "context": (400, "prompt is too long: 9001 tokens > 8192 maximum", "context_length_exceeded", _INVALID),
    "content_filter": (400, "Rejected as a result of our safety system.", "content_policy_violation", _INVALID),
    "authentication": (401, "Incorrect API key provided: wrong*key.", "invalid_api_key", "authentication_error"),
    "payment": (402, "Add credits to continue.", "insufficient_credits", "billing_error"),
    "permission": (403, "No access to model `big-one`.", "model_not_found", "permission_error"),
    "not_found": (404, "The model `no-such` does not exist.", "model_not_found", "not_found_error"),
    "conflict": (409, "The resource was updated by another process.", None, "conflict_error"),
    "too_large": (413, "Request too large.", None, "request_too_large"),
    "rate_limit": (429, f"{_REQUESTS} Please try again in 20s.", "rate_limit_exceeded", "rate_limit_error"),
    "quota": (429, "You exceeded your current quota.", "insufficient_quota", "billing_error"),
    "server_error": (500, "The server had an error while processing your request.", None, "api_error"),
    "no_memory": (500, "model requires more system memory (5.6 GiB) than is available (2.1 GiB)", None, "api_error"),
    "bad_gateway": (502, "502 Bad Gateway", None, "html"),
    "unavailable": (503, "Please try again later.", None, "api_error"),
    "gateway_timeout": (504, "504 Gateway Time-out", None, "html"),
    "overloaded": (529, "Overloaded", "engine_overloaded", "overloaded_error"),
}
_OLLAMA = {"context": "the input length exceeds the context length", "rate_limit": "too many requests"}


def good(text: str = Good.text, *, headers: Headers | None = None, **facts: Any) -> Reply:
    """A good answer in the wire and mode that the request asks for; `facts` are fields of `Good`."""

    def reply(exchange: Exchange) -> None:
        kind, pieces = _answer(exchange, Good(text=text, **facts))
        if len(pieces) == 1:
            exchange.respond(200, kind, pieces[0], {**_REQUEST_ID, **(headers or {})})
        else:
            _stream(exchange, kind, [*pieces, b""], headers)

    return reply


def error(case: str, *, retry_after: str = "", headers: Headers | None = None) -> Reply:
    """The provider's own error body for a failure."""

    def reply(exchange: Exchange) -> None:
        status, message, _, kind = _CASES[case]
        if kind == "html":
            text, content_type = f"<html>\r\n<body><h1>{message}</h1></body>\r\n</html>\r\n", "text/html"
        else:
            text, content_type = json.dumps(_error_body(exchange.request.wire, case)), "application/json"
        waiting = {"retry-after": retry_after} if retry_after else {}
        exchange.respond(status, content_type, text.encode(), {**_REQUEST_ID, **waiting, **(headers or {})})

    return reply


def _error_body(wire: str, case: str) -> Any:
    status, message, code, kind = _CASES[case]
    if wire == "ollama":
        return {"error": _OLLAMA.get(case, message)}
    if wire == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CTest"}
    kind = _INVALID if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def raw(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.respond(status, content_type, body, named)


def recorded(name: str) -> Reply:
    """The answer of a real Ollama server, by its key in `data/ollama/exchanges.yaml`."""
    file = Path(__file__).parent / "data" / "ollama" / "exchanges.yaml"
    response = from_yaml(file.read_text())["exchanges"][name]["response"]
    kind = response["headers"].get("content-type", "application/json")
    return raw(response["status"], field_to_body(response), kind)


def echo(exchange: Exchange) -> None:
    exchange.respond(200, "application/json", exchange.request.raw)


def redirect(url: str) -> Reply:
    """A client that follows it would send the whole prompt to another host."""
    return lambda exchange: exchange.respond(307, "text/plain", b"", {"location": url + exchange.request.path})


def late(seconds: float, reply: Reply) -> Reply:
    def wait_first(exchange: Exchange) -> None:
        exchange.wait(seconds)
        reply(exchange)

    return wait_first


def dripping(seconds: float = 0.02, text: str = Good.text) -> Reply:
    """A good answer, one byte at a time, so that no read times out."""

    def reply(exchange: Exchange) -> None:
        body = _begun(exchange, text)
        for position in range(len(body)):
            exchange.send(body[position : position + 1])
            exchange.wait(seconds)

    return reply


def cut_body(exchange: Exchange) -> None:
    body = _begun(exchange)
    exchange.send(body[: len(body) // 2])
    exchange.close()


def reset_after_headers(exchange: Exchange) -> None:
    _begun(exchange)
    exchange.reset()


def _cut(end: Reply) -> Reply:
    """Half of a stream, or of a JSON body, then the given end."""

    def reply(exchange: Exchange) -> None:
        kind, pieces = _answer(exchange, Good())
        _stream(exchange, kind, pieces[: len(pieces) // 2] or [pieces[0][: len(pieces[0]) // 2]])
        end(exchange)

    return reply


def _tear(exchange: Exchange) -> None:
    exchange.send(b"400\r\n{")
    exchange.close()


silent = Exchange.wait
reset_before_headers = Exchange.reset
cut_stream_clean = _cut(lambda exchange: exchange.chunk(b""))  # as if it were whole, but without its finish
cut_stream_unclean = _cut(_tear)  # in the middle of a chunk
reset_in_stream = _cut(late(0.05, Exchange.reset))  # when the client has read what came first
stalled_stream = _cut(silent)  # the connection stays open


def error_in_stream(case: str = "overloaded", *, after: int = 0, body: Any = None) -> Reply:
    """Status 200, no or one piece of text, then the provider's error or this body as an event."""

    def reply(exchange: Exchange) -> None:
        wire = exchange.request.wire
        kind, pieces = _answer(exchange, Good())
        first = next(number for number, piece in enumerate(pieces, 1) if b"Hello" in piece)
        event = body or _error_body(wire, case)
        last = json.dumps(event).encode() + b"\n" if wire == "ollama" else sse(event, "error" * (wire == "anthropic"))
        _stream(exchange, kind, [*pieces[: after * first], last, b""])

    return reply


def no_choices(exchange: Exchange) -> None:
    """A well-formed answer, or stream, without a choice."""
    kind, pieces = _answer(exchange, Good(text=""))
    if kind == "application/json":
        whole = {name: value for name, value in json.loads(pieces[0]).items() if name != "message"}
        emptied = {name: [] for name in ("choices", "content") if name in whole}
        exchange.respond(200, kind, json.dumps(whole | emptied).encode())
    else:
        empty = [sse({"choices": []}), sse("[DONE]")] if exchange.request.wire in ("openai", "azure") else pieces
        _stream(exchange, kind, [*empty, b""])


def _answer(exchange: Exchange, what: Good) -> tuple[str, list[bytes]]:
    return answer(exchange.request.wire, exchange.request.path, exchange.request.body, what)


def _begun(exchange: Exchange, text: str = Good.text) -> bytes:
    """Sends the headers of a good answer, and returns its body."""
    kind, pieces = _answer(exchange, Good(text=text))
    body = b"".join(pieces)
    exchange.head(200, {"content-type": kind, "content-length": str(len(body))})
    return body


def _stream(exchange: Exchange, kind: str, pieces: list[bytes], headers: Headers | None = None) -> None:
    """Sends the beginning of a stream; an empty piece ends it."""
    exchange.head(200, {"content-type": kind, "transfer-encoding": "chunked", **_REQUEST_ID, **(headers or {})})
    for piece in pieces:
        exchange.chunk(piece)


BAD_BODIES: Mapping[str, Reply] = {
    "empty": raw(200, b""),
    "html": raw(200, b"<html><body><h1>Sign in to the hotel Wi-Fi</h1></body></html>", "text/html"),
    "html as json": raw(200, b"<html><body>Maintenance</body></html>"),
    "wrong shape": raw(200, b'{"hello": "world"}'),
    "null": raw(200, b"null"),
    "no choices": no_choices,
    "huge": raw(200, b'{"padding": "%s"}' % (b"x" * 8_000_000)),
    "broken gzip": raw(200, gzip.compress(b'{"choices": []}')[:10] + b"\x00 is not gzip", content_encoding="gzip"),
    "not utf-8": raw(200, b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "empty text": good(text=""),
    "reasoning only": good(text="", reasoning="First I should think about the question at length."),
    "no finish": good(finish=None),
}
BROKEN: Mapping[str, Reply] = {
    "closed before headers": Exchange.close,
    "reset before headers": reset_before_headers,
    "reset after headers": reset_after_headers,
    "cut body": cut_body,
}
