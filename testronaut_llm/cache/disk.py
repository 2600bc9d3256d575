"""Limits diskcache to text, so that CVE-2025-69872 does not apply: pickles are neither written nor read.

diskcache unpickles rows whose mode says so, pickled keys too, and reads and deletes whatever path a row names. Here
all values stand in the SQLite file as text, so this package wrote no row of any other kind.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import diskcache
from diskcache.core import MODE_RAW

from testronaut_llm.support.paths import Connection, made

FILE = "cache.db"
_TIMEOUT, _OPENING = 0.5, 5.0  # seconds to wait for a writer, and for others that open the store
_MADE_LAST = "Settings_size_delete"  # of the triggers that keep count
_PRAGMAS = "SELECT key, value FROM Settings WHERE key LIKE 'sqlite_%'"
_CORRUPT = ("SQLITE_NOTADB", "SQLITE_CORRUPT")


class RefusedRowError(ValueError):
    """A row that this package never wrote."""


class CorruptFileError(sqlite3.DatabaseError):
    """A file that is a database, and damaged."""


class TextDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Keys and values are text. Anything else is refused."""

    def put(self, key: Any) -> tuple[str, bool]:
        """Returns the database form of a key."""
        return _text(key), True

    def get(self, key: Any, raw: bool) -> str:
        """Returns the key of a database form."""
        if not raw:
            raise RefusedRowError("a pickled key")
        return _text(key)

    def store(self, value: Any, read: Any, key: Any = None) -> tuple[int, int, None, str]:  # noqa: ARG002 - as above
        """Returns the columns of a value."""
        return 0, MODE_RAW, None, _text(value)

    def fetch(self, mode: int, filename: str | None, value: Any, read: Any) -> str:  # noqa: ARG002 - as above
        """Returns the value of a row."""
        if mode != MODE_RAW or filename is not None:
            raise RefusedRowError("a pickle, or a file outside the store")
        return _text(value)

    def remove(self, file_path: str) -> None:
        """Deletes nothing: this package's rows have no file, and a foreign row may name any path."""


class _Store(diskcache.Cache):  # type: ignore[misc]  # as above
    """diskcache with connections that close themselves: its own `close` closes that of one thread only."""

    @property
    def _con(self) -> sqlite3.Connection:
        """Returns the connection of this thread, opened anew after a fork."""
        if getattr(self._local, "pid", None) != os.getpid():
            self.close()
            self._local.pid = os.getpid()
        if (found := getattr(self._local, "con", None)) is not None:
            return cast("sqlite3.Connection", found)
        file = Path(self.directory, FILE)
        self._local.con = connection = sqlite3.connect(
            file, timeout=self.timeout, isolation_level=None, check_same_thread=False, factory=Connection
        )
        with suppress(sqlite3.OperationalError):  # a new store has no table of settings
            for key, value in connection.execute(_PRAGMAS).fetchall():
                self.reset(key, value, update=False)
        return connection


def open_cache(folder: Path, size_limit: int, *, suspect: bool = False) -> Any:
    """Opens the store, or makes it. A file that is not a sound database is moved aside.

    Args:
        folder: where it is.
        size_limit: bytes.
        suspect: True if it was found to be corrupt, so that all of it is checked.

    Raises:
        OSError, sqlite3.Error: it cannot be used.
    """
    made(folder)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    if not suspect and _is_ready(folder / FILE):
        return _cache(folder, size_limit)
    import filelock  # and with it asyncio: a tenth of the time of a process that finds all it asks for here

    with filelock.FileLock(folder / "open.lock", timeout=_OPENING, mode=0o600):
        try:
            _probe(folder / FILE, whole=suspect)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            _set_aside(folder)
        return _cache(folder, size_limit)


def _cache(folder: Path, size_limit: int) -> Any:
    """Returns the open store. No value goes to a file of its own, however long."""
    return _Store(folder, timeout=_TIMEOUT, disk=TextDisk, disk_min_file_size=2**31 - 1, size_limit=size_limit)


def _is_ready(file: Path) -> bool:
    """True if the store can be used without the lock."""
    try:
        return file.exists() and _probe(file, whole=False)
    except sqlite3.DatabaseError as error:
        if is_corrupt(error):
            return False
        raise


def is_corrupt(error: BaseException) -> bool:
    """True if only a new file helps."""
    return isinstance(error, CorruptFileError) or getattr(error, "sqlite_errorname", "").startswith(_CORRUPT)


def mend_of(error: BaseException, folder: Path) -> str:
    """Returns the command that fixes this problem of a store."""
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, PermissionError) or name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"make it yours to write: chmod -R u+rwX {folder}"
    if name == "SQLITE_FULL" or getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"make room on its disk: df -h {folder}"
    if isinstance(error, diskcache.Timeout | TimeoutError) or name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another process holds it: fuser -v {folder / FILE} names that one"
    return f"to begin anew: mv {folder} {folder}.old"


def _probe(file: Path, *, whole: bool) -> bool:
    """True if diskcache has made all its tables. Diskcache itself would wait a minute for a locked file."""
    connection = sqlite3.connect(file, timeout=_TIMEOUT, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        made_last = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_MADE_LAST,)).fetchone()
        if whole and connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise CorruptFileError("quick_check found faults")
        connection.execute("ROLLBACK")
    finally:
        connection.close()
    file.chmod(0o600)
    return made_last is not None


def _set_aside(folder: Path) -> None:
    for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
        if (folder / name).exists():
            (folder / name).replace(folder / f"{name}.broken")


def _text(value: Any) -> str:
    if type(value) is not str:
        raise RefusedRowError(f"{type(value).__name__} in place of text")
    return value
