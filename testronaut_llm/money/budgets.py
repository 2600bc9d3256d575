"""The budgets of `llm.yaml`: what they leave for a call, and reservations that keep to them."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import ConfigError
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.ledger_file import LedgerBusyError
from testronaut_llm.money.pacing import Allowance, Money, OnExceeded, money_of
from testronaut_llm.money.reservation import Limit, Reservation
from testronaut_llm.money.units import Period, seconds_left
from testronaut_llm.support.money import exact

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.config.sections import BudgetConfig
    from testronaut_llm.records import Call, Candidate

_FIELDS: dict[Period, str] = {"call": "per_call", "day": "per_day", "month": "per_month", "total": "total"}
_SPARE = 60.0  # seconds after its deadline in which a call still settles by itself
_RATE_FOR = 300.0  # seconds for which a count of calls per day is good enough


def scope_of(config: LLMConfig) -> str:
    """Returns whose money is spent; empty for all configurations that were made in Python and name no scope."""
    return config.budget_scope() or ""


def all_limits(config: LLMConfig) -> tuple[tuple[str | None, Limit], ...]:
    """Returns every limit that spans calls, each with its task; None for those of the file."""
    tasks = ((task.name, task.budget) for task in config.tasks.values())
    return tuple(
        (task, limit)
        for task, budget in ((None, config.budget), *tasks)
        for limit in _limits(budget, task)
        if limit.period != "call"
    )


def _limits(budget: BudgetConfig | None, task: str | None) -> tuple[Limit, ...]:
    if budget is None:
        return ()
    name = "budget" if task is None else f"tasks.{task}.budget"
    given = ((period, field, getattr(budget, field)) for period, field in _FIELDS.items())
    return tuple(
        Limit(
            name=f"{name}.{field}", period=period, amount=amount, own=task is not None, on_exceeded=budget.on_exceeded
        )
        for period, field, amount in given
        if amount is not None
    )


def _limits_of(call: Call) -> tuple[Limit, ...]:
    """Returns every limit that holds for a call: its `max_cost`, those of the file and those of its task."""
    config, task = call.config, call.settings
    limits = (*_limits(config.budget, None), *_limits(task.budget, task.name))
    if call.max_cost is None:
        return limits
    budget = task.budget or config.budget
    rule: OnExceeded = "local" if budget and budget.on_exceeded == "local" else "stop"
    return (Limit(name="max_cost", period="call", amount=call.max_cost, on_exceeded=rule), *limits)


class Budgets:
    """What a manager may spend."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._rates: dict[str, tuple[float, float]] = {}

    @exact
    def money(self, call: Call) -> Money | None:
        """Returns what one call may cost now; None without a limit.

        A ledger that cannot be read counts as no limit here. `reserve` then refuses whatever costs money.
        """
        limits, scope = _limits_of(call), scope_of(call.config)
        allowances = [self._allowance(scope, call.task, limit) for limit in limits if limit.period == "call"]
        try:
            spanning = [self._allowance(scope, call.task, limit) for limit in limits if limit.period != "call"]
            rate = self._calls_per_day(scope) if spanning else 0.0
        except ConfigError as error:
            if not isinstance(error, LedgerBusyError):
                self.ledger.warn(error)
            return money_of(allowances)
        return money_of(allowances + spanning, calls_per_day=rate)

    @exact
    def affords(self, call: Call, cost: Decimal | None, *, spent: Decimal) -> bool:
        """True if the limits of a single call leave that many USD, after `spent` by its earlier attempts."""
        limits = [limit for limit in _limits_of(call) if limit.period == "call" and limit.hard]
        return not limits or (cost is not None and all(spent + cost <= limit.amount for limit in limits))

    def reserve(self, call: Call, candidate: Candidate, worst: Decimal | None, *, spent: Decimal) -> Reservation:
        """Sets the worst case of an attempt aside. Never waits.

        `worst` is USD, None if no price is known. `spent` is what the call's earlier attempts cost.

        Raises:
            BudgetExceededError: a limit leaves less.
            LedgerBusyError: another process holds the ledger, and a limit has to hold. Try again later.
            ConfigError: the ledger cannot be used, and a limit has to hold.
        """
        return Reservation(
            ledger=self.ledger,
            scope=scope_of(call.config),
            task=call.task,
            model=candidate.alias,
            provider_model=candidate.model,
            worst=worst,
            lease=call.deadline + _SPARE,
            limits=_limits_of(call),
            spent=spent,
        ).reserve()

    def _allowance(self, scope: str, task: str, limit: Limit) -> Allowance:
        left = limit.amount
        if limit.period != "call":
            left -= sum(self.ledger.standing(scope, limit.period, task if limit.own else None))
        until = seconds_left(limit.period, self.ledger.clock())
        return Allowance(limit=limit.name, left=left, seconds_left=until, on_exceeded=limit.on_exceeded)

    def _calls_per_day(self, scope: str) -> float:
        rate, until = self._rates.get(scope, (0.0, 0.0))
        if time.monotonic() > until:
            rate = self.ledger.calls_per_day(scope)
            self._rates[scope] = (rate, time.monotonic() + _RATE_FOR)
        return rate
