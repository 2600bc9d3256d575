"""Spend, and reservations for running requests: one SQLite file for all threads and processes.

Each attempt is reserved at its worst case, marked `sent`, and settled at its cost. When its lease ends, an
unsent attempt is released, a sent one is settled at the worst case. Spend dated in the future counts today, so
that setting the clock back frees no budget. Settlements wait in memory while another process holds the file.
"""

import itertools
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path

from testronaut_llm.errors import ConfigError
from testronaut_llm.money.ledger_file import LedgerBusyError, LedgerFile, Period, day_of, dollars, patiently, pico
from testronaut_llm.support.text import CONTEXT
from testronaut_llm.telemetry.log import logger

_MOST_HITS = 256  # in memory; they are written with the next settlement, or at the end
_DAY = 86_400.0
_LEAST_OF_A_DAY = 0.25  # a busy minute says little about a day

_HIT = """INSERT INTO daily (scope, day, task, model, hits, saved_by_cache) VALUES (?, ?, ?, ?, ?, ?)
          ON CONFLICT DO UPDATE SET hits = hits + excluded.hits,
          saved_by_cache = saved_by_cache + excluded.saved_by_cache"""
_RELEASE = "DELETE FROM attempts WHERE state < 2 AND state = 0 AND lease < ?"
_LOSE = "UPDATE attempts SET state = 2, outcome = 'lost' WHERE state < 2 AND state = 1 AND lease < ?"
_CALLS = "SELECT ifnull(sum(calls), 0) FROM balances WHERE scope = ? AND period >= ? AND period < 'E'"
_STANDING = """SELECT ifnull(sum(CASE WHEN lease < ?6 AND state = 1 THEN amount END), 0) + (
                   SELECT ifnull(sum(spent), 0) FROM balances
                   WHERE scope = ?1 AND period >= ?2 AND period < ?3 AND (?5 IS NULL OR task = ?5)),
               ifnull(sum(CASE WHEN lease >= ?6 THEN amount END), 0)
               FROM attempts WHERE state < 2 AND scope = ?1 AND day >= ?4 AND (?5 IS NULL OR task = ?5)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """USD booked since the ledger was created. The price of `unpriced` requests is unknown.

    For a manager also its `calls` that have ended, `hits` of the cache, and the `failures` by their code.
    """

    cost: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)
    unpriced: int = 0
    calls: int = 0
    hits: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """Books the attempts of one manager. Safe for threads, processes and forks.

    `standing`, `calls_per_day` and `flush` raise ConfigError if the file cannot be used. The others warn once, keep the
    data in memory, and write it later. Without a path the ledger is in memory.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        self.file, self.clock, self._warned = LedgerFile(path), clock, False
        self._cost = self._saved = Decimal(0)
        self._unpriced = 0
        self.forget()
        _LEDGERS.add(self)

    def forget(self) -> None:
        """Drops unwritten data; in a forked child it belongs to the parent."""
        self._lock = threading.RLock()  # the garbage collector may close a call, and so settle, during a write
        self._settlements: list[Callable[[sqlite3.Connection], object]] = []  # unwritten, the oldest first
        self._hits: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._new_hits = 0
        self.ids = itertools.count(secrets.randbits(61))  # of attempts: unique among processes, and never used again

    def book(self, settle: Callable[[sqlite3.Connection], object], change: Decimal, *, unpriced: int) -> None:
        """Writes a settlement, now or later; `change` is added to the cost of this session."""
        with self._lock:
            self._cost = CONTEXT.add(self._cost, change)
            self._unpriced += unpriced
            self._settlements.append(settle)
        self._write()

    def hit(self, scope: str, task: str, model: str, saved: Decimal | None) -> None:
        """Counts an answer from the cache and the USD that it saved. A killed process may lose it."""
        with self._lock:
            row = self._hits[scope, day_of(self.clock()), task, model]
            row[0] += 1
            row[1] += pico(saved) or 0
            self._saved = CONTEXT.add(self._saved, saved or Decimal(0))
            self._new_hits += 1
        if self._new_hits >= _MOST_HITS:
            self._write()

    @property
    def session(self) -> Session:
        """Sums since this ledger was created."""
        with self._lock:
            return Session(cost=self._cost, saved=self._saved, unpriced=self._unpriced)

    def standing(self, scope: str, period: Period = "total", task: str | None = None) -> tuple[Decimal, Decimal]:
        """Returns USD spent and USD reserved in the current period, of all tasks or of one."""
        if not self.file.exists:
            return Decimal(0), Decimal(0)
        spent, aside = self.file.run(lambda db: standing(db, scope, period, task, self.clock()), write=False)
        return dollars(spent), dollars(aside)

    def calls_per_day(self, scope: str) -> float:
        """Returns the mean of the last seven days, or of today at its pace if that is more."""
        if not self.file.exists:
            return 0.0
        now = self.clock()
        since = [(scope, f"D{day_of(start)}") for start in (now - 6 * _DAY, now)]
        week, today = self.file.run(lambda db: [db.execute(_CALLS, one).fetchone()[0] for one in since], write=False)
        return float(max(week / 7, today / max(now % _DAY / _DAY, _LEAST_OF_A_DAY)))

    def flush(self) -> None:
        """Writes unwritten data, and ends the attempts of dead processes."""
        patiently(partial(self._write, strict=True))
        if self.file.exists:
            patiently(lambda: self.file.run(lambda db: end_leases(db, self.clock())))

    def close(self) -> None:
        """Writes unwritten data, and closes the file."""
        try:
            patiently(partial(self._write, strict=True))
        except ConfigError as error:
            self.warn(error)
        with self.file.lock:
            self.file.shut()

    def warn(self, error: ConfigError) -> None:
        """Logs once that the ledger cannot be used."""
        if not self._warned:
            self._warned = True
            logger().warning("ledger_unavailable", error=str(error))

    def _write(self, *, strict: bool = False) -> None:
        """Writes unwritten data in one transaction; with `strict`, raises if that fails."""
        with self._lock:
            settlements, hits = list(self._settlements), [(*key, *sums) for key, sums in self._hits.items()]
            self._new_hits = 0

            def write(db: sqlite3.Connection) -> None:
                for settle in settlements:
                    settle(db)
                db.executemany(_HIT, hits)

            try:
                if settlements or hits:
                    self.file.run(write)
                    del self._settlements[: len(settlements)]
                    self._hits.clear()
            except ConfigError as error:
                if strict:
                    raise
                if not isinstance(error, LedgerBusyError):
                    self.warn(error)


