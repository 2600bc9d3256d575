"""What was spent, and what is set aside for requests under way: one SQLite file for all threads and processes.

Each attempt is reserved at its worst case, marked `sent`, and settled at what it cost. One that nobody settles is
dealt with when its lease ends: what was only reserved is released, what was sent is settled at the worst case. Days
are UTC. Money under a later date counts today as well, so that a clock that jumps gives nothing away. While another
process holds the file nobody waits for it: what has to be booked is kept, and written when the file is free.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path

from testronaut_llm.errors import BudgetExceededError, ConfigError
from testronaut_llm.money import entries
from testronaut_llm.money.entries import SPANS, Entry, Period, Span, day_of, dollars, pico
from testronaut_llm.money.ledger_file import WAIT, LedgerBusyError, LedgerFile
from testronaut_llm.records import Attempt
from testronaut_llm.support.money import exact, usd
from testronaut_llm.telemetry.log import logger

FLUSH = 5.0
"""Seconds that cache hits stay in memory at most, while more of them come."""

Counts = tuple[int, int]
"""Hits, and picodollars that the cache saved."""

_NOTHING = Decimal(0)
_DAY = 86_400.0
_LEAST_OF_A_DAY = 0.25  # a busy minute says little about a day
_RESERVED_LEASE = 60.0  # seconds; marking `sent` follows at once
_SAVED = """INSERT INTO daily (scope, day, task, model, hits, saved_by_cache)
            VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET hits = hits + excluded.hits,
            saved_by_cache = saved_by_cache + excluded.saved_by_cache"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit that spans calls.

    Attributes:
        name: where `llm.yaml` says it.
        period: what it spans; days and months are UTC.
        amount: USD.
        own: does only the money of the call's task count?
        hard: is a call that does not fit refused?
    """

    name: str
    period: Period
    amount: Decimal
    own: bool = False
    hard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What was booked since the ledger was made, in USD. The price of `unpriced` requests is not known."""

    cost: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)
    unpriced: int = 0


