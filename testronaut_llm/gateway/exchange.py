"""Records what one attempt sent and received, through hooks on an HTTP client of ours.

LiteLLM changes responses: a missing finish reason becomes `stop`, a missing usage is counted, a 529 becomes a 500.
Here status, headers and body are kept as received.

LiteLLM gets a light form of each large body, with marks in place of long texts and vectors, which the reader puts back.
It searches whatever it cannot read, a whole body or one event, for secrets and causes: ten seconds a megabyte, in
which no other call goes on. It also refuses or drops a `content` that is a list of parts, which becomes one text here.
"""

import json
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from testronaut_llm.gateway.provider_errors import dicts, parsed
from testronaut_llm.support.http_body import MOST_BYTES, BodyError, BoundedBody, bounded

MOST_BYTES_OF_A_CHAT = 16 * 1024 * 1024
"""Most bytes of an answer that is not a stream: parsing makes it thirty times as large."""
MOST_BYTES_OF_AN_EVENT, MOST_BYTES_OF_AN_ERROR = 1024 * 1024, 64 * 1024
"""Most bytes of one event of a stream, and of an error's body, in which LiteLLM searches for secrets."""
MOST_NUMBERS, MOST_BYTES_OF_A_VECTOR = 16_384, 128 * 1024
"""Most numbers, and bytes, for each text to embed; known models return up to 12,288 numbers."""
_LARGE, _LONG, _START = 16 * 1024, 64, 1024
"""Bytes of a large body or event; characters of a long text, and numbers of a vector; bytes of what is not JSON."""
MOST_BYTES_BESIDE_TEXTS = 256 * 1024
_PARTS = re.compile(rb'"content"\s*:\s*\[')
_TEXTS = (None, "text", "output_text")
_AS_JSON = ("input", "args")
"""Arguments of a tool call as an object, which LiteLLM makes a JSON text (Anthropic, Gemini)."""


class LightBody:
    """The long texts and vectors of one response.

    A mark of a text is 28 digits: LiteLLM decodes some texts as base64 (Gemini's signatures), or as JSON (arguments).
    """

    def __init__(self) -> None:
        self._mark, self._vector_mark = str(10**19 + secrets.randbelow(10**19)), secrets.randbits(50)
        self._texts: list[str] = []
        self._vectors: list[list[Any]] = []

    def of(self, body: bytes) -> bytes:
        """Returns a body, or a line of a stream, for LiteLLM. Raises BodyError if it is large without its texts."""
        large = len(body) > _LARGE
        if not large and not _PARTS.search(body):
            return body
        head = b"data: " if body.startswith(b"data:") else b""
        text = body.removeprefix(b"data:").strip()
        document = parsed(text.decode("utf-8", "replace"))
        try:
            changed = _join_parts(document) if isinstance(document, dict) else False
            if large and document is not None:
                document = self._without_texts(document, as_json=False)
            new = json.dumps(document).encode() if large or changed else text
        except RecursionError:
            document = None
        if document is None:
            new = text[:_START] if large else text
        elif large and len(new) > MOST_BYTES_BESIDE_TEXTS:
            raise BodyError(f"the body holds more than {MOST_BYTES_BESIDE_TEXTS:,} bytes beside its texts")
        return head + new + (b"\n" if body.endswith((b"\n", b"\r")) else b"")

    def restored(self, text: Any) -> str:
        """Returns a text of LiteLLM's response as the server sent it; empty if it is not a text."""
        if not isinstance(text, str) or self._mark not in text:
            return text if isinstance(text, str) else ""
        return re.sub(self._mark + r"(\d{8})", lambda found: self._texts[int(found[1])], text)

    def vector(self, row: Any) -> list[Any]:
        """Returns a vector of LiteLLM's response as the server sent it. Raises TypeError if it is not a list."""
        if not isinstance(row, list):
            raise TypeError(f"a vector is a {type(row).__name__}")
        return self._vectors[int(row[1])] if len(row) == 2 and row[0] == self._vector_mark else row

    def _without_texts(self, value: Any, *, as_json: bool) -> Any:
        if isinstance(value, dict):
            return {
                name[:_LONG]: self._without_texts(one, as_json=as_json or name in _AS_JSON)
                for name, one in value.items()
                if name != "logprobs"  # read from the body itself
            }
        if isinstance(value, list):
            if len(value) > _LONG and type(value[0]) in (int, float):
                self._vectors.append(value)
                return [self._vector_mark, len(self._vectors) - 1]
            return [self._without_texts(one, as_json=as_json) for one in value]
        if not isinstance(value, str) or len(value) <= _LONG:
            return value
        self._texts.append(json.dumps(value)[1:-1] if as_json else value)
        return f"{self._mark}{len(self._texts) - 1:08}"


