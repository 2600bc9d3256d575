"""Opens and checks the SQLite file of stored answers, moves a damaged one aside, and limits its size."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from testronaut_llm.support.paths import Connection, make_folder

FILE = "cache.db"
WRITE = """INSERT OR REPLACE INTO Cache (key, raw, store_time, expire_time, access_time, tag, mode, value)
           VALUES (?, 1, ?, ?, 0, ?, 1, ?)"""
_TIMEOUT, _OPENING = 0.5, 5.0  # seconds to wait for a writer, and for others that open the store
_CULLED = 10  # rows
_CORRUPT = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_LAST_MADE = "Cache_store_time"
_TABLE = f"""
PRAGMA auto_vacuum = FULL;
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS Cache (
    rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, store_time REAL, expire_time REAL, access_time REAL,
    access_count INTEGER DEFAULT 0, tag BLOB, size INTEGER DEFAULT 0, mode INTEGER DEFAULT 0, filename TEXT, value BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS Cache_key_raw ON Cache (key, raw);
CREATE INDEX IF NOT EXISTS Cache_expire_time ON Cache (expire_time);
CREATE INDEX IF NOT EXISTS {_LAST_MADE} ON Cache (store_time);
"""
"""The table of diskcache, with which older versions share the file. Its columns for pickles and files are not read."""


class CorruptFileError(sqlite3.DatabaseError):
    """The file is a damaged database."""


def opened(folder: Path, *, suspect: bool = False) -> Path:
    """Returns the path of the store's file. A missing file is created; a damaged one is moved aside first.

    With `suspect` the whole file is checked. Raises OSError or sqlite3.Error if it cannot be used.
    """
    make_folder(folder)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    file = folder / FILE
    if suspect or not _is_ready(file):
        import filelock  # imports asyncio, which takes a tenth of the time of a process that is answered from the cache

        with filelock.FileLock(folder / "open.lock", timeout=_OPENING, mode=0o600):
            try:
                _make(file, whole=suspect)
            except sqlite3.DatabaseError as error:
                if not is_corrupt(error):
                    raise
                for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
                    if (folder / name).exists():
                        (folder / name).replace(folder / f"{name}.broken")
                _make(file)
    file.chmod(0o600)
    return file


def connect(file: Path) -> Connection:
    """Returns a connection that closes itself when its last reference goes."""
    db = sqlite3.connect(file, timeout=_TIMEOUT, isolation_level=None, check_same_thread=False, factory=Connection)
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def cull(db: sqlite3.Connection, now: float, size_limit: int) -> None:
    """Deletes a few answers that have expired, and the oldest ones if the file is larger than `size_limit` bytes."""
    few = "DELETE FROM Cache WHERE rowid IN (SELECT rowid FROM Cache {} LIMIT ?)"
    db.execute(few.format("WHERE expire_time < ? ORDER BY expire_time"), (now, _CULLED))
    (size,) = db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
    if size > size_limit:
        db.execute(few.format("ORDER BY store_time"), (_CULLED,))


def is_corrupt(error: BaseException) -> bool:
    """True if the file must be replaced."""
    return isinstance(error, CorruptFileError) or getattr(error, "sqlite_errorname", "").startswith(_CORRUPT)


def advice(error: BaseException, folder: Path) -> str:
    """Returns the command that fixes this error of a store."""
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, PermissionError) or name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"make it writable: chmod -R u+rwX {folder}"
    if name == "SQLITE_FULL" or getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"free space on its disk: df -h {folder}"
    if isinstance(error, TimeoutError) or name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another process holds it: fuser -v {folder / FILE} shows which"
    return f"to start with an empty cache: mv {folder} {folder}.old"


def _is_ready(file: Path) -> bool:
    """True if the store can be used without the lock."""
    if file.exists():
        with suppress(sqlite3.DatabaseError), closing(connect(file)) as db:
            db.execute("BEGIN IMMEDIATE")  # raises if it cannot be written
            return db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_LAST_MADE,)).fetchone() is not None
    return False


def _make(file: Path, *, whole: bool = False) -> None:
    with closing(connect(file)) as db:
        if whole and db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise CorruptFileError("quick_check found errors")
        db.executescript(_TABLE)
