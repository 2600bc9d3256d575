"""Stores answers on disk, as text with a checksum. Whatever is wrong with the disk is a miss and one warning."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from testronaut_llm.cache.key import canonical
from testronaut_llm.errors import LLMError
from testronaut_llm.support import paths
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from testronaut_llm.config.sections import CacheConfig

T = TypeVar("T")

_COOLDOWN = 5.0  # seconds for which a store that could not be opened or read is not tried again
_WRITES_A_CULL, _CULLED = 4, 10  # to look for what is expired or too much takes as long as a write itself
_SUM = 16  # characters of the checksum
_read = json.JSONDecoder().raw_decode


def default_folder() -> Path:
    """Path of the store of all managers of this user."""
    return paths.cache_dir() / "answers"


class AnswerCache:
    """The store of one manager. Safe for threads, processes and forks; opened at its first use.

    Args:
        folder: where it is; shared with every other manager that uses it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._cache: Any = None
        self._size_limit = 0
        self._closed_until = float("-inf")
        self._suspect = False
        self._opening = threading.Lock()
        self._writes = itertools.count()
        self._warned: set[str] = set()

    @property
    def folder(self) -> Path:
        """Path of the store, whether it exists or not."""
        return self._folder or default_folder()

    @property
    def is_open(self) -> bool:
        """True if a look-up takes microseconds."""
        return self._cache is not None

    def read(self, key: str, decode: Callable[[Any], T], settings: CacheConfig) -> T | None:
        """Returns what `decode` makes of the stored value; None if there is none, or none that can be used.

        Other errors of `decode`, such as those of a caller's validator, are raised as where a model answers.
        """
        value = self._tried(settings, lambda cache: unsealed(key, cache.get(key)), cooldown=True)
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

        def store(cache: Any) -> None:
            cache.cull_limit = 0 if next(self._writes) % _WRITES_A_CULL else _CULLED
            cache.set(key, sealed(key, value), expire=settings.ttl if task is not None else None, tag=task)

        self._tried(settings, store)

    def drop(self, keys: Iterable[str], settings: CacheConfig) -> None:
        """Deletes what is stored under these keys."""
        self._tried(settings, lambda cache: [cache.delete(key) for key in keys])

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def _tried(self, settings: CacheConfig, work: Callable[[Any], T], *, cooldown: bool = False) -> T | None:
        """Returns what `work` does with the store. Any error is a miss and one warning."""
        try:
            cache = self._opened(settings)
            return None if cache is None else work(cache)
        except Exception as error:  # noqa: BLE001 - a broken cache fails no call
            from testronaut_llm.cache.disk import is_corrupt

            if is_corrupt(error):
                self._cache, self._suspect, self._closed_until = None, True, float("-inf")
            elif cooldown and not isinstance(error, ValueError | RecursionError):
                self._cache, self._closed_until = None, time.monotonic() + _COOLDOWN
            self._warn(error)
            return None

    def _opened(self, settings: CacheConfig) -> Any:
        from testronaut_llm.cache.disk import open_cache

        if self._cache is None:
            if not self._opening.acquire(timeout=_COOLDOWN):  # after a fork, its holder may be gone
                raise TimeoutError("another thread does not get it open")
            try:
                if not self.is_open and time.monotonic() >= self._closed_until:
                    self._closed_until = time.monotonic() + _COOLDOWN
                    self._size_limit = settings.size_limit
                    self._cache = open_cache(self.folder, self._size_limit, suspect=self._suspect)
                    self._suspect, self._closed_until = False, float("-inf")
            finally:
                self._opening.release()
        if self._cache is not None and self._size_limit != settings.size_limit:
            self._size_limit = settings.size_limit
            self._cache.reset("size_limit", self._size_limit)
        return self._cache

    def _warn(self, error: Exception) -> None:
        from testronaut_llm.cache.disk import mend_of

        kind = type(error).__name__
        if kind not in self._warned:
            self._warned.add(kind)
            mend = f"the calls go on without it; {mend_of(error, self.folder)}"
            logger().warning("cache_trouble", folder=str(self.folder), fault=f"{kind}: {error}", mend=mend)


def sealed(key: str, value: Any) -> str:
    """Returns a JSON value as it is stored, with a checksum that ties it to its key."""
    text = canonical(value)
    return _sum(key, text) + text


def unsealed(key: str, stored: str | None) -> Any:
    """Returns a stored value; None if nothing is stored.

    Raises:
        ValueError: it is not what was stored there.
    """
    if stored is None:
        return None
    text = stored[_SUM:]
    if stored[:_SUM] != _sum(key, text):
        raise ValueError("a row whose checksum is wrong")
    return _read(text)[0]


def _sum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()[:_SUM]
