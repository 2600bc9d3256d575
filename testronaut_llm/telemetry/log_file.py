"""Events appended to a file of JSON lines. Threads and processes may share it; rotation is left to the system's tools.

A line is one write at the end of the file, which no other tears. A file that was moved away is made anew.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.sections import LogConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import made, user_path
from testronaut_llm.telemetry.log import logger

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""A pipe that nobody reads is a fault, not a wait."""


class EventFile:
    """The file that `log:` names. A file that cannot be written is one warning, never a failed call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle = -1
        self._torn = False
        self._warned: set[str] = set()

    def write(self, config: LLMConfig, settings: LogConfig, event: Mapping[str, Any]) -> None:
        """Appends one event, with the time of day (UTC)."""
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
        line = (json.dumps(stamped, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")
        path = Path(settings.file)
        try:
            folder = config.path.parent if config.path else Path()
            path = (folder / user_path(settings.file)).resolve()
            with self._lock:
                self._opened(path)
                self._append(line)
        except (OSError, ValueError, ConfigError) as error:  # the latter two: a path that no system takes, no home
            self._warn("log_not_written", str(path), str(error))

    def close(self) -> None:
        """Lets the file go; the next event opens it again."""
        with self._lock:
            self._shut()

    def _opened(self, path: Path) -> None:
        """Makes sure that the handle is the file of this name, which another process may have moved away."""
        if not _same(self._handle, path):
            self._shut()
            made(path.parent)
            self._handle = os.open(path, _FLAGS, 0o600)

    def _append(self, line: bytes) -> None:
        """One write, but on a full disk. What that tore off ends its line, so that the next one stands alone."""
        left = whole = b"\n" + line if self._torn else line
        try:
            while left:
                left = left[os.write(self._handle, left) :]
        finally:
            self._torn = (self._torn and left == whole) or (bool(left) and left != whole)

    def _shut(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _warn(self, event: str, file: str, fault: str) -> None:
        if file not in self._warned:
            self._warned.add(file)
            logger().warning(event, file=file, fault=fault)


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
