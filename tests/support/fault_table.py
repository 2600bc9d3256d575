"""The fault matrix as data: what a server does, and what becomes of a call whose first model is behind it.

`test_fault_matrix.py` holds every row in every wire and mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import faults
from fault_server import Reply

from testronaut_llm import errors

WIRES = ("openai", "azure", "anthropic", "ollama", "embedded")
MODES = ("complete", "acomplete", "stream")
STREAMS = ("stream", "astream")
MODES_OF = {"openai": (*MODES, "astream"), "anthropic": ("complete", "stream"), "ollama": ("complete", "stream")}
"""Which modes of a fault are tried in a wire. Every mode runs the same coroutine, so one wire is tried in all of them.
Azure and embedded models share the client of OpenAI's wire, so one mode does: the first that the fault has."""
HANGS = ("silent", "dripping", "stalled stream")
"""For these both models get a time-out that is short, and long enough for an answer on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row.

    Attributes:
        does: what the server does, in words.
        reply: how; None for a place where no server answers.
        error: the class that comes of it.
        streamed: other classes that a stream may make of the same bytes.
        per_wire: where a wire says it in its own way.
        modes: in which it can happen.
        wires: in which it can happen.
        after_pieces: has the caller of a stream seen text by then?
        waits: seconds that the server asks for before the next request.
        url: in place of a server's.
    """

    does: str
    error: type[errors.LLMError]
    reply: Reply | None = None
    streamed: tuple[type[errors.LLMError], ...] = ()
    per_wire: Mapping[str, type[errors.LLMError]] = field(default_factory=dict)
    modes: tuple[str, ...] = MODES
    wires: tuple[str, ...] = WIRES
    after_pieces: bool = False
    waits: float = 0.0
    url: str | None = None


_CUT = (errors.ConnectionFailedError, errors.BadResponseError)
_NOW = {"retry-after-ms": "1"}
_NOT_OLLAMA = tuple(wire for wire in WIRES if wire != "ollama")
"""An Ollama that is not there, is not ready, and so is never asked; and it has not all of these statuses."""


def _status(case: str, error: type[errors.LLMError], does: str, **given: object) -> Fault:
    return Fault(does=does, error=error, reply=faults.error(case, headers=_NOW), **given)  # type: ignore[arg-type]


def _body(name: str, does: str, *streamed: type[errors.LLMError]) -> Fault:
    return Fault(does=does, error=errors.BadResponseError, reply=faults.BAD_BODIES[name], streamed=streamed)


def _event(case: str, error: type[errors.LLMError], does: str, *, after: int = 0) -> Fault:
    reply = faults.error_in_stream(case, after=after)
    own = {"ollama": errors.ServerError}  # which has no code for it
    return Fault(does=does, error=error, reply=reply, per_wire=own, modes=STREAMS, after_pieces=bool(after))


