"""Replies of the fault server: the failures of providers' servers, and good answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from error_bodies import ERRORS, error_body
from fault_server import Exchange, Reply
from good_answers import Good, answer, sse

from testronaut_llm.testing.cassette_format import field_to_body, from_yaml

_REQUEST_ID = {"x-request-id": "req-fault-1", "request-id": "req-fault-1"}


def good(text: str = Good.text, *, headers: Mapping[str, str] | None = None, **facts: Any) -> Reply:
    """A good answer in the wire and mode that the request asks for; `facts` are fields of `Good`."""
    what = Good(text=text, **facts)

    def reply(exchange: Exchange) -> None:
        kind, pieces = _answer(exchange, what)
        if len(pieces) == 1:
            exchange.respond(200, kind, pieces[0], {**_REQUEST_ID, **(headers or {})})
        else:
            _stream(exchange, kind, pieces, headers)
            exchange.chunk(b"")

    return reply


def error(case: str, *, retry_after: str | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    """The provider's own error body for a case of `error_bodies.py`."""

    def reply(exchange: Exchange) -> None:
        status, kind, body = error_body(exchange.request.wire, case)
        waiting = {} if retry_after is None else {"retry-after": retry_after}
        exchange.respond(status, kind, body, {**_REQUEST_ID, **waiting, **(headers or {})})

    return reply


