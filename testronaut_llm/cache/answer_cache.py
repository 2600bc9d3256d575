"""Stores answers on disk, as text with a checksum. An error of the disk is a cache miss and one warning."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from testronaut_llm.cache import disk
from testronaut_llm.cache.key import canonical
from testronaut_llm.errors import LLMError
from testronaut_llm.support import paths
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from testronaut_llm.config.sections import CacheConfig

T = TypeVar("T")

_COOLDOWN = 5.0  # seconds for which a store that could not be opened or read is not tried again
_WRITES_A_CULL = 4  # writes between two searches for expired answers: a search takes as long as a write
_SUM = 16  # characters of the checksum
_READ = "SELECT value FROM Cache WHERE key = ? AND raw = 1 AND (expire_time IS NULL OR expire_time > ?)"
_decoded = json.JSONDecoder().raw_decode


def default_folder() -> Path:
    """Path of the store of all managers of this user."""
    return paths.cache_dir() / "answers"


class AnswerCache:
    """The store of one manager, shared with all that use its folder. Safe for threads and forks; opened when needed."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._open: threading.local | None = None  # holds the connection of each thread, and the process that made it
        self._closed_until = float("-inf")
        self._suspect = False
        self._opening = threading.Lock()
        self._writes = itertools.count()
        self._warned: set[str] = set()

    @property
    def folder(self) -> Path:
        """Path of the store, which may not exist."""
        return self._folder or default_folder()

    @property
    def is_open(self) -> bool:
        """True if a lookup takes microseconds."""
        return self._open is not None

    def read(self, key: str, decode: Callable[[Any], T]) -> T | None:
        """Returns the stored value, decoded; None if there is none, or if `decode` raises ValueError or LLMError."""
        try:
            db = self._connection()
            row = None if db is None else db.execute(_READ, (key, time.time())).fetchone()
            value = None if row is None else unsealed(key, row[0])
        except Exception as error:  # noqa: BLE001 - a broken cache fails no call
            self._failed(error, cooldown=not isinstance(error, ValueError | RecursionError))
            return None
        if value is None:
            return None
        try:
            return decode(value)
        except LLMError:  # it no longer obeys its schema
            return None
        except ValueError as error:
            self._warn(error)
            return None

    def write(self, key: str, value: Any, settings: CacheConfig, *, task: str | None) -> None:
        """Stores a JSON value: the answer to a task, or (None) a digest, which never expires."""
        try:
            if (db := self._connection()) is not None:
                now = time.time()
                db.execute(disk.WRITE, row_of(key, value, task, now, settings.ttl))
                if next(self._writes) % _WRITES_A_CULL == 0:
                    disk.cull(db, now, settings.size_limit)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def drop(self, keys: Iterable[str]) -> None:
        """Deletes the rows of these keys."""
        try:
            if (db := self._connection()) is not None:
                db.executemany("DELETE FROM Cache WHERE key = ?", [(key,) for key in keys])
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def close(self) -> None:
        """Closes the file; the next use opens it again. The connections of other threads close themselves."""
        mine, self._open = self._open, None
        if getattr(mine, "process", None) == os.getpid():
            mine.db.close()  # type: ignore[union-attr]  # there is one

    def _connection(self) -> sqlite3.Connection | None:
        """Returns the connection of this thread and process; None during the cooldown."""
        if self._open is None:
            if not self._opening.acquire(timeout=_COOLDOWN):  # after a fork, its holder may be gone
                raise TimeoutError("another thread cannot open it")
            try:
                if not self.is_open and time.monotonic() >= self._closed_until:
                    self._closed_until = time.monotonic() + _COOLDOWN
                    disk.opened(self.folder, suspect=self._suspect)
                    self._open, self._suspect, self._closed_until = threading.local(), False, float("-inf")
            finally:
                self._opening.release()
        if (mine := self._open) is None:
            return None
        if getattr(mine, "process", None) != os.getpid():
            mine.db, mine.process = disk.connect(self.folder / disk.FILE), os.getpid()
        return cast("sqlite3.Connection", mine.db)

    def _failed(self, error: Exception, *, cooldown: bool = False) -> None:
        """Closes the store if it is damaged, or if nothing can be read after this error."""
        if disk.is_corrupt(error):
            self.close()
            self._suspect, self._closed_until = True, float("-inf")
        elif cooldown:
            self.close()
            self._closed_until = time.monotonic() + _COOLDOWN
        self._warn(error)

    def _warn(self, error: Exception) -> None:
        kind = type(error).__name__
        if kind not in self._warned:
            self._warned.add(kind)
            fix = f"calls go on without the cache; {disk.advice(error, self.folder)}"
            logger().warning("cache_trouble", folder=str(self.folder), error=f"{kind}: {error}", fix=fix)


def row_of(key: str, value: Any, task: str | None, now: float, ttl: float | None) -> tuple[Any, ...]:
    """Returns the values of `disk.WRITE`; a checksum ties each to its key. Without a task it never expires."""
    text = canonical(value)
    return key, now, None if task is None or ttl is None else now + ttl, task, _sum(key, text) + text


def unsealed(key: str, stored: Any) -> Any:
    """Returns the JSON value of a row. Raises ValueError if the row is not what was stored."""
    if type(stored) is not str:  # a pickle, or a row of diskcache that names a file
        raise ValueError(f"{type(stored).__name__} instead of text")
    text = stored[_SUM:]
    if stored[:_SUM] != _sum(key, text):
        raise ValueError("a row whose checksum is wrong")
    return _decoded(text)[0]


def _sum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()[:_SUM]