FAULTS: Mapping[str, Fault] = {
    "400": _status("bad_request", errors.InvalidRequestError, "refuses the request"),
    "400, too long": _status("context", errors.ContextWindowError, "says that the prompt is too long"),
    "400, filtered": _status(
        "content_filter", errors.ContentFilteredError, "its safety system refuses the prompt",
        wires=("openai", "azure", "embedded"),
    ),
    "401": _status("authentication", errors.AuthenticationError, "does not know the key"),
    "402": _status("payment", errors.QuotaExceededError, "wants to be paid first"),
    "403": _status("permission", errors.PermissionDeniedError, "the key may not do this"),
    "404": _status("not_found", errors.ModelNotFoundError, "does not know the model"),
    "408": _status("timeout", errors.LLMTimeoutError, "gave up waiting", wires=_NOT_OLLAMA),
    "409": _status("conflict", errors.ServerError, "reports a conflict", wires=_NOT_OLLAMA),
    "413": _status("too_large", errors.ContextWindowError, "says that the request is too large", wires=_NOT_OLLAMA),
    "422": _status("unprocessable", errors.InvalidRequestError, "cannot process the request", wires=_NOT_OLLAMA),
    "429": _status("rate_limit", errors.RateLimitError, "too many requests"),
    "429, wait in ms": Fault(
        does="too many requests; `retry-after-ms`", error=errors.RateLimitError, waits=0.15,
        reply=faults.error("rate_limit", headers={"retry-after-ms": "150"}),
    ),
    "429, wait in seconds": Fault(
        does="too many requests; `retry-after` in seconds", error=errors.RateLimitError, waits=1.0,
        reply=faults.error("rate_limit", headers={"retry-after": "1"}), wires=("openai",), modes=("acomplete",),
    ),
    "429, a date that is past": Fault(
        does="too many requests; `retry-after` is a date that is past", error=errors.RateLimitError,
        reply=faults.error("rate_limit", headers=faults.RETRY_AFTER["past date"]),
    ),
    "429, nonsense": Fault(
        does="too many requests; `retry-after` is no number and no date", error=errors.RateLimitError,
        reply=faults.error("rate_limit", headers=faults.RETRY_AFTER["no number"]),
    ),
    "429, a day": Fault(
        does="too many requests; wait for a day: longer than anybody waits", error=errors.RateLimitError, waits=86400.0,
        reply=faults.error("rate_limit", headers=faults.RETRY_AFTER["a day"]),
    ),
    "429, a far date": Fault(
        does="too many requests; wait until a far date", error=errors.RateLimitError, waits=86400.0,
        reply=faults.error("rate_limit", headers=faults.RETRY_AFTER["date"]),
    ),
    "429, no credit": _status(
        "quota", errors.QuotaExceededError, "no credit left, told as a rate limit",
        wires=("openai", "azure", "anthropic", "embedded"),
    ),
    "500": _status("server_error", errors.ServerError, "has an error of its own"),
    "500, no memory": _status("no_memory", errors.LocalModelError, "has no memory for the model", wires=("ollama",)),
    "502": _status("bad_gateway", errors.ServerError, "a page of the gateway before it"),
    "503": _status("unavailable", errors.OverloadedError, "is busy"),
    "504": _status("gateway_timeout", errors.LLMTimeoutError, "a gateway gave up waiting for it"),
    "529": _status("overloaded", errors.OverloadedError, "is overloaded", wires=_NOT_OLLAMA),
    "refused": Fault(does="nobody listens there", error=errors.ConnectionFailedError, wires=_NOT_OLLAMA),
    "no such host": Fault(
        does="the name of the host leads nowhere", error=errors.ConnectionFailedError, url="https://llm.invalid",
        wires=("openai", "azure", "anthropic"),
    ),
    "redirect": Fault(does="sends the caller to another host", error=errors.BadResponseError),
    "silent": Fault(does="takes the request and says nothing", error=errors.LLMTimeoutError, reply=faults.silent),
    "dripping": Fault(
        does="answers a byte at a time", error=errors.LLMTimeoutError, reply=faults.dripping(0.05),
        modes=("complete", "stream"),
    ),
    **{
        name: Fault(does=does, error=errors.ConnectionFailedError, reply=faults.BROKEN[name])
        for name, does in {
            "closed before headers": "hangs up without an answer",
            "reset before headers": "the connection breaks before the headers",
            "reset in headers": "the connection breaks in the headers",
            "reset after headers": "the connection breaks after the headers",
        }.items()
    },
    "cut body": Fault(
        does="hangs up in the middle of the body", error=errors.ConnectionFailedError, reply=faults.cut_body,
        modes=("complete", "acomplete"),
    ),
    "empty": _body("empty", "200 and nothing", *_CUT),
    "HTML": _body("html", "200 and a web page", *_CUT),
    "HTML called JSON": _body("html as json", "200 and a web page that calls itself JSON", *_CUT),
    "truncated JSON": _body("truncated json", "200 and half of an object", *_CUT),
    "wrong shape": _body("wrong shape", "200 and another object", *_CUT),
    "a list": _body("a list", "200 and a list", *_CUT),
    "null": _body("null", "200 and null", *_CUT),
    "huge": _body("huge", "200 and 8 MB of no answer", *_CUT),
    "not UTF-8": _body("not utf-8", "200 and bytes that are no text", *_CUT),
    "broken gzip": _body("broken gzip", "200 and a body that is not what it is packed as", *_CUT),
    "no choices": _body("no choices", "200 and `choices: []`, or the like", *_CUT),
    "empty text": _body("empty text", "200 and an answer without text", *_CUT),
    "reasoning only": _body("reasoning only", "200 and thoughts, but no answer", *_CUT),
    "no finish": Fault(
        does="200 and a text that nobody finished", error=errors.BadResponseError, streamed=_CUT,
        reply=faults.BAD_BODIES["no finish"], after_pieces=True,
    ),
    "error event first": _event("overloaded", errors.OverloadedError, "an error as the first event of a stream"),
    "error event later": _event("overloaded", errors.OverloadedError, "an error after some text", after=1),
    "rate limit later": _event("rate_limit", errors.RateLimitError, "a rate limit after some text", after=1),
    "cut stream": Fault(
        does="a stream that ends too early, as if it were whole", error=errors.ConnectionFailedError,
        reply=faults.cut_stream_clean, modes=STREAMS, after_pieces=True,
    ),
    "torn stream": Fault(
        does="a stream that ends in the middle of a chunk", error=errors.ConnectionFailedError,
        reply=faults.cut_stream_unclean, modes=STREAMS, after_pieces=True,
    ),
    "reset stream": Fault(
        does="a stream whose connection is torn down", error=errors.ConnectionFailedError,
        reply=faults.reset_in_stream, modes=STREAMS, after_pieces=True,
    ),
    "stalled stream": Fault(
        does="a stream that stops, with the connection open", error=errors.LLMTimeoutError,
        reply=faults.stalled_stream, modes=STREAMS, after_pieces=True,
    ),
}  # fmt: skip


def cells() -> list[tuple[str, str, str]]:
    """Every fault in each wire, in some modes; one that takes long only in wires that have a client of their own."""
    return [
        (name, wire, mode)
        for name, fault in FAULTS.items()
        for wire in fault.wires
        if name not in HANGS or wire in MODES_OF
        for mode in [one for one in fault.modes if one in MODES_OF.get(wire, ())] or fault.modes[:1]
    ]


def classes(fault: Fault, wire: str, mode: str) -> tuple[type[errors.LLMError], ...]:
    """What may come of it."""
    usual = fault.per_wire.get(wire, fault.error)
    return (usual, *fault.streamed) if mode in STREAMS else (usual,)