def raw(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Reply:
    """Any status with any body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.respond(status, content_type, body, named)


def echo(exchange: Exchange) -> None:
    """Sends back the body that was sent."""
    exchange.respond(200, "application/json", exchange.request.raw)


def redirect(url: str) -> Reply:
    """A 307 to another host, to which a client that follows it would send the whole prompt."""
    return lambda exchange: exchange.respond(307, "text/plain", b"", {"location": url + exchange.request.path})


def silent(exchange: Exchange) -> None:
    """Never answers."""
    exchange.wait()


def late(seconds: float, reply: Reply) -> Reply:
    """Answers after so many seconds."""

    def wait_first(exchange: Exchange) -> None:
        exchange.wait(seconds)
        reply(exchange)

    return wait_first


def dripping(seconds: float = 0.02, text: str = Good.text) -> Reply:
    """A good answer, one byte at a time, so that no read times out."""

    def reply(exchange: Exchange) -> None:
        kind, pieces = _answer(exchange, Good(text=text))
        body = b"".join(pieces)
        exchange.head(200, {"content-type": kind, "content-length": str(len(body))})
        for position in range(len(body)):
            exchange.send(body[position : position + 1])
            exchange.wait(seconds)

    return reply


def _head(*sent: bytes) -> Reply:
    """Some bytes of a response, then a reset."""

    def reply(exchange: Exchange) -> None:
        for part in sent:
            exchange.send(part)
        exchange.reset()

    return reply


reset_before_headers = _head()


def cut_body(exchange: Exchange) -> None:
    """Half of the promised bytes, then the connection ends."""
    kind, pieces = _answer(exchange, Good())
    body = b"".join(pieces)
    exchange.head(200, {"content-type": kind, "content-length": str(len(body))})
    exchange.send(body[: len(body) // 2])
    exchange.close()


def _cut(end: Reply) -> Reply:
    """Half of a stream, or of a JSON body, then the given end."""

    def reply(exchange: Exchange) -> None:
        kind, pieces = _answer(exchange, Good())
        half = pieces[: len(pieces) // 2] or [pieces[0][: len(pieces[0]) // 2]]
        _stream(exchange, kind, half)
        end(exchange)

    return reply


def _tear(exchange: Exchange) -> None:
    exchange.send(b"400\r\n{")
    exchange.close()


cut_stream_clean = _cut(lambda exchange: exchange.chunk(b""))
"""It ends as if it were whole, but without its finish."""
cut_stream_unclean = _cut(_tear)
"""Its connection ends in the middle of a chunk."""
reset_in_stream = _cut(lambda exchange: late(0.05, Exchange.reset)(exchange))
"""Its connection is torn down, when the client has read what came first."""
stalled_stream = _cut(silent)
"""It stops, and keeps the connection open."""


def error_in_stream(case: str = "overloaded", *, after: int = 0, body: Any = None) -> Reply:
    """Status 200, `after` pieces of text, then the provider's error or this body as an event."""

    def reply(exchange: Exchange) -> None:
        wire = exchange.request.wire
        kind, pieces = _answer(exchange, Good(pieces=after + 2))
        known = ERRORS[wire].get(case) or ERRORS[wire]["server_error"]
        _stream(exchange, kind, _until_text(pieces, after))
        event = body or known[1]
        named = "error" if wire == "anthropic" else ""
        exchange.chunk(json.dumps(event).encode() + b"\n" if wire == "ollama" else sse(event, named))
        exchange.chunk(b"")

    return reply


def broken_gzip(exchange: Exchange) -> None:
    """A body with content-encoding gzip that cannot be unpacked."""
    body = gzip.compress(b"".join(_answer(exchange, Good())[1]))[:-12] + b"not gzip!!!!"
    exchange.respond(200, "application/json", body[:10] + b"\x00" + body[11:], {"content-encoding": "gzip"})


def no_choices(exchange: Exchange) -> None:
    """A well-formed answer, or stream, without a choice."""
    kind, pieces = _answer(exchange, Good(text=""))
    if kind != "application/json":
        empty = [sse({"choices": []}), sse("[DONE]")] if exchange.request.wire in ("openai", "azure") else pieces
        _stream(exchange, kind, empty)
        exchange.chunk(b"")
        return
    whole = json.loads(pieces[0])
    whole.pop("message", None)
    emptied = {field: [] for field in ("choices", "content", "candidates", "data", "embeddings") if field in whole}
    exchange.respond(200, kind, json.dumps(whole | emptied).encode())


def huge(exchange: Exchange, size: int = 8_000_000) -> None:
    """Valid JSON of many megabytes that is not an answer."""
    exchange.respond(200, "application/json", json.dumps({"padding": "x" * size}).encode())


def _answer(exchange: Exchange, what: Good) -> tuple[str, list[bytes]]:
    return answer(exchange.request.wire, exchange.request.path, exchange.request.body, what)


def _stream(exchange: Exchange, kind: str, pieces: list[bytes], headers: Mapping[str, str] | None = None) -> None:
    exchange.head(200, {"content-type": kind, "transfer-encoding": "chunked", **_REQUEST_ID, **(headers or {})})
    for piece in pieces:
        exchange.chunk(piece)


def _until_text(pieces: list[bytes], after: int) -> list[bytes]:
    """The pieces up to the `after`-th one that holds text, inclusive."""
    texts = [index for index, piece in enumerate(pieces) if _holds_text(piece)]
    return pieces[: texts[after - 1] + 1] if after and texts else pieces[:0]


def _holds_text(piece: bytes) -> bool:
    try:
        event = json.loads(piece.split(b"data: ")[-1])
    except ValueError:
        return False
    if not isinstance(event, dict):
        return False
    delta = (event.get("choices") or [{}])[0].get("delta") or event.get("delta") or event.get("message") or {}
    return bool(delta.get("content") or delta.get("text"))


BAD_BODIES: Mapping[str, Reply] = {
    "empty": raw(200, b""),
    "html": raw(200, b"<html><body><h1>Sign in to the hotel Wi-Fi</h1></body></html>", "text/html"),
    "html as json": raw(200, b"<html><body>Maintenance</body></html>"),
    "truncated json": raw(200, b'{"id": "x", "choices": [{"message": {"content": "Hel'),
    "wrong shape": raw(200, b'{"hello": "world"}'),
    "a list": raw(200, b"[]"),
    "null": raw(200, b"null"),
    "no choices": no_choices,
    "huge": huge,
    "broken gzip": broken_gzip,
    "not utf-8": raw(200, b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "empty text": good(text=""),
    "reasoning only": good(text="", reasoning="First I should think about the question at length."),
    "no finish": good(finish=None),
}

BROKEN: Mapping[str, Reply] = {
    "closed before headers": Exchange.close,
    "reset before headers": reset_before_headers,
    "reset in headers": _head(b"HTTP/1.1 200 OK\r\ncontent-type: applica"),
    "reset after headers": _head(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"),
    "cut body": cut_body,
}
"""Connections that break."""


def recorded(name: str) -> Reply:
    """The answer of a real Ollama server, by its key in `data/ollama/exchanges.yaml`."""
    exchanges = from_yaml((Path(__file__).parent / "data" / "ollama" / "exchanges.yaml").read_text())["exchanges"]
    response = exchanges[name]["response"]
    kind = response["headers"].get("content-type", "application/json")
    return raw(response["status"], field_to_body(response), kind)
