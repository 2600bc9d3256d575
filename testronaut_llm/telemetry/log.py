"""The logger, the file of JSON lines, the summary of a run, and a filter that masks secrets in records of libraries.

By default structlog prints to stdout, which would break programs that print JSON there; a library must not configure
it. Events then go to Python's logging.
"""

import errno
import json
import logging
import os
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import make_folder, user_path
from testronaut_llm.support.text import visible
from testronaut_llm.telemetry.redaction import Redactor

NAME = "testronaut_llm"
NOISY_LOGGERS = (
    *("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"),
    *("openai", "openai._base_client", "anthropic", "anthropic._base_client", "LiteLLM", "asyncio"),
)
"""Loggers of libraries that log request bodies and response headers at DEBUG; both may hold a key."""

STANDARD = logging.getLogger(NAME)
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
"""A pipe without a reader is an error, not a wait."""


def logger() -> Any:
    """Returns the logger of this package, in the current configuration of the application."""
    import structlog

    if structlog.is_configured():
        return structlog.get_logger(NAME)
    return structlog.wrap_logger(
        STANDARD,
        processors=[structlog.stdlib.filter_by_level, _as_line],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _as_line(_: Any, __: str, facts: MutableMapping[str, Any]) -> str:
    """Renders an event on one line: its name, what went wrong, what to do, and its other facts in brackets."""
    words = [str(facts.pop(name)) for name in ("error", "fix") if name in facts]
    head = ": ".join(filter(None, (facts.pop("event"), " ".join("; ".join(words).split()))))
    return visible(f"{head} ({' '.join(f'{name}={value!r}' for name, value in facts.items())})")


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
            with os.fdopen(os.open(path, _APPEND, 0o600), "ab", buffering=0) as file:
                written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were written")
        except (OSError, ValueError, ConfigError) as error:  # the latter two: a NUL in the path, no home folder
            if name not in self._warned:
                self._warned.add(name)
                logger().warning("log_not_written", file=str(folder / name), error=str(error))


def append_summary(file: Path, title: str, *, calls: int, hits: int, cost: str, failures: Mapping[str, int]) -> None:
    """Appends to a file, as Markdown for the page of a CI job, what was asked and the failures by kind. Raises OSError.

    It is a heading and two tables.
    """
    head = " ".join(visible(title).replace("`", "'").split())
    lines = [f"### `{head}`", "", "| calls | hits | failed | cost |", "| ---: | ---: | ---: | ---: |"]
    lines.append(f"| {calls:,} | {hits:,} | {sum(failures.values()):,} | {cost} |")
    if failures:
        lines += ["", "| failure | calls |", "| --- | ---: |"]
        lines += [f"| {kind} | {count:,} |" for kind, count in sorted(failures.items())]
    with file.open("a", encoding="utf-8") as opened:
        opened.write("\n".join([*lines, "", ""]))


class _LogGuard(logging.Filter):
    """Masks secrets in records. It keeps no redactor alive."""

    def __init__(self) -> None:
        super().__init__()
        self.redactors: WeakSet[Redactor] = WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        before = texts = (record.getMessage(), trace)
        for redactor in tuple(self.redactors):
            texts = (redactor.redact(texts[0]), redactor.redact(texts[1]))
        if texts != before:
            record.msg, record.args, record.exc_text, record.exc_info = texts[0], None, texts[1], None
        return True


_GUARD = _LogGuard()


def guard_logs(redact: Callable[[str], str]) -> None:
    """Masks the records of `NOISY_LOGGERS` by the method of a redactor, while it lives."""
    if isinstance(owner := getattr(redact, "__self__", None), Redactor):
        _GUARD.redactors.add(owner)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).addFilter(_GUARD)
