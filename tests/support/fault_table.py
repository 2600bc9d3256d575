"""The fault matrix as data: what the server of a call's first model does, and the error that the call gets.

`test_fault_matrix.py` runs every row on every wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import faults
from fault_server import Reply

from testronaut_llm import errors

WIRES = ("openai", "azure", "anthropic", "ollama", "embedded")
STREAMS = ("stream", "astream")
MODES_OF = {
    "openai": ("complete", "stream"),
    "azure": ("complete",),
    "anthropic": ("acomplete", "astream"),
    "ollama": ("complete", "astream"),
    "embedded": ("stream",),
}
"""The methods by which each wire is called. Azure and embedded models share the client of OpenAI's wire: one does."""
HANGS = ("silent", "dripping", "stalled stream")
"""For these both models get a time-out that is short, and long enough for an answer on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row.

    Attributes:
        reply: what the server does; None if no server answers.
        error: class of the error.
        streamed: other classes that the same bytes may become in a stream.
        per_wire: error class of wires that have their own.
        streams: True if only a stream can fail so, False if none can.
        wires: the wires that can fail so.
        after_pieces: True if the caller of a stream has seen text by then.
        waits: seconds that the server asks for before the next request.
        url: address of the model, in place of a server's.
    """

    error: type[errors.LLMError]
    reply: Reply | None = None
    streamed: tuple[type[errors.LLMError], ...] = ()
    per_wire: Mapping[str, type[errors.LLMError]] = field(default_factory=dict)
    streams: bool | None = None
    wires: tuple[str, ...] = WIRES
    after_pieces: bool = False
    waits: float = 0.0
    url: str | None = None

    def classes(self, wire: str, mode: str) -> tuple[type[errors.LLMError], ...]:
        """The classes that the error may have."""
        usual = self.per_wire.get(wire, self.error)
        return (usual, *self.streamed) if mode in STREAMS else (usual,)


_CUT = (errors.ConnectionFailedError, errors.BadResponseError)
_NOW = {"retry-after-ms": "1"}
_NOT_OLLAMA = tuple(wire for wire in WIRES if wire != "ollama")
"""An Ollama that does not run is never asked, and it does not send all of these statuses."""


def _status(case: str, error: type[errors.LLMError], **given: Any) -> Fault:
    return Fault(error=error, reply=faults.error(case, headers=_NOW), **given)


def _wait(headers: Mapping[str, str], seconds: float, **given: Any) -> Fault:
    return Fault(error=errors.RateLimitError, reply=faults.error("rate_limit", headers=headers), waits=seconds, **given)


def _event(case: str, error: type[errors.LLMError], *, after: int = 0) -> Fault:
    own = {"ollama": errors.ServerError}  # it has no code for this
    reply = faults.error_in_stream(case, after=after)
    return Fault(error=error, reply=reply, per_wire=own, streams=True, after_pieces=bool(after))


def _torn(reply: Reply, error: type[errors.LLMError] = errors.ConnectionFailedError) -> Fault:
    return Fault(error=error, reply=reply, streams=True, after_pieces=True)


FAULTS: Mapping[str, Fault] = {
    "400": _status("bad_request", errors.InvalidRequestError),
    "400, too long": _status("context", errors.ContextWindowError),
    "400, filtered": _status("content_filter", errors.ContentFilteredError, wires=("openai", "azure", "embedded")),
    "401": _status("authentication", errors.AuthenticationError),
    "402": _status("payment", errors.QuotaExceededError),
    "403": _status("permission", errors.PermissionDeniedError),
    "404": _status("not_found", errors.ModelNotFoundError),
    "408": _status("timeout", errors.LLMTimeoutError, wires=_NOT_OLLAMA),
    "409": _status("conflict", errors.ServerError, wires=_NOT_OLLAMA),
    "413": _status("too_large", errors.ContextWindowError, wires=_NOT_OLLAMA),
    "422": _status("unprocessable", errors.InvalidRequestError, wires=_NOT_OLLAMA),
    "429": _status("rate_limit", errors.RateLimitError),
    "429, wait in ms": _wait({"retry-after-ms": "150"}, 0.15),
    "429, wait in seconds": _wait({"retry-after": "1"}, 1.0, wires=("azure",)),
    "429, a date that is past": _wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    "429, nonsense": _wait({"retry-after": "abc"}, 0.0),
    "429, a day": _wait({"retry-after": "86400"}, 86400.0),
    "429, a far date": _wait({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}, 86400.0),
    "429, no credit": _status("quota", errors.QuotaExceededError, wires=_NOT_OLLAMA),
    "500": _status("server_error", errors.ServerError),
    "500, no memory": _status("no_memory", errors.LocalModelError, wires=("ollama",)),
    "502": _status("bad_gateway", errors.ServerError),
    "503": _status("unavailable", errors.OverloadedError),
    "504": _status("gateway_timeout", errors.LLMTimeoutError),
    "529": _status("overloaded", errors.OverloadedError, wires=_NOT_OLLAMA),
    "refused": Fault(error=errors.ConnectionFailedError, wires=_NOT_OLLAMA),
    "no such host": Fault(
        error=errors.ConnectionFailedError, url="https://llm.invalid", wires=("openai", "azure", "anthropic")
    ),
    "redirect": Fault(error=errors.BadResponseError),
    "silent": Fault(error=errors.LLMTimeoutError, reply=faults.silent),
    "dripping": Fault(error=errors.LLMTimeoutError, reply=faults.dripping(0.05)),
    **{
        name: Fault(error=errors.ConnectionFailedError, reply=reply)
        for name, reply in faults.BROKEN.items()
        if name != "cut body"
    },
    "cut body": Fault(error=errors.ConnectionFailedError, reply=faults.cut_body, streams=False),
    **{
        name: Fault(error=errors.BadResponseError, reply=reply, streamed=_CUT, after_pieces=name == "no finish")
        for name, reply in faults.BAD_BODIES.items()
    },
    "error event first": _event("overloaded", errors.OverloadedError),
    "error event later": _event("overloaded", errors.OverloadedError, after=1),
    "rate limit later": _event("rate_limit", errors.RateLimitError, after=1),
    "cut stream": _torn(faults.cut_stream_clean),
    "torn stream": _torn(faults.cut_stream_unclean),
    "reset stream": _torn(faults.reset_in_stream),
    "stalled stream": _torn(faults.stalled_stream, errors.LLMTimeoutError),
}


def cells() -> list[tuple[str, str, str]]:
    """Each fault on each wire, by each of its methods; one that takes long on wires with a client of their own only."""
    return [
        (name, wire, mode)
        for name, fault in FAULTS.items()
        for wire in fault.wires
        for mode in MODES_OF[wire]
        if fault.streams in (None, mode in STREAMS) and (name not in HANGS or len(MODES_OF[wire]) == 2)
    ]
