"""Stores answers on disk, as text with a checksum. An error of the disk is a cache miss and one warning."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from testronaut_llm.cache.entry import default_folder, sealed, unsealed
from testronaut_llm.errors import LLMError
from testronaut_llm.support import paths
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from testronaut_llm.cache.files import Store
    from testronaut_llm.config.sections import CacheConfig

T = TypeVar("T")

_COOLDOWN = 5.0  # seconds for which a store that could not be opened, read or locked is not tried again


class AnswerCache:
    """The store of one manager, shared with all that use its folder. Safe for threads and forks; opened when needed."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._store: Store | None = None
        self._closed_until = self._held_until = float("-inf")
        self._suspect = False
        self._opening = threading.Lock()
        self._warned: set[str] = set()

    @property
    def folder(self) -> Path:
        """Path of the store, which may not exist."""
        return self._folder or default_folder()

    @property
    def is_open(self) -> bool:
        """True if a lookup takes microseconds."""
        return self._store is not None

    def read(self, key: str, decode: Callable[[Any], T]) -> T | None:
        """Returns the stored value, decoded; None if there is none, or if `decode` raises ValueError or LLMError."""
        try:
            store = self._opened()
            text = None if store is None else store.get(key)
            value = None if text is None else unsealed(key, text)
        except Exception as error:  # noqa: BLE001 - a broken cache fails no call
            self._failed(error, cooldown=not isinstance(error, ValueError | RecursionError))
            return None
        try:
            return None if value is None else decode(value)
        except (LLMError, ValueError) as error:
            if not isinstance(error, LLMError):  # it no longer matches its schema
                self._failed(error)
            return None

    def write(self, key: str, value: Any, settings: CacheConfig, *, task: str | None) -> None:
        """Stores a JSON value: the answer to a task, or (None) a digest, which never expires."""
        if time.monotonic() < self._held_until:
            return
        try:
            if (store := self._opened()) is not None:
                store.size_limit = settings.size_limit
                store.set(key, sealed(key, value), expire=None if task is None else settings.ttl, tag=task)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def drop(self, keys: Iterable[str]) -> None:
        """Deletes the rows of these keys."""
        try:
            if (store := self._opened()) is not None:
                for key in keys:
                    store.delete(key)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def close(self) -> None:
        """Closes the file; the next use opens it again. The connections of other threads close themselves."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _opened(self) -> Store | None:
        """Returns the store; None during the cooldown."""
        if self._store is None:
            if not self._opening.acquire(timeout=_COOLDOWN):  # after a fork, its holder may be gone
                raise TimeoutError("another thread cannot open it")
            try:
                if not self.is_open and time.monotonic() >= self._closed_until:
                    self._closed_until = time.monotonic() + _COOLDOWN
                    from testronaut_llm.cache.files import opened

                    self._store = opened(self.folder, suspect=self._suspect)
                    self._suspect, self._closed_until = False, float("-inf")
            finally:
                self._opening.release()
        return self._store

    def _failed(self, error: Exception, *, cooldown: bool = False) -> None:
        """Warns once of each kind. Closes the store if it is damaged, or cannot be read after this error."""
        from diskcache import Timeout

        from testronaut_llm.cache.files import explained

        if isinstance(error, Timeout):  # no other call waits for the program that holds it
            self._held_until = time.monotonic() + _COOLDOWN
        corrupt = paths.is_corrupt(error)
        if corrupt or cooldown:
            self.close()
            self._suspect = corrupt or self._suspect
            self._closed_until = float("-inf") if corrupt else time.monotonic() + _COOLDOWN
        cause, fix = explained(error, self.folder)
        if (kind := type(cause).__name__) not in self._warned:
            self._warned.add(kind)
            fix = f"calls go on without the cache; {fix}"
            logger().warning("cache_trouble", folder=str(self.folder), error=f"{kind}: {cause}", fix=fix)
