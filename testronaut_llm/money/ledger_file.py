"""The SQLite file of the ledger: opened at first use, readable only by the user, migrated to newer versions.

It is in WAL mode with `synchronous=NORMAL`: written data survives kill -9 of any process, but not a power cut.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Literal, TypeVar

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import Connection, fix_of, install, is_corrupt, make_folder
from testronaut_llm.support.text import CONTEXT, MOST_USD

T = TypeVar("T")
Period = Literal["call", "day", "month", "total"]

_WAIT = 5.0  # seconds to wait for other processes, each of which writes for less than a millisecond
_LOCK_WAIT = 0.1  # seconds for another thread; with no end if the garbage collector closes a call during a write
_LAST = 253_000_000_000.0  # seconds since 1970, the last that datetime supports
_PICO = Decimal(10**12)
_PAGE, _CHECKPOINT = 1024, 4096  # bytes, and pages of the log: small writes, few syncs

# Money is in whole picodollars (1e-12 USD). `state` of an attempt: 0 reserved, 1 sent, 2 settled. A trigger adds each
# settlement and each correction to `balances`, in the same transaction. `daily` counts
# cache hits, and attempts that were pruned. Two processes may run a script at the same time, one after the other.
_VERSIONS = (
    """
    CREATE TABLE IF NOT EXISTS attempts (
        id INTEGER PRIMARY KEY, state INTEGER NOT NULL, scope TEXT NOT NULL, day TEXT NOT NULL,
        at REAL NOT NULL, lease REAL NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL, provider_model TEXT NOT NULL,
        amount INTEGER, outcome TEXT, error TEXT, prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0,
        cache_write_tokens INTEGER NOT NULL DEFAULT 0, reasoning_tokens INTEGER NOT NULL DEFAULT 0,
        estimated INTEGER NOT NULL DEFAULT 0, latency REAL NOT NULL DEFAULT 0);
    CREATE INDEX IF NOT EXISTS open_attempts ON attempts (scope) WHERE state < 2;
    CREATE TABLE IF NOT EXISTS balances (
        scope TEXT NOT NULL, period TEXT NOT NULL, task TEXT NOT NULL, spent INTEGER NOT NULL, calls INTEGER NOT NULL,
        PRIMARY KEY (scope, period, task)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS daily (
        scope TEXT NOT NULL, day TEXT NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL,
        calls INTEGER NOT NULL DEFAULT 0, unpriced INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0, cost INTEGER NOT NULL DEFAULT 0, hits INTEGER NOT NULL DEFAULT 0,
        saved_by_cache INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (scope, day, task, model)) WITHOUT ROWID;
    CREATE TRIGGER IF NOT EXISTS book AFTER UPDATE OF state, amount ON attempts WHEN NEW.state = 2 BEGIN
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
    """Another process is writing to the file now."""


def pico(amount: Decimal | None, *, down: bool = False) -> int | None:
    """Returns picodollars of USD, rounded up by default; None for an unknown price."""
    if amount is None:
        return None
    scaled = CONTEXT.multiply(amount, _PICO)
    whole = int(scaled.to_integral_value(ROUND_FLOOR if down else ROUND_CEILING, CONTEXT))
    return max(0, min(whole, MOST_USD * 10**12))


def dollars(amount: int) -> Decimal:
    """Returns USD of picodollars, without zeros at the end. Raises ConfigError if it is not an amount."""
    if type(amount) is not int:
        raise ConfigError(f"the ledger holds {amount!r:.40} instead of an amount; restore the file, or move it away")
    return CONTEXT.divide(Decimal(amount), _PICO)


def day_of(now: float) -> str:
    """Returns the UTC day of a time in seconds since 1970, as YYYY-MM-DD."""
    return datetime.fromtimestamp(min(max(now, 0.0), _LAST), UTC).date().isoformat()


def seconds_left(period: Period, now: float) -> float | None:
    """Returns the seconds until a limit of a day or month is renewed; None for the others."""
    if period not in ("day", "month"):
        return None
    today = datetime.fromisoformat(day_of(now)).replace(tzinfo=UTC)
    end = today + timedelta(days=1) if period == "day" else (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return end.timestamp() - now


async def when_free(work: Callable[[], T], seconds: float) -> T:
    """Returns the result of `work`, on an event loop; tries again while another process holds the file."""
    import asyncio

    for pause in _pauses(min(seconds, _WAIT)):
        with suppress(LedgerBusyError):
            return work()
        await asyncio.sleep(pause)
    return work()


def patiently(work: Callable[[], T]) -> T:
    """Same as `when_free`, for a thread that may block."""
    for pause in _pauses(_WAIT):
        with suppress(LedgerBusyError):
            return work()
        time.sleep(pause)
    return work()


def _pauses(seconds: float) -> Iterator[float]:
    """Yields the seconds between two tries, until that many are over."""
    until, pause = time.monotonic() + seconds, 0.001
    while time.monotonic() < until:
        yield pause
        pause = min(2 * pause, 0.05)


class LedgerFile:
    """One connection, used by one thread at a time. Without a path the ledger is in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.lock = path, threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @property
    def exists(self) -> bool:
        """True if anything has been written."""
        return self._connection is not None or (self.path is not None and self.path.exists())

    def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        """Runs the work as one transaction; no other process writes meanwhile.

        Raises ConfigError if the file cannot be used, LedgerBusyError if another process holds it now.
        """
        if not self.lock.acquire(timeout=_LOCK_WAIT):
            raise self._error(TimeoutError("another thread uses it"))
        try:
            connection = self._connection = self._connection or self._open()
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            result = work(connection)
            connection.execute("COMMIT")
            return result
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorname", "") not in ("SQLITE_BUSY", "SQLITE_FULL"):
                self.shut()  # so that a repaired file is opened again
            raise self._error(error) from None
        finally:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
            self.lock.release()

    def shut(self) -> None:
        """Closes the connection; the next use opens it again. The caller has the lock. A ledger in memory stays."""
        if self._connection is not None and self.path is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            make_folder(self.path.parent)
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
        """Migrates an older file to this version."""
        connection.execute("PRAGMA journal_mode = WAL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > len(_VERSIONS):
            raise sqlite3.NotSupportedError(f"it has version {found}, written by a newer testronaut-llm")
        scripts = "".join(_VERSIONS[found:])
        connection.executescript(f"BEGIN IMMEDIATE; {scripts} PRAGMA user_version = {len(_VERSIONS)}; COMMIT;")

    def _error(self, error: Exception) -> ConfigError:
        file = self.path or Path()
        if isinstance(error, sqlite3.NotSupportedError):
            fix = install()
        elif is_corrupt(error):
            fix = f"restore it, or start a new one: mv {file} {file}.broken"
        else:
            fix = fix_of(error, file) or f"make it writable: chmod -R u+rwX {file.parent}"
        what = f"the ledger {self.path} cannot be used ({error}), so no budget can be enforced; {fix}"
        name = getattr(error, "sqlite_errorname", "")
        busy = isinstance(error, TimeoutError) or name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
        return (LedgerBusyError if busy else ConfigError)(what, file=str(self.path))
