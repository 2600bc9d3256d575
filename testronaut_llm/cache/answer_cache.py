"""Stores answers on disk, as text with a checksum. An error of the disk is a cache miss and one warning.

diskcache unpickles rows and keys that are marked so, and reads and deletes any file that a row names (CVE-2025-69872).
Here all values are text in its SQLite file; rows of another kind are neither written nor read.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diskcache.core import DEFAULT_SETTINGS, ENOVAL, METADATA, MODE_RAW, Cache, Disk, Timeout

from testronaut_llm.cache.entry import canonical
from testronaut_llm.errors import LLMError
from testronaut_llm.support import paths
from testronaut_llm.support.paths import Connection, fix_of, is_corrupt, make_folder
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from testronaut_llm.config.sections import CacheConfig

FILE, ERRORS = "cache.db", (OSError, sqlite3.Error, Timeout)
_TIMEOUT, _LOOK = 5.0, 1.0  # seconds to wait for other writers (dozens at once need three), and to see if it is ready
_OURS = {"statistics": 0, "eviction_policy": "least-recently-stored", "cull_limit": 10, "disk_min_file_size": 2**31 - 1}
_SETTINGS = {**DEFAULT_SETTINGS, **_OURS}  # all of them, so that none is read from the file; a read writes nothing


class _TextDisk(Disk):  # type: ignore[misc]  # diskcache has no types
    """Stores text only; other keys and values raise ValueError."""

    def put(self, key: Any) -> tuple[str, bool]:
        return _text(key), True

    def get(self, key: Any, raw: bool) -> str:
        if not raw:
            raise ValueError("a pickled key")
        return _text(key)

    def store(self, value: Any, read: Any, key: Any = None) -> tuple[int, int, None, str]:  # noqa: ARG002 - diskcache's
        return 0, MODE_RAW, None, _text(value)

    def fetch(self, mode: int, filename: str | None, value: Any, read: Any) -> str:  # noqa: ARG002 - as above
        if mode != MODE_RAW or filename is not None:
            raise ValueError("a pickle, or a file outside the store, instead of text")
        return _text(value)

    def remove(self, file_path: str) -> None:
        """Deletes nothing: rows of this package have no file, and a foreign row may name any."""


class Store(Cache):  # type: ignore[misc]  # as above
    """A diskcache of text that opens quickly, and whose connections close themselves."""

    def __init__(self, folder: Path, *, new: bool, timeout: float) -> None:
        self._new, self._file, self._wait = new, folder / FILE, timeout
        super().__init__(folder, timeout=timeout, disk=_TextDisk, **_SETTINGS)

    def reset(self, key: str, value: Any = ENOVAL, update: bool = True) -> Any:
        """Changes or reads a known setting. An unknown one could replace any attribute, such as the folder."""
        return super().reset(key, value, update) if key in _SETTINGS or key in METADATA else None

    @property
    def _con(self) -> Any:
        """Returns the connection of this thread and process."""
        if getattr(self._local, "pid", None) != os.getpid() or not hasattr(self._local, "con"):
            self._local.con, self._local.pid = connect(self._file, self._wait), os.getpid()
        return self._local.con

    @property
    def _sql_retry(self) -> Any:
        """Executes statements that open a store, without the wait of a minute; writes only to a new store."""
        execute = self._con.execute
        return lambda sql, *values: execute(sql, *values) if self._new or sql.startswith(("SELECT", "PRAGMA")) else None


def opened(folder: Path, *, suspect: bool = False, timeout: float | None = None) -> Store:
    """Opens the store. A missing file is created, a damaged one moved aside; with `suspect` the whole file is checked.

    `timeout`: seconds to wait for writers. Raises OSError or sqlite3.Error if it cannot be used.
    """
    make_folder(folder)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    file, state = folder / FILE, ""
    with suppress(sqlite3.OperationalError):  # it is locked, perhaps while it is created
        state = _state(file) if file.exists() and not suspect else ""
    if state != "ready":
        import filelock  # imports asyncio, a tenth of the time of a process with cached answers

        with filelock.FileLock(folder / "open.lock", timeout=_TIMEOUT, mode=0o600):
            if _state(file, whole=suspect) == "broken":
                for path in filter(Path.exists, (file, folder / f"{FILE}-wal", folder / f"{FILE}-shm")):
                    path.replace(f"{path}.broken")
            Store(folder, new=True, timeout=_TIMEOUT).close()
    file.chmod(0o600)
    return Store(folder, new=False, timeout=timeout or _TIMEOUT)


def connect(file: Path, timeout: float) -> Connection:
    """Returns a connection that closes itself when its last reference is deleted."""
    db = sqlite3.connect(file, timeout=timeout, isolation_level=None, check_same_thread=False, factory=Connection)
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def explained(error: BaseException, folder: Path) -> tuple[BaseException, str]:
    """Returns the cause of an error of a store, and the command that fixes it."""
    error = (isinstance(error, Timeout) and error.__context__) or error  # the error of SQLite
    return error, fix_of(error, folder / FILE) or f"to start with an empty cache: mv {folder} {folder}.old"


def _state(file: Path, *, whole: bool = False) -> str:
    """Returns `ready`, `new` or `broken`. Raises sqlite3.Error if it cannot be written."""
    try:
        with closing(connect(file, _LOOK)) as db:
            db.execute("BEGIN IMMEDIATE")
            if whole and db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return "broken"
            made_last = "SELECT 1 FROM sqlite_master WHERE name = 'Settings_size_delete'"
            return "new" if db.execute(made_last).fetchone() is None else "ready"
    except sqlite3.DatabaseError as error:
        if is_corrupt(error):
            return "broken"
        raise


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{type(value).__name__} instead of text")
    return value


T = TypeVar("T")

_COOLDOWN = 5.0  # seconds for which a store that could not be opened, read or locked is not tried again
_SUM = 16  # characters of the checksum
_decoded = json.JSONDecoder().raw_decode


def default_folder() -> Path:
    """Returns the path of the store of all managers of this user."""
    return paths.cache_dir() / "answers"


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
                    self._store = opened(self.folder, suspect=self._suspect)
                    self._suspect, self._closed_until = False, float("-inf")
            finally:
                self._opening.release()
        return self._store

    def _failed(self, error: Exception, *, cooldown: bool = False) -> None:
        """Warns once of each kind. Closes the store if it is damaged, or cannot be read after this error."""
        from diskcache import Timeout

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


def sealed(key: str, value: Any) -> str:
    """Returns a JSON value as it is stored, with a checksum that ties it to its key."""
    text = canonical(value)
    return _sum(key, text) + text


def unsealed(key: str, stored: Any) -> Any:
    """Returns the JSON value of a row. Raises ValueError if it is not what was stored."""
    if type(stored) is not str or stored[:_SUM] != _sum(key, stored[_SUM:]):
        raise ValueError("a row that is not text, or has a wrong checksum")
    return _decoded(stored, _SUM)[0]


def _sum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()[:_SUM]
