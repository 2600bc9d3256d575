"""The money of one attempt: reserved before it is sent, and settled at its cost."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Literal

from testronaut_llm.errors import BudgetExceededError, ConfigError
from testronaut_llm.money.ledger import Ledger, end_leases, standing
from testronaut_llm.money.ledger_file import LedgerBusyError, Period, day_of, dollars, pico
from testronaut_llm.records import Attempt, Usage
from testronaut_llm.support.money import CONTEXT, MOST_TOKENS, usd
from testronaut_llm.telemetry.log import logger

OnExceeded = Literal["stop", "local", "warn"]

_RESERVED_LEASE = 60.0  # seconds; marking `sent` follows at once
_INSERT = """INSERT INTO attempts (state, id, scope, day, at, lease, task, model, provider_model, amount)
             VALUES (0, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SEND = "UPDATE attempts SET state = 1, lease = ? WHERE id = ? AND state = 0 AND lease >= ?"
_SETTLE = """UPDATE attempts SET state = 2, amount = ?, outcome = ?, error = ?, estimated = ?, latency = ?,
             prompt_tokens = ?, completion_tokens = ?, cached_tokens = ?, cache_write_tokens = ?, reasoning_tokens = ?
             WHERE id = ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit: `amount` in USD of one call, or of all calls (of one `task`) of a day, a month (UTC) or ever."""

    name: str
    period: Period
    amount: Decimal
    task: str | None = None
    on_exceeded: OnExceeded = "stop"

    @property
    def hard(self) -> bool:
        """True if a model that does not fit is refused."""
        return self.on_exceeded != "warn"


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
    booked: Decimal | None = None
    id: int = field(default_factory=partial(secrets.randbits, 62))  # never that of another row, even of a deleted one

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
            self.id,
        )
        now = self.ledger.clock()

        def write(db: sqlite3.Connection) -> None:
            if not db.execute(_SETTLE, values).rowcount:  # it could not be reserved, or its lease was over
                self._insert(db, now)
                db.execute(_SETTLE, values)

        change, unpriced = CONTEXT.subtract(cost, before or Decimal(0)), before is None and attempt.cost is None
        self.ledger.book(write, change, unpriced=int(unpriced))

    def _change(self, work: Callable[[sqlite3.Connection], object]) -> None:
        try:
            self.ledger.file.run(work)
        except ConfigError as error:
            if self.worst != 0 and any(limit.hard and limit.period != "call" for limit in self.limits):
                raise
            if not isinstance(error, LedgerBusyError):  # its cost is booked later
                self.ledger.warn(error)

    def _set_aside(self, db: sqlite3.Connection) -> None:
        """Inserts a row, if the limits leave its amount."""
        now = self.ledger.clock()
        end_leases(db, now)
        for limit in self.limits if self.worst != 0 else ():
            if limit.period != "call":
                self._check(limit, sum(standing(db, self.scope, limit.period, limit.task, now)))
        self._insert(db, now)

    def _insert(self, db: sqlite3.Connection, now: float) -> None:
        row = (self.id, self.scope, day_of(now), now, now + _RESERVED_LEASE, self.task, self.model, self.provider_model)
        db.execute(_INSERT, (*row, pico(self.worst)))

    def _mark_sent(self, db: sqlite3.Connection) -> None:
        now = self.ledger.clock()
        if not db.execute(_SEND, (now + self.lease, self.id, now)).rowcount:
            self._set_aside(db)
            db.execute(_SEND, (now + self.lease, self.id, now))

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
