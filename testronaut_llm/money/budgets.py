"""Budgets of `llm.yaml`: what they leave for a call, and the money of its attempts, reserved and then settled."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.sections import BudgetConfig, OnExceeded
from testronaut_llm.errors import BudgetExceededError, ConfigError
from testronaut_llm.money.ledger import Ledger, end_leases, standing
from testronaut_llm.money.ledger_file import LedgerBusyError, Period, day_of, dollars, pico, seconds_left
from testronaut_llm.records import Attempt, Call, Candidate, Usage
from testronaut_llm.support.text import CONTEXT, MOST_TOKENS, exact, usd
from testronaut_llm.telemetry.log import logger

CALLS_A_DAY = 50
"""Expected calls a day, unless history shows more."""

_FIELDS: dict[Period, str] = {"call": "per_call", "day": "per_day", "month": "per_month", "total": "total"}
_RESERVED_LEASE = 60.0  # seconds; marking `sent` follows at once
_SPARE = 60.0  # seconds after its deadline in which a call still settles by itself

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """The money for a call in USD: at most `left`, by the tightest `limit`, with its rule `on_exceeded`.

    `pace` is its share, so that the money of `pace_limit` lasts for the period; None if no limit spans several calls.
    """

    left: Decimal
    limit: str
    pace: Decimal | None = None
    pace_limit: str = ""
    on_exceeded: OnExceeded = "stop"

    @property
    def words(self) -> str:
        """`$0.12 is left of per_day`."""
        return f"{usd(max(self.left, Decimal(0)))} is left of {self.limit}"


@exact
def money_of(limits: Sequence[tuple[Limit, Decimal, float | None]], *, calls_per_day: float = 0) -> Money | None:
    """Returns the money for one call; None without a limit. A limit that refuses comes before one that only warns.

    Each limit has the USD that are left, and the seconds until it is renewed.
    """
    if not limits:
        return None
    refusing = [one for one in limits if one[0].hard]
    tightest, left, _ = min(refusing or limits, key=lambda one: one[1])
    a_day = max(calls_per_day, CALLS_A_DAY)
    paces = [  # shared by this call and later ones
        (left / Decimal(str(1 + a_day * max(seconds, 0.0) / 86_400)), limit.name)
        for limit, left, seconds in limits
        if seconds is not None
    ]
    pace, pace_limit = min(paces, default=(None, ""), key=lambda pair: pair[0])
    return Money(left=left, limit=tightest.name, pace=pace, pace_limit=pace_limit, on_exceeded=tightest.on_exceeded)


def all_limits(config: LLMConfig) -> tuple[Limit, ...]:
    """Returns every limit that spans calls."""
    limits = _limits(config.budget, None)
    for task in config.tasks.values():
        limits += _limits(task.budget, task.name)
    return tuple(limit for limit in limits if limit.period != "call")


def _limits(budget: BudgetConfig | None, task: str | None) -> list[Limit]:
    if budget is None:
        return []
    name = "budget" if task is None else f"tasks.{task}.budget"
    return [
        Limit(name=f"{name}.{field}", period=period, amount=amount, task=task, on_exceeded=budget.on_exceeded)
        for period, field in _FIELDS.items()
        if (amount := getattr(budget, field)) is not None
    ]


def _limits_of(call: Call) -> tuple[Limit, ...]:
    """Returns every limit of a call: its `max_cost`, those of the file and those of its task."""
    whole, own = call.config.budget, call.settings.budget
    limits = _limits(whole, None) + _limits(own, call.settings.name) if own or whole else []
    if call.max_cost is not None:
        budget = own or whole
        rule: OnExceeded = "local" if budget and budget.on_exceeded == "local" else "stop"
        limits.insert(0, Limit(name="max_cost", period="call", amount=call.max_cost, on_exceeded=rule))
    return tuple(limits)


@dataclass(slots=True, eq=False)
class Reservation:
    """The money of one attempt: `sent` before the request leaves, `settle` when it has ended.

    `worst` is the USD to reserve (None if no price is known). It is refused if `worst` with the USD that the call has
    already `spent` exceeds one of the `limits`. No call waits for its answer longer than the `lease` (seconds).
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
    id: int = 0

    def reserve(self) -> Reservation:
        """Reserves the worst case. Never waits.

        Raises BudgetExceededError if a hard limit leaves less; ConfigError if there is a limit and the ledger cannot be
        used; LedgerBusyError if another process holds it now.
        """
        self.id = next(self.ledger.ids)
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


class Budgets:
    """The budgets of one manager."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def money(self, call: Call, *, of_many: bool = False) -> Money | None:
        """Returns the money for one call, or for `of_many` calls together; None without a limit.

        A ledger that cannot be read counts as no limit here; `reserve` then refuses requests that cost money.
        """
        limits = _limits_of(call)
        if not limits:
            return None
        scope, now = call.config.budget_scope() or "", self.ledger.clock()
        single = [(one, one.amount, None) for one in limits if one.period == "call" and not of_many]
        spanning, rate = [one for one in limits if one.period != "call"], 0.0
        shared: list[tuple[Limit, Decimal, float | None]] = []
        try:
            for limit in spanning:
                spent, reserved = self.ledger.standing(scope, limit.period, limit.task)
                left = CONTEXT.subtract(CONTEXT.subtract(limit.amount, spent), reserved)
                shared.append((limit, left, seconds_left(limit.period, now)))
            rate = self.ledger.calls_per_day(scope) if shared else 0.0
        except ConfigError as error:
            if not isinstance(error, LedgerBusyError):
                self.ledger.warn(error)
            shared = []
        return money_of([*single, *shared], calls_per_day=rate)

    @exact
    def affords(self, call: Call, cost: Decimal | None, *, spent: Decimal) -> bool:
        """True if the hard limits leave so many USD, after `spent` by the call's earlier attempts; False if unknown."""
        scope, standing = call.config.budget_scope() or "", self.ledger.standing
        limits = [one for one in _limits_of(call) if one.hard and cost != 0]
        try:
            used = [spent if one.period == "call" else sum(standing(scope, one.period, one.task)) for one in limits]
        except ConfigError:
            return False
        return all(cost is not None and gone + cost <= one.amount for gone, one in zip(used, limits, strict=True))

    def reserve(self, call: Call, candidate: Candidate, worst: Decimal | None, *, spent: Decimal) -> Reservation:
        """Reserves the worst case of an attempt, as `Reservation.reserve` does.

        `worst` is USD, None if no price is known. `spent` is USD of the call's earlier attempts.
        """
        return Reservation(
            ledger=self.ledger,
            scope=call.config.budget_scope() or "",
            task=call.task,
            model=candidate.alias,
            provider_model=candidate.model,
            worst=worst,
            lease=call.deadline + _SPARE,
            limits=_limits_of(call),
            spent=spent,
        ).reserve()
