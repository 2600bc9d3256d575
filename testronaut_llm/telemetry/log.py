"""Writes events: to the application's structlog, else Python's logging, and to a file of JSON lines.

By default structlog prints to stdout, which would break programs that print JSON there; a
library must not configure it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import make_folder, user_path

NAME = "testronaut_llm"
NOISY_LOGGERS = (
    *("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"),
    *("openai", "openai._base_client", "anthropic", "anthropic._base_client", "LiteLLM", "asyncio"),
)
"""Loggers of libraries that log request bodies and response headers at DEBUG; both may hold a key."""

_STANDARD = logging.getLogger(NAME)
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""A pipe without a reader is an error, not a wait."""

Redact = Callable[[str], str]


def has_listener() -> bool:
    """True if an event of level INFO has a listener. Very fast if not."""
    is_configured = getattr(sys.modules.get("structlog"), "is_configured", bool)  # another thread may be importing it
    return is_configured() or _STANDARD.isEnabledFor(logging.INFO)


def logger() -> Any:
    """Returns the logger of this package, in the current configuration of the application."""
    import structlog

    if structlog.is_configured():
        return structlog.get_logger(NAME)
    return structlog.wrap_logger(
        _STANDARD,
        processors=[structlog.stdlib.filter_by_level, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


class EventFile:
    """Appends events to a file of JSON lines. A file that cannot be written causes one warning, not a failed call.

    The file is opened for each line, which is one write at its end: threads and processes may share it, and tools of
    the system may rotate it.
    """

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def write(self, name: str, folder: Path, event: Mapping[str, Any]) -> None:
        """Appends one event, with the time in UTC. A relative `name` starts at `folder`."""
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
        line = json.dumps(stamped, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            path = folder / user_path(name)
            make_folder(path.parent)
            handle = os.open(path, _FLAGS, 0o600)
            try:
                written = os.write(handle, line)
            finally:
                os.close(handle)
            if written < len(line):
                raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were written")
        except (OSError, ValueError, ConfigError) as error:  # the latter two: a NUL in the path, no home folder
            if name not in self._warned:
                self._warned.add(name)
                logger().warning("log_not_written", file=str(folder / name), error=str(error))


class _LogGuard(logging.Filter):
    """Masks secrets in records."""

    def __init__(self) -> None:
        super().__init__()
        self.redactors: set[weakref.ref[Redact]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        before = texts = (record.getMessage(), trace)
        for redact in [reference() for reference in tuple(self.redactors)]:
            if redact is not None:
                texts = (redact(texts[0]), redact(texts[1]))
        if texts != before:
            record.msg, record.args, record.exc_text, record.exc_info = texts[0], None, texts[1], None
        return True


_GUARD = _LogGuard()


def guard_logs(redact: Redact) -> None:
    """Passes the records of `NOISY_LOGGERS` through `redact`, while its owner lives."""
    kind = weakref.WeakMethod if hasattr(redact, "__self__") else weakref.ref
    _GUARD.redactors.add(kind(redact, _GUARD.redactors.discard))
    for name in NOISY_LOGGERS:
        logging.getLogger(name).addFilter(_GUARD)