class Ledger:
    """Books the attempts of one manager. Safe for threads, processes and forks.

    `reserve`, `sent`, `standing`, `calls_per_day` and `flush` raise ConfigError where the file cannot be used; the
    others warn once, keep what they were told, and write it later. `settle` and `hit` wait for no other process.

    Args:
        path: the file; None keeps everything in memory.
        scope: whose money a cache hit saves.
        clock: seconds since 1970.
    """

    def __init__(
        self, path: Path | None, *, scope: Callable[[], str] = str, clock: Callable[[], float] = time.time
    ) -> None:
        self.file = LedgerFile(path)
        self._session = Session()
        self.clock = clock
        self._scope = scope
        self._unsettled: deque[tuple[Entry, int, Attempt]] = deque()
        self._heard: deque[tuple[float, str, str, Decimal]] = deque()
        self._savings: dict[tuple[str, str, str], Counts] = {}
        self._flushed = float("-inf")
        self._lock = threading.Lock()
        self._warned = False
        self._pid = os.getpid()

    def reserve(self, entry: Entry, limits: Sequence[Limit] = (), *, wait: float = WAIT) -> int:
        """Sets the worst case of an attempt aside, and returns its row.

        Raises:
            BudgetExceededError: a hard limit leaves less.
            LedgerBusyError: another process held the file for `wait` seconds.
        """
        now = self.clock()

        def work(db: sqlite3.Connection) -> int:
            entries.reap(db, now)
            if limits:
                standing = entries.standing(db, entry.scope, entry.task, now)
                for limit in limits:
                    self._check(entry, limit, sum(standing[limit.period, limit.own]))
            return entries.insert(db, entry, entries.RESERVED, now, _RESERVED_LEASE)

        return self.file.run_whole(work, wait)

    def sent(self, row: int, lease: float, *, wait: float = WAIT) -> bool:
        """Marks that the request leaves now, and is waited for `lease` seconds at most.

        False: the money is free again, since the reservation's lease has ended.
        """
        mark = "UPDATE attempts SET state = 1, lease = ? WHERE id = ? AND state = 0 AND lease >= ?"
        values = ((now := self.clock()) + lease, row, now)
        return self.file.run(lambda db: db.execute(mark, values).rowcount, wait) == 1

    def settle(self, entry: Entry, row: int, attempt: Attempt) -> None:
        """Books what an attempt cost, or corrects it; `row` is 0 where none was reserved."""
        self._mine()
        self._unsettled.append((entry, row, attempt))
        try:
            self._settle_all(wait=0)
        except LedgerBusyError:
            pass
        except ConfigError as error:
            self.warn(error)

    def _mine(self) -> None:
        """In a forked child, what its parent had not written yet is the parent's to write."""
        if self._pid != os.getpid():
            self._pid, self._lock = os.getpid(), threading.Lock()
            self._unsettled.clear()
            self._heard.clear()
            self._savings = {}

    def hit(self, task: str, model: str, saved: Decimal | None) -> None:
        """Counts an answer from the cache and the USD that it did not cost; written every few seconds."""
        self._mine()
        self._heard.append((self.clock(), task, model, saved or _NOTHING))
        if time.monotonic() - self._flushed >= FLUSH:
            try:
                self._save_all(wait=0)
            except LedgerBusyError:
                pass
            except ConfigError as error:
                self.warn(error)

    @exact
    def count(self, cost: Decimal, *, unpriced: int = 0) -> None:
        """Adds to what this session cost."""
        self._mine()
        with self._lock:
            now = self._session
            self._session = replace(now, cost=now.cost + cost, unpriced=now.unpriced + unpriced)

    @property
    def session(self) -> Session:
        """What was booked since this ledger was made."""
        self._note()
        return self._session

    def standing(self, scope: str, task: str = "") -> dict[Span, tuple[Decimal, Decimal]]:
        """USD spent and USD set aside: by period, of all tasks (False) and of this one (True)."""
        if not self.file.exists:
            return dict.fromkeys(SPANS, (Decimal(0), Decimal(0)))
        found = self.file.run(lambda db: entries.standing(db, scope, task, self.clock()), wait=0)
        return {span: (dollars(spent), dollars(aside)) for span, (spent, aside) in found.items()}

    def calls_per_day(self, scope: str) -> float:
        """How many requests a day brings: as the last seven did, or as many as today goes on to if that is more."""
        if not self.file.exists:
            return 0.0
        now = self.clock()
        ask = "SELECT ifnull(sum(calls), 0) FROM balances WHERE scope = ? AND period >= 'D' || ? AND period < 'E'"

        def since(seconds: float) -> float:
            return float(self.file.run(lambda db: db.execute(ask, (scope, day_of(seconds))).fetchone(), wait=0)[0])

        week, today = since(now - 6 * _DAY), since(now)
        return max(week / 7, today / max(now % _DAY / _DAY, _LEAST_OF_A_DAY))

    def flush(self) -> None:
        """Writes what was kept back, and ends what dead processes left."""
        self._settle_all()
        self._save_all()
        if self.file.exists:
            self.file.run(lambda db: entries.reap(db, self.clock()))

    def close(self) -> None:
        """Writes what was kept back, and closes the file."""
        try:
            self._settle_all()
            self._save_all()
        except ConfigError as error:
            self.warn(error)
        self.file.close()

    def warn(self, error: ConfigError) -> None:
        """Tells once that the ledger does not work."""
        if not self._warned:
            self._warned = True
            logger().warning("ledger_unavailable", fault=str(error))

    def _check(self, entry: Entry, limit: Limit, used: int) -> None:
        left, worst = (pico(limit.amount, down=True) or 0) - used, pico(entry.worst)
        if worst is not None and worst <= left:
            return
        cost = "has no known price" if worst is None else f"may cost up to {usd(dollars(worst))}"
        message = (
            f"{entry.model} {cost} for task {entry.task!r}, and {usd(dollars(max(left, 0)))} of {usd(limit.amount)} is "
            f"left of {limit.name}; raise that, lower `max_tokens`, or list a cheaper model"
        )
        if limit.hard:
            raise BudgetExceededError(message, model=entry.model)
        logger().warning("budget_exceeded", limit=limit.name, fault=message)

    def _settle_all(self, wait: float = WAIT) -> None:
        self._mine()
        while self._unsettled:
            try:
                one = self._unsettled.popleft()
            except IndexError:  # another thread took it
                return
            try:
                self.file.run(partial(entries.settle, booked=one, now=self.clock()), wait)
            except BaseException:
                self._unsettled.appendleft(one)
                raise

    @exact
    def _note(self) -> None:
        """Adds up what was heard of, which an answer from the cache does not wait for."""
        self._mine()
        while self._heard:
            try:
                at, task, model, saved = self._heard.popleft()
            except IndexError:  # another thread took it
                return
            self._keep({(day_of(at), task, model): (1, pico(saved) or 0)})
            with self._lock:
                self._session = replace(self._session, saved=self._session.saved + saved)

    def _save_all(self, wait: float = WAIT) -> None:
        self._flushed = time.monotonic()
        self._note()
        with self._lock:
            taken, self._savings = self._savings, {}
        try:
            if taken:
                rows = [(self._scope(), *key, *counts) for key, counts in taken.items()]
                self.file.run_whole(lambda db: db.executemany(_SAVED, rows), wait)
        except BaseException:
            self._keep(taken)
            raise

    def _keep(self, savings: dict[tuple[str, str, str], Counts]) -> None:
        with self._lock:
            for key, (hits, by_cache) in savings.items():
                before = self._savings.get(key, (0, 0))
                self._savings[key] = before[0] + hits, before[1] + by_cache
