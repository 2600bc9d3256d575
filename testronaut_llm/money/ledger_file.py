"""The SQLite file of the ledger: opened late, private to the user, in one version, and safe to fork.

WAL with `synchronous=NORMAL`: what was written survives kill -9 of any process, not a power cut.
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
_LOOKS = (0.001, 0.05)  # seconds between two tries: at first, and at most

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


class LedgerBusyError(ConfigError):
    """Another process holds the file just now."""


async def when_free(work: Callable[[], T], seconds: float) -> T:
    """Returns what `work` does, on an event loop. While another process holds the file it is tried again.

    Raises:
        LedgerBusyError: that took so many seconds, or `WAIT`.
    """
    until, pause = time.monotonic() + min(seconds, WAIT), _LOOKS[0]
    while True:
        try:
            return work()
        except LedgerBusyError:
            if (left := until - time.monotonic()) <= 0:
                raise
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _LOOKS[1])


class LedgerFile:
    """One connection, used by one thread at a time; None in place of a path keeps the ledger in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._forking = False
        self._guarded = False

    @property
    def exists(self) -> bool:
        """Has anything been written yet?"""
        return self._connection is not None or (self.path is not None and self.path.exists())

    def run_whole(self, work: Callable[[sqlite3.Connection], T], wait: float = WAIT) -> T:
        """As `run`, but all of the work or nothing, and nobody else's in between."""

        def whole(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            done = work(connection)
            connection.execute("COMMIT")
            return done

        return self.run(whole, wait)

    def run(self, work: Callable[[sqlite3.Connection], T], wait: float = WAIT) -> T:
        """Does some work on the connection; what it began and did not commit is undone when it fails.

        Args:
            work: what to do; it is begun anew while another process holds the file.
            wait: seconds for which that is tried; 0 on an event loop.

        Raises:
            LedgerBusyError: another process held the file all the time.
            ConfigError: the file cannot be used; with what mends it.
        """
        until, pause = time.monotonic() + wait, _LOOKS[0]
        while True:
            try:
                return self._tried(work)
            except LedgerBusyError:
                if time.monotonic() >= until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LOOKS[1])

    def _tried(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                connection = self._connection = self._connection or self._opened()
                try:
                    return work(connection)
                finally:
                    if connection.in_transaction:
                        connection.rollback()
            except (sqlite3.Error, OSError) as error:
                if getattr(error, "sqlite_errorname", "") not in ("SQLITE_BUSY", "SQLITE_FULL"):
                    self._shut()  # so that a file that was mended is opened anew
                raise self._fault(error) from None

    def close(self) -> None:
        """Closes the connection; the next use opens it again. A ledger in memory stays."""
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        if self._connection is not None and self.path is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self.path is not None:
            made(self.path.parent)
        self._guard_forks()
        connection = sqlite3.connect(
            ":memory:" if self.path is None else self.path,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
        )
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
        """Brings an older file to this version, whichever process comes first."""
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

    def _guard_forks(self) -> None:
        """No connection lives through a fork: the child would take its parent's locks for its own."""
        if self._guarded or not hasattr(os, "register_at_fork"):
            return
        self._guarded, itself = True, weakref.ref(self)

        def before() -> None:
            if (file := itself()) is not None:
                file._lock.acquire()  # noqa: SLF001 - of this class
                file._forking = True  # noqa: SLF001 - of this class
                file._shut()  # noqa: SLF001 - of this class

        def after() -> None:
            if (file := itself()) is not None and file._forking:  # noqa: SLF001 - of this class
                file._forking = False  # noqa: SLF001 - of this class
                file._lock.release()  # noqa: SLF001 - of this class

        os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)

    def _fault(self, error: Exception) -> ConfigError:
        kind = LedgerBusyError if _is_busy(error) else ConfigError
        return kind(
            f"the ledger {self.path} cannot be used ({error}), so no budget can be held; {self._mend(error)}",
            file=str(self.path),
        )

    def _mend(self, error: Exception) -> str:
        name = getattr(error, "sqlite_errorname", "")
        if _is_busy(error):
            return f"another process holds it: `fuser -v {self.path}` names that one"
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return f"restore it, or begin anew without what it knew: `mv {self.path} {self.path}.broken`"
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return f"make room on its disk: `df -h {self.path and self.path.parent}`"
        if isinstance(error, sqlite3.NotSupportedError):
            return "`pip install --upgrade testronaut-llm`"
        return f"make it yours to write: `chmod u+rwX {self.path and self.path.parent} {self.path}`"


def _is_busy(error: Exception) -> bool:
    busy = ("SQLITE_BUSY", "SQLITE_LOCKED")
    return isinstance(error, TimeoutError) or getattr(error, "sqlite_errorname", "").startswith(busy)
