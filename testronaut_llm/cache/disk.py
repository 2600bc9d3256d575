"""diskcache, limited to text: CVE-2025-69872 does not apply, since pickles are neither written nor read.

diskcache unpickles rows and keys that are marked so, and reads and deletes any file that a row names. Here all values
are text in its SQLite file, so rows of another kind are not from this package.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from diskcache.core import DEFAULT_SETTINGS, ENOVAL, METADATA, MODE_RAW, Cache, Disk, Timeout

from testronaut_llm.support.paths import Connection, fix_of, is_corrupt, make_folder

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