def standing(db: sqlite3.Connection, scope: str, period: Period, task: str | None, now: float) -> tuple[int, int]:
    """Returns picodollars spent and reserved. A sent attempt whose lease is over counts as spent."""
    since = {"day": day_of(now), "month": day_of(now)[:7]}.get(period, "")
    mark = period[0].upper()
    values = (scope, mark + since, chr(ord(mark) + 1), since, task, now)
    spent, aside = db.execute(_STANDING, values).fetchone()
    return spent, aside


def end_leases(db: sqlite3.Connection, now: float) -> None:
    """Ends attempts whose lease is over: unsent ones are released, sent ones settled at their worst case."""
    for statement in (_RELEASE, _LOSE):
        db.execute(statement, (now,))


# No connection is kept through a fork: the child would take its parent's locks for its own.
_LEDGERS: weakref.WeakSet[Ledger] = weakref.WeakSet()
_PAUSED: list[Ledger] = []


def _before_fork() -> None:
    for ledger in tuple(_LEDGERS):
        ledger.file.lock.acquire()
        ledger.file.shut()
        _PAUSED.append(ledger)


def _after_fork(*, in_child: bool) -> None:
    while _PAUSED:
        ledger = _PAUSED.pop()
        ledger.file.lock.release()
        if in_child:
            ledger.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=partial(_after_fork, in_child=False),
        after_in_child=partial(_after_fork, in_child=True),
    )
