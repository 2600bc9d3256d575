"""Answers kept on disk, as text with a checksum. Whatever is wrong with the disk is a miss and one warning."""

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

_REST = 5.0  # seconds for which a store that could not be opened or read is left alone
_WRITES_A_CULL, _CULLED = 4, 10  # to look for what is expired or too much takes as long as a write itself
_SUM = 16  # characters of the checksum
_read = json.JSONDecoder().raw_decode


def default_folder() -> Path:
    """Where answers are kept."""
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
        self._rests_until = float("-inf")
        self._suspect = False
        self._opening = threading.Lock()
        self._writes = itertools.count()
        self._warned: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        return self._folder or default_folder()

    @property
    def is_open(self) -> bool:
        """Does a look cost microseconds?"""
        return self._cache is not None

    def read(self, key: str, decode: Callable[[Any], T], settings: CacheConfig) -> T | None:
        """What `decode` makes of what is stored under a key; None where nothing is, or nothing that can be used.

        What else `decode` raises, such as a validator of the caller's, is raised as it is where a model answers.
        """
        try:
            cache = self._opened(settings)
            stored = None if cache is None else cache.get(key)
            if stored is None:
                return None
            value = unsealed(key, stored)
        except Exception as error:  # noqa: BLE001 - a broken cache fails no call
            self._trouble(error, rest=not isinstance(error, ValueError | RecursionError))
            return None
        try:
            return decode(value)
        except LLMError:  # it no longer obeys its schema
            return None
        except ValueError as error:
            self._trouble(error)
            return None

    def write(self, key: str, value: Any, settings: CacheConfig, *, task: str | None) -> None:
        """Stores a JSON value: the answer to a task, or (None) what is kept beside the answers and never expires."""
        try:
            cache = self._opened(settings)
            if cache is not None:
                cache.cull_limit = 0 if next(self._writes) % _WRITES_A_CULL else _CULLED
                cache.set(key, sealed(key, value), expire=settings.ttl if task is not None else None, tag=task)
        except Exception as error:  # noqa: BLE001 - as above
            self._trouble(error)

    def drop(self, keys: Iterable[str], settings: CacheConfig) -> None:
        """Forgets what is stored under these keys."""
        try:
            cache = self._opened(settings)
            for key in keys if cache is not None else ():
                cache.delete(key)
        except Exception as error:  # noqa: BLE001 - as above
            self._trouble(error)

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def _opened(self, settings: CacheConfig) -> Any:
        if self._cache is None:
            if not self._opening.acquire(timeout=_REST):  # after a fork, its holder may be gone
                raise TimeoutError("another thread does not get it open")
            try:
                self._open(settings)
            finally:
                self._opening.release()
        if self._cache is not None and self._size_limit != settings.size_limit:
            self._size_limit = settings.size_limit
            self._cache.reset("size_limit", self._size_limit)
        return self._cache

    def _open(self, settings: CacheConfig) -> None:
        from testronaut_llm.cache.disk import open_cache

        if self.is_open or time.monotonic() < self._rests_until:
            return
        self._size_limit = settings.size_limit
        try:
            self._cache = open_cache(self.folder, self._size_limit, suspect=self._suspect)
            self._suspect = False
        except BaseException:
            self._rests_until = time.monotonic() + _REST
            raise

    def _trouble(self, error: Exception, *, rest: bool = False) -> None:
        from testronaut_llm.cache.disk import is_corrupt, mend_of

        if is_corrupt(error):
            self._cache, self._suspect, self._rests_until = None, True, float("-inf")
        elif rest:
            self._cache, self._rests_until = None, time.monotonic() + _REST
        kind = type(error).__name__
        if kind not in self._warned:
            self._warned.add(kind)
            mend = f"the calls go on without it; {mend_of(error, self.folder)}"
            logger().warning("cache_trouble", folder=str(self.folder), fault=f"{kind}: {error}", mend=mend)


def sealed(key: str, value: Any) -> str:
    """A JSON value as it is stored, with a checksum that ties it to its key."""
    text = canonical(value)
    return _sum(key, text) + text


def unsealed(key: str, stored: str) -> Any:
    """The value.

    Raises:
        ValueError: it is not what was stored there.
    """
    text = stored[_SUM:]
    if stored[:_SUM] != _sum(key, text):
        raise ValueError("a row whose checksum is wrong")
    return _read(text)[0]


def _sum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()[:_SUM]
