"""The money of one attempt: reserved before it is sent, and settled at its cost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from testronaut_llm.errors import BudgetExceededError, ConfigError
from testronaut_llm.money.ledger import REAP, Ledger, standing
from testronaut_llm.money.ledger_file import LedgerBusyError, day_of, dollars, pico
from testronaut_llm.money.pacing import Limit
from testronaut_llm.records import Attempt, Usage
from testronaut_llm.support.money import CONTEXT, MOST_TOKENS, usd
from testronaut_llm.telemetry.log import logger

_RESERVED_LEASE = 60.0  # seconds; marking `sent` follows at once
_INSERT = """INSERT INTO attempts (state, scope, day, at, lease, task, model, provider_model, amount)
             VALUES (0, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SEND = "UPDATE attempts SET state = 1, lease = ? WHERE id = ? AND state = 0 AND lease >= ?"
_SETTLE = """UPDATE attempts SET state = 2, amount = ?, outcome = ?, error = ?, estimated = ?, latency = ?,
             prompt_tokens = ?, completion_tokens = ?, cached_tokens = ?, cache_write_tokens = ?, reasoning_tokens = ?
             WHERE id = ?"""


@dataclass(slots=True, eq=False)
class Reservation:
    """The money of one attempt: `sent` before the request leaves, `settle` when it has ended.

    `worst` is the USD to reserve (None if no price is known); the `limits` must leave it, beyond what earlier attempts
    of the call `spent`. No call waits for its answer longer than the `lease` (seconds).
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
    booked: Decimal | None = None

    def reserve(self) -> Reservation:
        """Reserves the worst case. Never waits.

        Raises BudgetExceededError if a hard limit leaves less; ConfigError if there is a limit and the ledger cannot be
        used; LedgerBusyError if another process holds it now.
        """
        for limit in self.limits:
            if limit.period == "call":
                self._check(limit, pico(self.spent) or 0)
        self._change(self._set_aside)
        return self

    def sent(self) -> None:
        """Marks the request as sent. If this raises (as `reserve` does), it must not be sent. Never waits.

        A process that slept past the end of its lease reserves again first.
        """
        if self.row:
            self._change(self._mark_sent)

    def settle(self, attempt: Attempt) -> None:
        """Books the cost of the attempt. A second call corrects the first. Never waits, never raises."""
        cost = self.worst or Decimal(0) if attempt.cost is None else attempt.cost
        before, self.booked = self.booked, cost
        usage = attempt.usage or Usage(estimated=True)
        counts = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens
        values = (
            pico(self.worst if attempt.cost is None else cost),
            *(attempt.outcome, attempt.error.code if attempt.error else None, usage.estimated, attempt.latency),
            *[max(0, min(n, MOST_TOKENS)) for n in (*counts, usage.cache_write_tokens, usage.reasoning_tokens)],
        )
        change, unpriced = CONTEXT.subtract(cost, before or Decimal(0)), before is None and attempt.cost is None
        self.ledger.book(partial(self._write, values, self.ledger.clock()), change, unpriced=int(unpriced))

    def _write(self, values: tuple[object, ...], now: float) -> None:
        """Writes a settlement. An attempt without a row gets a new one."""

        def settled(db: sqlite3.Connection) -> int:
            if self.row and db.execute(_SETTLE, (*values, self.row)).rowcount:
                return self.row
            row = self._set_aside(db, now)
            db.execute(_SETTLE, (*values, row))
            return row

        self.row = self.ledger.file.run(settled)  # not before: after a rollback the id may belong to another attempt

    def _change(self, work: Callable[[sqlite3.Connection], int]) -> None:
        try:
            self.row = self.ledger.file.run(work)
        except ConfigError as error:
            if self.worst != 0 and any(limit.hard and limit.period != "call" for limit in self.limits):
                raise
            if not isinstance(error, LedgerBusyError):  # its cost is booked later
                self.ledger.warn(error)

    def _set_aside(self, db: sqlite3.Connection, at: float | None = None) -> int:
        """Inserts a row if the limits leave its amount, or (with `at`) for money already spent at that time."""
        now, worst = self.ledger.clock() if at is None else at, pico(self.worst)
        if at is None:
            for statement in REAP:
                db.execute(statement, (now,))
            for limit in self.limits if worst != 0 else ():
                if limit.period != "call":
                    used = standing(db, self.scope, limit.period, limit.task, now)
                    self._check(limit, sum(used))
        values = (self.scope, day_of(now), now, now + _RESERVED_LEASE)
        return db.execute(_INSERT, (*values, self.task, self.model, self.provider_model, worst)).lastrowid or 0

    def _mark_sent(self, db: sqlite3.Connection) -> int:
        now, row = self.ledger.clock(), self.row
        if not db.execute(_SEND, (now + self.lease, row, now)).rowcount:
            row = self._set_aside(db)
            db.execute(_SEND, (now + self.lease, row, now))
        return row

    def _check(self, limit: Limit, used: int) -> None:
        left, worst = (pico(limit.amount, down=True) or 0) - used, pico(self.worst)
        if worst is not None and worst <= left:
            return
        cost = "has no known price" if worst is None else f"may cost up to {usd(dollars(worst))}"
        message = (
            f"{self.model} {cost} for task {self.task!r}, and {usd(dollars(max(left, 0)))} of {usd(limit.amount)} is "
            f"left of {limit.name}; raise that limit, lower `max_tokens`, or list a cheaper model"
        )
        if limit.hard:
            raise BudgetExceededError(message, model=self.model)
        logger().warning("budget_exceeded", limit=limit.name, error=message)
