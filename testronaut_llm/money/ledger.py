"""What was spent, and what is set aside for requests under way: one SQLite file for all threads and processes.

Each attempt is reserved at its worst case, marked `sent`, and settled at its cost. An attempt that nobody settles is
handled when its lease ends: one that was only reserved is released, one that was sent is settled at the worst case.
Days are UTC. Spend dated in the future counts today, so that setting the clock back frees no budget. Nobody waits for
another process that holds the file: settlements are kept in memory, and written when the file is free.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from testronaut_llm.errors import ConfigError
from testronaut_llm.money.ledger_file import WAIT, LedgerBusyError, LedgerFile
from testronaut_llm.money.reservation import SPENT, Reservation, reap, standing
from testronaut_llm.money.units import Period, day_of, dollars, pico
from testronaut_llm.support.money import exact
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    import sqlite3

    from testronaut_llm.records import Attempt

FLUSH = 5.0
"""Seconds that cache hits stay in memory at most, while more of them come."""

_DAY = 86_400.0
_LEAST_OF_A_DAY = 0.25  # a busy minute says little about a day
_HIT = """INSERT INTO daily (scope, day, task, model, hits, saved_by_cache) VALUES (?, ?, ?, ?, ?, ?)
          ON CONFLICT DO UPDATE SET hits = hits + excluded.hits,
          saved_by_cache = saved_by_cache + excluded.saved_by_cache"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What was booked since the ledger was made, in USD. The price of `unpriced` requests is not known."""

    cost: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)
    unpriced: int = 0


class Ledger:
    """Books the attempts of one manager. Safe for threads, processes and forks.

    `standing`, `calls_per_day` and `flush` raise ConfigError where the file cannot be used. The others warn once, keep
    what they were told, and write it later.

    Args:
        path: the file; None keeps everything in memory.
        scope: whose money a cache hit saves.
        clock: seconds since 1970.
    """

    def __init__(
        self, path: Path | None, *, scope: Callable[[], str] = str, clock: Callable[[], float] = time.time
    ) -> None:
        self.file = LedgerFile(path)
        self.clock = clock
        self._scope = scope
        self._session = Session()
        self._warned = False
        self._flushed = float("-inf")
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()  # the garbage collector may close a call, and so settle, in the midst of this
        self._queue: deque[Callable[[sqlite3.Connection], None]] = deque()
        self._hits: Counter[tuple[str, str, str]] = Counter()
        self._saved: Counter[tuple[str, str, str]] = Counter()

    def _own(self) -> None:
        """In a forked child, forgets what its parent has yet to write."""
        if self._pid != os.getpid():
            self._start()

    def book(self, reservation: Reservation, attempt: Attempt, change: Decimal, *, unpriced: int) -> None:
        """Writes a settlement; `change` is what it adds to the cost of this session."""
        self._own()
        with self._lock:
            now = self._session
            self._session = replace(now, cost=now.cost + change, unpriced=now.unpriced + unpriced)
            self._queue.append(partial(reservation.write, attempt=attempt, now=self.clock()))
        self._write_or_warn()

    @exact
    def hit(self, task: str, model: str, saved: Decimal | None) -> None:
        """Counts an answer from the cache and the USD that it did not cost; written every few seconds."""
        self._own()
        key = (day_of(self.clock()), task, model)
        with self._lock:
            self._hits[key] += 1
            self._saved[key] += pico(saved) or 0
            self._session = replace(self._session, saved=self._session.saved + (saved or 0))
        if time.monotonic() - self._flushed >= FLUSH:
            self._write_or_warn()

    @property
    def session(self) -> Session:
        """What was booked since this ledger was made."""
        return self._session

    def standing(self, scope: str, period: Period = "total", task: str | None = None) -> tuple[Decimal, Decimal]:
        """Returns USD spent and USD set aside in the current period, of all tasks or of one."""
        if not self.file.exists:
            return Decimal(0), Decimal(0)
        spent, aside = self.file.run(lambda db: standing(db, scope, period, task, self.clock()), wait=0)
        return dollars(spent), dollars(aside)

    def calls_per_day(self, scope: str) -> float:
        """Returns the mean of the last seven days, or what today comes to at its pace if that is more."""
        if not self.file.exists:
            return 0.0
        now = self.clock()

        def since(seconds: float) -> float:
            values = (scope, f"D{day_of(seconds)}", "E", None)
            return float(self.file.run(lambda db: db.execute(SPENT, values).fetchone(), wait=0)[1])

        return max(since(now - 6 * _DAY) / 7, since(now) / max(now % _DAY / _DAY, _LEAST_OF_A_DAY))

    def flush(self) -> None:
        """Writes what was kept back, and ends the attempts of dead processes."""
        self._write(WAIT)
        if self.file.exists:
            self.file.transaction(lambda db: reap(db, self.clock()))

    def close(self) -> None:
        """Writes what was kept back, and closes the file."""
        self._write_or_warn(WAIT)
        self.file.close()

    def warn(self, error: ConfigError) -> None:
        """Logs once that the ledger does not work."""
        if not self._warned:
            self._warned = True
            logger().warning("ledger_unavailable", fault=str(error))

    def _write_or_warn(self, wait: float = 0.0) -> None:
        try:
            self._write(wait)
        except LedgerBusyError as error:
            if wait:
                self.warn(error)
        except ConfigError as error:
            self.warn(error)

    def _write(self, wait: float) -> None:
        self._own()
        with self._lock:
            self._flushed = time.monotonic()
            if self._hits:
                rows = [(self._scope(), *key, count, self._saved[key]) for key, count in self._hits.items()]
                self._queue.append(partial(_add_hits, rows=rows))
                self._hits, self._saved = Counter(), Counter()
        while self._queue:
            try:
                work = self._queue.popleft()
            except IndexError:  # another thread took it
                return
            try:
                self.file.run(work, wait)
            except BaseException:
                self._queue.appendleft(work)
                raise


def _add_hits(db: sqlite3.Connection, rows: Sequence[tuple[str | int, ...]]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(_HIT, rows)
    db.execute("COMMIT")
