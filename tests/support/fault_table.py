"""The fault matrix as data: what the server of a call's first model does, and the error that the call gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faults
from fault_server import Reply
from gateway_kit import CLIENTS

from testronaut_llm import errors

STREAMS = ("stream", "astream")
METHODS = {
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
    error: type[errors.LLMError]
    on_ollama: type[errors.LLMError] | None = None  # if it is another class there
    streamed: tuple[type[errors.LLMError], ...] = ()  # other classes that the same bytes may become in a stream
    reply: Reply | None = None  # what the server does; None if no server answers
    url: str | None = None  # address of the model, in place of a server's
    wires: tuple[str, ...] = (*METHODS,)  # those that can fail so
    streams: bool | None = None  # True if only a stream can fail so, False if none can
    after_pieces: bool = False  # True if the caller of a stream has seen text by then
    waits: float = 0.0  # seconds that the server asks for before the next request

    def classes(self, wire: str, mode: str) -> tuple[type[errors.LLMError], ...]:
        usual = self.on_ollama if self.on_ollama and wire == "ollama" else self.error
        return (usual, *self.streamed) if mode in STREAMS else (usual,)


_CUT = (errors.ConnectionFailedError, errors.BadResponseError)
_NO_CODE = {"on_ollama": errors.ServerError}
_NOW = {"retry-after-ms": "1"}
_NOT_OLLAMA = tuple(wire for wire in METHODS if wire != "ollama")
"""An Ollama that does not run is never asked, and it does not send all of these statuses."""


def _status(case: str, error: type[errors.LLMError], *wires: str) -> Fault:
    return Fault(error=error, reply=faults.error(case, headers=_NOW), wires=wires or (*METHODS,))


def _wait(headers: Mapping[str, str], seconds: float, **given: Any) -> Fault:
    return Fault(error=errors.RateLimitError, reply=faults.error("rate_limit", headers=headers), waits=seconds, **given)


def _stream(reply: Reply, error: type[errors.LLMError] = errors.ConnectionFailedError, **given: Any) -> Fault:
    return Fault(error=error, reply=reply, streams=True, **{"after_pieces": True, **given})


FAULTS: Mapping[str, Fault] = {
    "400": _status("bad_request", errors.InvalidRequestError),
    "400, too long": _status("context", errors.ContextWindowError),
    "400, filtered": _status("content_filter", errors.ContentFilteredError, "openai", "azure", "embedded"),
    "401": _status("authentication", errors.AuthenticationError),
    "402": _status("payment", errors.QuotaExceededError),
    "403": _status("permission", errors.PermissionDeniedError),
    "404": _status("not_found", errors.ModelNotFoundError),
    "409": _status("conflict", errors.ServerError, *_NOT_OLLAMA),
    "413": _status("too_large", errors.ContextWindowError, *_NOT_OLLAMA),
    "429": _status("rate_limit", errors.RateLimitError),
    "429, wait in ms": _wait({"retry-after-ms": "150"}, 0.15),
    "429, wait in seconds": _wait({"retry-after": "1"}, 1.0, wires=("azure",)),
    "429, a date that is past": _wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    "429, nonsense": _wait({"retry-after": "abc"}, 0.0),
    "429, a day": _wait({"retry-after": "86400"}, 86400.0),
    "429, no credit": _status("quota", errors.QuotaExceededError, *_NOT_OLLAMA),
    "500": _status("server_error", errors.ServerError),
    "500, no memory": _status("no_memory", errors.LocalModelError, "ollama"),
    "502": _status("bad_gateway", errors.ServerError),
    "503": _status("unavailable", errors.OverloadedError),
    "504": _status("gateway_timeout", errors.LLMTimeoutError),
    "529": _status("overloaded", errors.OverloadedError, *_NOT_OLLAMA),
    "refused": Fault(error=errors.ConnectionFailedError, wires=_NOT_OLLAMA),
    "no such host": Fault(
        error=errors.ConnectionFailedError, url="https://llm.invalid", wires=("openai", "azure", "anthropic")
    ),
    "redirect": Fault(error=errors.BadResponseError),
    "silent": Fault(error=errors.LLMTimeoutError, reply=faults.silent),
    "dripping": Fault(error=errors.LLMTimeoutError, reply=faults.dripping(0.05)),
    **{
        name: Fault(error=errors.ConnectionFailedError, reply=reply, streams=False if name == "cut body" else None)
        for name, reply in faults.BROKEN.items()
    },
    **{
        name: Fault(error=errors.BadResponseError, reply=reply, streamed=_CUT, after_pieces=name == "no finish")
        for name, reply in faults.BAD_BODIES.items()
    },
    "error event first": _stream(faults.error_in_stream(), errors.OverloadedError, after_pieces=False, **_NO_CODE),
    "error event later": _stream(faults.error_in_stream(after=1), errors.OverloadedError, **_NO_CODE),
    "rate limit later": _stream(faults.error_in_stream("rate_limit", after=1), errors.RateLimitError, **_NO_CODE),
    "cut stream": _stream(faults.cut_stream_clean),
    "torn stream": _stream(faults.cut_stream_unclean),
    "reset stream": _stream(faults.reset_in_stream),
    "stalled stream": _stream(faults.stalled_stream, errors.LLMTimeoutError),
}


def cells() -> list[tuple[str, str, str]]:
    """Each fault on each wire, by each of its methods; one that takes long on wires with a client of their own only."""
    return [
        (name, wire, mode)
        for name, fault in FAULTS.items()
        for wire in fault.wires
        for mode in METHODS[wire]
        if fault.streams in (None, mode in STREAMS) and (name not in HANGS or wire in CLIENTS)
    ]
