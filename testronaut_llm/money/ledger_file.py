"""The SQLite file of the ledger: opened at its first use, private to the user, migrated forward, safe to fork.

It is in WAL mode with `synchronous=NORMAL`: what was written survives kill -9 of any process, not a power cut.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import Connection, made

T = TypeVar("T")

WAIT = 5.0
"""Seconds to wait for another process that writes; each holds the file for less than a millisecond."""

_PAUSES = (0.001, 0.05)  # seconds between two tries: at first, and at most
_LOCK_WAIT = 0.1  # seconds for another thread of this process; endless if the collector closes a call in its midst

_PAGE, _CHECKPOINT = 1024, 4096  # bytes, and pages of the log: small writes, few waits for the disk

# Money is in whole picodollars (1e-12 USD). `state` of an attempt: 0 reserved, 1 sent, 2 settled. What is settled is
# booked into `balances` by the trigger, in the same transaction, whoever settles it and however often it is corrected.
# An id is never used twice: whoever still holds that of a row that is gone must not settle another's.
# `daily` holds what is counted without a row of its own: cache hits, and attempts that were pruned.
_VERSIONS = (
    """
    CREATE TABLE attempts (
        id INTEGER PRIMARY KEY AUTOINCREMENT, state INTEGER NOT NULL, scope TEXT NOT NULL, day TEXT NOT NULL,
        at REAL NOT NULL, lease REAL NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL, provider_model TEXT NOT NULL,
        amount INTEGER, estimate INTEGER, outcome TEXT, error TEXT, prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0,
        cache_write_tokens INTEGER NOT NULL DEFAULT 0, reasoning_tokens INTEGER NOT NULL DEFAULT 0,
        estimated INTEGER NOT NULL DEFAULT 0, latency REAL NOT NULL DEFAULT 0);
    CREATE INDEX open_attempts ON attempts (scope) WHERE state < 2;
    CREATE TABLE balances (
        scope TEXT NOT NULL, period TEXT NOT NULL, task TEXT NOT NULL, spent INTEGER NOT NULL, calls INTEGER NOT NULL,
        PRIMARY KEY (scope, period, task)) WITHOUT ROWID;
    CREATE TABLE daily (
        scope TEXT NOT NULL, day TEXT NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL,
        calls INTEGER NOT NULL DEFAULT 0, unpriced INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0, cost INTEGER NOT NULL DEFAULT 0, hits INTEGER NOT NULL DEFAULT 0,
        saved_by_cache INTEGER NOT NULL DEFAULT 0, saved_by_routing INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (scope, day, task, model)) WITHOUT ROWID;
    CREATE TRIGGER book AFTER UPDATE OF state, amount ON attempts WHEN NEW.state = 2 BEGIN
        INSERT INTO balances (scope, period, task, spent, calls)
        SELECT NEW.scope, period, NEW.task,
               ifnull(NEW.amount, 0) - CASE OLD.state WHEN 2 THEN ifnull(OLD.amount, 0) ELSE 0 END, OLD.state < 2
        FROM (SELECT 'D' || NEW.day AS period UNION ALL SELECT 'M' || substr(NEW.day, 1, 7) UNION ALL SELECT 'T')
        WHERE true
        ON CONFLICT DO UPDATE SET spent = spent + excluded.spent, calls = calls + excluded.calls;
    END;
    """,
)

# How to fix what SQLite reports, by the beginning of the error's name.
_FIXES = {
    "SQLITE_NOTADB": "restore it, or start a new one: `mv {path} {path}.broken`",
    "SQLITE_CORRUPT": "restore it, or start a new one: `mv {path} {path}.broken`",
    "SQLITE_FULL": "free space on its disk: `df -h {folder}`",
    "SQLITE_IOERR": "free space on its disk: `df -h {folder}`",
    "SQLITE_BUSY": "another process holds it: `fuser -v {path}` names that one",
    "SQLITE_LOCKED": "another process holds it: `fuser -v {path}` names that one",
    "NEWER": "`pip install --upgrade testronaut-llm`",
    "": "make it yours to write: `chmod u+rwX {folder} {path}`",
}


class LedgerBusyError(ConfigError):
    """Another process holds the file just now."""


async def when_free(work: Callable[[], T], seconds: float) -> T:
    """Returns what `work` does, on an event loop. While another process holds the file it is tried again.

    Raises:
        LedgerBusyError: that took so many seconds, or `WAIT`.
    """
    until, pause = time.monotonic() + min(seconds, WAIT), _PAUSES[0]
    while True:
        try:
            return work()
        except LedgerBusyError:
            if (left := until - time.monotonic()) <= 0:
                raise
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _PAUSES[1])


class LedgerFile:
    """One connection, used by one thread at a time. Without a path the ledger is kept in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        _FILES.add(self)

    @property
    def exists(self) -> bool:
        """True if anything has been written."""
        return self._connection is not None or (self.path is not None and self.path.exists())

    def transaction(self, work: Callable[[sqlite3.Connection], T], wait: float = WAIT) -> T:
        """Runs the work as one transaction: all of it or nothing, and no other process writes in between."""

        def whole(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
            return result

        return self.run(whole, wait)

    def run(self, work: Callable[[sqlite3.Connection], T], wait: float = WAIT) -> T:
        """Runs the work on the connection. What it began and did not commit is undone when it fails.

        Args:
            work: repeated from its start while another process holds the file.
            wait: seconds for which that is tried; 0 on the event loop.

        Raises:
            LedgerBusyError: another process held the file all the time.
            ConfigError: the file cannot be used.
        """
        until, pause = time.monotonic() + wait, _PAUSES[0]
        while True:
            try:
                return self._try(work)
            except LedgerBusyError:
                if time.monotonic() >= until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if not self._lock.acquire(timeout=_LOCK_WAIT):
            raise self._error(TimeoutError("another thread uses it"))
        try:
            connection = self._connection = self._connection or self._open()
            try:
                return work(connection)
            finally:
                if connection.in_transaction:
                    connection.rollback()
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorname", "") not in ("SQLITE_BUSY", "SQLITE_FULL"):
                self._shut()  # so that a repaired file is opened anew
            raise self._error(error) from None
        finally:
            self._lock.release()

    def close(self) -> None:
        """Closes the connection; the next use opens it again. A ledger in memory stays."""
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        if self._connection is not None and self.path is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            made(self.path.parent)
        name = ":memory:" if self.path is None else self.path
        connection = sqlite3.connect(name, timeout=0, isolation_level=None, check_same_thread=False, factory=Connection)
        try:
            if self.path is not None and self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            if connection.execute("PRAGMA user_version").fetchone()[0] != len(_VERSIONS):
                self._migrate(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Brings an older file to this version; one process does it."""
        if self.path is None:
            connection.executescript("".join(_VERSIONS))
            return
        import filelock

        with filelock.FileLock(self.path.with_suffix(".lock"), timeout=0, mode=0o600):
            connection.execute("PRAGMA journal_mode = WAL")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > len(_VERSIONS):
                raise sqlite3.NotSupportedError(f"it has version {found}, written by a newer testronaut-llm")
            for number, script in enumerate(_VERSIONS[found:], found + 1):
                connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")

    def _error(self, error: Exception) -> ConfigError:
        name = getattr(error, "sqlite_errorname", "")
        if isinstance(error, TimeoutError):  # of filelock, or of another thread
            name = "SQLITE_BUSY"
        elif isinstance(error, sqlite3.NotSupportedError):
            name = "NEWER"
        fix = next(words for start, words in _FIXES.items() if name.startswith(start))
        fix = fix.format(path=self.path, folder=self.path and self.path.parent)
        kind = LedgerBusyError if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) else ConfigError
        return kind(
            f"the ledger {self.path} cannot be used ({error}), so no budget can be held; {fix}", file=str(self.path)
        )


# No connection is kept through a fork: the child would take its parent's locks for its own.
_FILES: weakref.WeakSet[LedgerFile] = weakref.WeakSet()
_PAUSED: list[LedgerFile] = []


def _before_fork() -> None:
    for file in tuple(_FILES):
        file._lock.acquire()  # noqa: SLF001 - of this module
        file._shut()  # noqa: SLF001 - of this module
        _PAUSED.append(file)


def _after_fork() -> None:
    while _PAUSED:
        _PAUSED.pop()._lock.release()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
