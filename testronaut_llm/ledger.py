"""What was spent, and what is set aside for requests under way: one SQLite file for all threads and processes.

Each attempt is reserved at its worst case, marked `sent`, and settled at what it cost. One that nobody settles is
dealt with when its lease ends: what was only reserved is released, what was sent is settled at the worst case. A
true cost that comes late corrects it. Days are UTC. Money under a later date counts today as well, so that a clock
that jumps gives nothing away.
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
from pathlib import Path

from testronaut_llm.accounting import entries
from testronaut_llm.accounting.entries import SPANS, Entry, Period, Span, day_of, dollars, pico
from testronaut_llm.accounting.file import LedgerFile
from testronaut_llm.errors import BudgetExceededError, ConfigError
from testronaut_llm.records import Attempt
from testronaut_llm.support.amounts import usd
from testronaut_llm.support.log import logger

FLUSH = 5.0
"""Seconds that cache hits stay in memory at most, while more of them come."""

Counts = tuple[int, int, int]
"""Hits, and picodollars that the cache and the routing saved."""

_NOTHING = Decimal(0)
_DAY = 86_400.0
_LEAST_OF_A_DAY = 0.25  # a busy minute says little about a day
_RESERVED_LEASE = 60.0  # seconds; marking `sent` follows at once
_SAVED = """INSERT INTO daily (scope, day, task, model, hits, saved_by_cache, saved_by_routing)
            VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET hits = hits + excluded.hits,
            saved_by_cache = saved_by_cache + excluded.saved_by_cache,
            saved_by_routing = saved_by_routing + excluded.saved_by_routing"""


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
    others warn once, keep what they were told, and write it later.

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
        self._heard: deque[tuple[float, str, str, Decimal, bool]] = deque()
        self._savings: dict[tuple[str, str, str], Counts] = {}
        self._flushed = float("-inf")
        self._lock = threading.Lock()
        self._warned = False
        self._pid = os.getpid()

    def reserve(self, entry: Entry, limits: Sequence[Limit] = ()) -> int:
        """Sets the worst case of an attempt aside, and returns its row.

        Raises:
            BudgetExceededError: a hard limit leaves less.
        """
        now = self.clock()

        def work(db: sqlite3.Connection) -> int:
            if limits:
                standing = entries.standing(db, entry.scope, entry.task, now)
                for limit in limits:
                    self._check(entry, limit, sum(standing[limit.period, limit.own]))
            return entries.insert(db, entry, entries.RESERVED, now, _RESERVED_LEASE)

        return self.file.run_whole(work) if limits else self.file.run(work)

    def sent(self, row: int, lease: float) -> bool:
        """Marks that the request leaves now, and is waited for `lease` seconds at most.

        False: the money is free again, since the reservation's lease has ended.
        """
        mark = "UPDATE attempts SET state = 1, lease = ? WHERE id = ? AND state = 0"
        values = (self.clock() + lease, row)
        return self.file.run(lambda db: db.execute(mark, values).rowcount) == 1

    def settle(self, entry: Entry, row: int, attempt: Attempt) -> None:
        """Books what an attempt cost, or corrects it; `row` is 0 where none was reserved."""
        try:
            self._settle_all()
            self._book(entry, row, attempt)
        except ConfigError as error:
            self._unsettled.append((entry, row, attempt))
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
        self._save(task, model, saved or _NOTHING, hit=True)

    def routed(self, task: str, model: str, saved: Decimal) -> None:
        """Counts the USD that the choice of a model saved; negative where it cost more."""
        self._save(task, model, saved, hit=False)

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
        found = self.file.run(lambda db: entries.standing(db, scope, task, self.clock()))
        return {span: (dollars(spent), dollars(aside)) for span, (spent, aside) in found.items()}

    def calls_per_day(self, scope: str) -> float:
        """How many requests a day brings: as the last seven did, or as many as today goes on to if that is more."""
        if not self.file.exists:
            return 0.0
        now = self.clock()
        ask = "SELECT ifnull(sum(calls), 0) FROM balances WHERE scope = ? AND period >= 'D' || ? AND period < 'E'"

        def since(seconds: float) -> float:
            return float(self.file.run(lambda db: db.execute(ask, (scope, day_of(seconds))).fetchone())[0])

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

    def _settle_all(self) -> None:
        self._mine()
        while self._unsettled:
            try:
                one = self._unsettled.popleft()
            except IndexError:  # another thread took it
                return
            try:
                self._book(*one)
            except BaseException:
                self._unsettled.appendleft(one)
                raise

    def _book(self, entry: Entry, row: int, attempt: Attempt) -> None:
        self.file.run(lambda db: entries.settle(db, entry, row, attempt, self.clock()))

    def _save(self, task: str, model: str, saved: Decimal, *, hit: bool) -> None:
        self._mine()
        self._heard.append((self.clock(), task, model, saved, hit))
        if time.monotonic() - self._flushed >= FLUSH:
            try:
                self._save_all()
            except ConfigError as error:
                self.warn(error)

    def _note(self) -> None:
        """Adds up what was heard of, which an answer from the cache does not wait for."""
        self._mine()
        while self._heard:
            try:
                at, task, model, saved, hit = self._heard.popleft()
            except IndexError:  # another thread took it
                return
            amount = pico(saved) or 0
            self._keep({(day_of(at), task, model): (1, amount, 0) if hit else (0, 0, amount)})
            with self._lock:
                self._session = replace(self._session, saved=self._session.saved + saved)

    def _save_all(self) -> None:
        self._flushed = time.monotonic()
        self._note()
        with self._lock:
            taken, self._savings = self._savings, {}
        try:
            if taken:
                rows = [(self._scope(), *key, *counts) for key, counts in taken.items()]
                self.file.run_whole(lambda db: db.executemany(_SAVED, rows))
        except BaseException:
            self._keep(taken)
            raise

    def _keep(self, savings: dict[tuple[str, str, str], Counts]) -> None:
        with self._lock:
            for key, (hits, by_cache, by_routing) in savings.items():
                before = self._savings.get(key, (0, 0, 0))
                self._savings[key] = before[0] + hits, before[1] + by_cache, before[2] + by_routing
