"""The money of one attempt: set aside before it is sent, and settled at what it cost; and what a limit has left.

Amounts in the file are whole picodollars, rounded against the spender.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import BudgetExceededError, ConfigError
from testronaut_llm.money.ledger_file import LedgerBusyError
from testronaut_llm.money.pacing import OnExceeded
from testronaut_llm.money.units import Period, day_of, dollars, pico
from testronaut_llm.records import Attempt, Usage
from testronaut_llm.support.money import MOST_TOKENS, exact, usd
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from testronaut_llm.money.ledger import Ledger

_RESERVED_LEASE = 60.0  # seconds; marking `sent` follows at once
_INSERT = """INSERT INTO attempts (state, scope, day, at, lease, task, model, provider_model, amount)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SEND = "UPDATE attempts SET state = 1, lease = ? WHERE id = ? AND state = 0 AND lease >= ?"
_SETTLE = """UPDATE attempts SET state = 2, amount = ?, outcome = ?, error = ?, prompt_tokens = ?,
             completion_tokens = ?, cached_tokens = ?, cache_write_tokens = ?, reasoning_tokens = ?, estimated = ?,
             latency = ? WHERE id = ?"""
_RELEASE = "DELETE FROM attempts WHERE state < 2 AND state = 0 AND lease < ?"
_LOSE = "UPDATE attempts SET state = 2, outcome = 'lost' WHERE state < 2 AND state = 1 AND lease < ?"
SPENT = """SELECT ifnull(sum(spent), 0), ifnull(sum(calls), 0) FROM balances
            WHERE scope = ?1 AND period >= ?2 AND period < ?3 AND (?4 IS NULL OR task = ?4)"""
_OPEN = """SELECT ifnull(sum(CASE WHEN lease >= ?4 THEN amount END), 0),
                  ifnull(sum(CASE WHEN lease < ?4 AND state = 1 THEN amount END), 0)
           FROM attempts WHERE state < 2 AND scope = ?1 AND day >= ?2 AND (?3 IS NULL OR task = ?3)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit: `amount` in USD of one call, or of all calls of a day, a month (UTC) or ever.

    `name` is where `llm.yaml` says it. `own` is True if only the money of the call's task counts.
    """

    name: str
    period: Period
    amount: Decimal
    own: bool = False
    on_exceeded: OnExceeded = "stop"

    @property
    def hard(self) -> bool:
        """True if a model that does not fit is refused."""
        return self.on_exceeded != "warn"


