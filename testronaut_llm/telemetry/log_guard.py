"""Keeps secrets out of what the libraries below log at DEBUG, where an application asks to see that.

Their records show request bodies and response headers, and a server may repeat a key in either.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

LOGGERS = (
    *("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"),
    *("openai", "openai._base_client", "anthropic", "anthropic._base_client"),
    *("LiteLLM", "asyncio"),
)

Redact = Callable[[str], str]


class _Guard(logging.Filter):
    """Rewrites a record that holds a secret of any manager that is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.redactors: set[weakref.ref[Redact]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if (shown := self._redacted(said)) != said:
            record.msg, record.args = shown, None
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            if (shown := self._redacted(trace)) != trace:
                record.exc_text, record.exc_info = shown, None
        return True

    def _redacted(self, text: str) -> str:
        for reference in tuple(self.redactors):
            redact = reference()
            text = redact(text) if redact is not None else text
        return text


_GUARD = _Guard()


def guard(redact: Redact) -> None:
    """Has these loggers' records go through `redact`, for as long as its owner lives."""
    forget = _GUARD.redactors.discard
    _GUARD.redactors.add(
        weakref.WeakMethod(redact, forget) if hasattr(redact, "__self__") else weakref.ref(redact, forget)
    )
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_GUARD)