def _join_parts(document: dict[str, Any]) -> bool:
    """Makes one text of each `content` that is a list of parts; True if there was one."""
    found = False
    for choice in dicts(document.get("choices")):
        for message in dicts([choice.get("message"), choice.get("delta")]):
            if isinstance(content := message.get("content"), list):
                parts = [one for one in content if not isinstance(one, dict) or one.get("type") in _TEXTS]
                texts = [one.get("text") if isinstance(one, dict) else one for one in parts]
                message["content"], found = "".join([one for one in texts if isinstance(one, str)]), True
    return found


class SecondRequestError(Exception):
    """LiteLLM or an SDK tried to send a second request within one attempt."""


@dataclass(slots=True)
class Exchange:
    """One request and its response, filled in as they happen."""

    texts: int = 0  # how many are to be embedded
    requests: int = 0
    sent: dict[str, Any] | None = None
    waits: bool = False  # for a connection, so that nothing has left this machine
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    broke: Exception | None = None  # what ended the body early
    light: LightBody = field(default_factory=LightBody)
    _streams: bool = False
    _passed_on: int = 0
    _event: int = 0
    _commas: int = 0
    _stream: BoundedBody | None = None

    @property
    def left(self) -> bool:
        """True if a part of the request may have left this machine."""
        return self.requests > 0 and not self.waits

    @property
    def text(self) -> str:
        """Returns the body as text."""
        return self.body.decode("utf-8", errors="replace")

    async def on_request(self, request: httpx.Request) -> None:
        """Notes the request of the attempt. Raises SecondRequestError for a second one."""
        if self.requests:
            raise SecondRequestError("one attempt is one request")
        self.requests, self.waits = 1, True
        sent = parsed(request.content.decode("utf-8", "replace"))
        self.sent = sent if isinstance(sent, dict) else None
        self._streams = self.sent is not None and self.sent.get("stream") is True
        request.stream = _RequestBody(self, request.content)

    async def on_response(self, response: httpx.Response) -> None:
        """Notes the status and headers of the response, and limits the size of its body."""
        self.status, self.headers, self.waits = response.status_code, dict(response.headers.items()), False
        self._streams = self._streams or "event-stream" in self.headers.get("content-type", "")  # Gemini: by its URL
        most = max(MOST_BYTES, self.texts * MOST_BYTES_OF_A_VECTOR)
        if self.status >= 400:
            most = MOST_BYTES_OF_AN_ERROR
        elif not self._streams and not self.texts:
            most = MOST_BYTES_OF_A_CHAT
        self._stream = stream = bounded(response, most=most, streams=self._streams)
        stream.through, stream.end = self._take, self._rest

    async def aclose(self) -> None:
        """Closes the response, even if it was not read to its end."""
        stream, self._stream = self._stream, None  # they refer to each other
        if stream is not None:
            self.broke = stream.broke
            await stream.aclose()

    def _take(self, piece: bytes) -> bytes:
        """Keeps a piece of the body; returns the whole lines of a stream. Raises BodyError: no event comes."""
        start = max(0, len(self.body) - 6)  # the beginning of an event may be spread over two pieces
        self.body += piece
        self._commas += piece.count(b",") if self.texts else 0
        if self._commas > self.texts * MOST_NUMBERS:
            raise BodyError(f"the body holds more than {MOST_NUMBERS:,} numbers a text, and was not read to its end")
        if not self._streams:
            return b""
        self._event = max(self._event, self.body.rfind(b"\ndata:", start), self.body.rfind(b"\n{", start))
        if len(self.body) - self._event > MOST_BYTES_OF_AN_EVENT:
            raise BodyError(f"{MOST_BYTES_OF_AN_EVENT:,} bytes of the stream came without an event")
        begin = self._passed_on
        end = max(self.body.rfind(b"\n", begin), self.body.rfind(b"\r", begin)) + 1
        self._passed_on = max(begin, end)
        return b"".join(map(self.light.of, bytes(self.body[begin : self._passed_on]).splitlines(keepends=True)))

    def _rest(self) -> bytes:
        """Returns what was not passed on."""
        return self.light.of(bytes(self.body[self._passed_on :]))


class _RequestBody(httpx.AsyncByteStream):
    """The body of a request, which notes when a connection begins to send it."""

    def __init__(self, exchange: Exchange, content: bytes) -> None:
        self._exchange, self._content = exchange, content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._exchange.waits = False
        yield self._content