@dataclass(slots=True, eq=False)
class Reservation:
    """The money of one attempt: `sent` before the request leaves, `settle` when it has ended.

    Attributes:
        ledger: where it is booked.
        scope, task, model, provider_model: whose money it is, and for what.
        worst: USD to set aside; None if no price is known.
        lease: seconds after which nobody waits for the answer.
        limits: have to leave that much. Without a hard one, a ledger that fails stops nothing.
        spent: USD of the earlier attempts of the same call.
    """

    ledger: Ledger
    scope: str
    task: str
    model: str
    provider_model: str
    worst: Decimal | None
    lease: float = 960.0
    limits: tuple[Limit, ...] = ()
    spent: Decimal = Decimal(0)
    row: int = 0
    settled: Attempt | None = None

    def reserve(self) -> Reservation:
        """Sets the worst case aside. Never waits.

        Raises:
            BudgetExceededError: a hard limit leaves less.
            LedgerBusyError: another process holds the file, and a limit has to hold.
            ConfigError: the ledger cannot be used, and a limit has to hold.
        """
        for limit in self.limits:
            if limit.period == "call":
                self._check(limit, pico(self.spent) or 0)
        self._attempt(self._insert_checked)
        return self

    def sent(self) -> None:
        """Marks that the request leaves now. Never waits.

        A process that slept past the end of its lease reserves again first.

        Raises:
            LLMError: as `reserve` raises it; the request must not be sent.
        """
        if self.row:
            self._attempt(self._mark_sent)

    @exact
    def settle(self, attempt: Attempt) -> None:
        """Books what the attempt cost. A second time it corrects the first. Never waits, never raises."""
        before, self.settled = self.settled, attempt
        cost = self._cost(attempt)
        change = cost - (self._cost(before) if before else 0)
        self.ledger.book(self, attempt, change, unpriced=int(before is None and attempt.cost is None))

    def write(self, db: sqlite3.Connection, attempt: Attempt, now: float) -> None:
        """Writes a settlement. An attempt whose row was never written, or is gone, gets a new one."""
        usage = attempt.usage or Usage(estimated=True)
        counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        values = (
            pico(attempt.cost if attempt.cost is not None else self.worst),
            *(attempt.outcome, attempt.error.code if attempt.error else None),
            *(max(0, min(n, MOST_TOKENS)) for n in (*counts, usage.cache_write_tokens, usage.reasoning_tokens)),
            *(usage.estimated, attempt.latency),
        )
        if not self.row or not db.execute(_SETTLE, (*values, self.row)).rowcount:
            db.execute("BEGIN IMMEDIATE")
            row = self._insert(db, 1, now, now)
            db.execute(_SETTLE, (*values, row))
            db.execute("COMMIT")
            self.row = row  # not before: an id that was rolled back may become another attempt's

    def _attempt(self, work: Callable[[sqlite3.Connection], int]) -> None:
        must = self.worst != 0 and any(limit.hard and limit.period != "call" for limit in self.limits)
        try:
            self.row = self.ledger.file.transaction(work, wait=0)
        except ConfigError as error:
            if must:
                raise
            if not isinstance(error, LedgerBusyError):  # what it costs is booked later
                self.ledger.warn(error)

    def _insert_checked(self, db: sqlite3.Connection) -> int:
        now = self.ledger.clock()
        reap(db, now)
        for limit in self.limits if self.worst != 0 else ():
            if limit.period != "call":
                used = standing(db, self.scope, limit.period, self.task if limit.own else None, now)
                self._check(limit, sum(used))
        return self._insert(db, 0, now, now + _RESERVED_LEASE)

    def _insert(self, db: sqlite3.Connection, state: int, now: float, lease: float) -> int:
        values = (state, self.scope, day_of(now), now, lease, self.task, self.model, self.provider_model)
        return db.execute(_INSERT, (*values, pico(self.worst))).lastrowid or 0

    def _mark_sent(self, db: sqlite3.Connection) -> int:
        now, row = self.ledger.clock(), self.row
        if not db.execute(_SEND, (now + self.lease, row, now)).rowcount:
            row = self._insert_checked(db)
            db.execute(_SEND, (now + self.lease, row, now))
        return row

    def _check(self, limit: Limit, used: int) -> None:
        left, worst = (pico(limit.amount, down=True) or 0) - used, pico(self.worst)
        if worst is not None and worst <= left:
            return
        cost = "has no known price" if worst is None else f"may cost up to {usd(dollars(worst))}"
        message = (
            f"{self.model} {cost} for task {self.task!r}, and {usd(dollars(max(left, 0)))} of {usd(limit.amount)} is "
            f"left of {limit.name}; raise that, lower `max_tokens`, or list a cheaper model"
        )
        if limit.hard:
            raise BudgetExceededError(message, model=self.model)
        logger().warning("budget_exceeded", limit=limit.name, fault=message)

    def _cost(self, attempt: Attempt) -> Decimal:
        return attempt.cost if attempt.cost is not None else self.worst or Decimal(0)


def reap(db: sqlite3.Connection, now: float) -> None:
    """Ends the attempts whose lease is over: releases what was not sent, settles what was at the worst case."""
    db.execute(_RELEASE, (now,))
    db.execute(_LOSE, (now,))


def standing(db: sqlite3.Connection, scope: str, period: Period, task: str | None, now: float) -> tuple[int, int]:
    """Returns picodollars spent and set aside. What was sent and whose lease is over counts as spent."""
    since = {"day": day_of(now), "month": day_of(now)[:7]}.get(period, "")
    mark = period[0].upper()
    (spent, _) = db.execute(SPENT, (scope, mark + since, chr(ord(mark) + 1), task)).fetchone()
    aside, lost = db.execute(_OPEN, (scope, since, task, now)).fetchone()
    return spent + lost, aside
