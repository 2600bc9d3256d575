"""Budgets of `llm.yaml`: the money that they leave for a call, and reservations within them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import ConfigError
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.ledger_file import LedgerBusyError, Period, seconds_left
from testronaut_llm.money.pacing import Limit, Money, OnExceeded, money_of
from testronaut_llm.money.reservation import Reservation
from testronaut_llm.support.money import CONTEXT, exact

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.config.sections import BudgetConfig
    from testronaut_llm.records import Call, Candidate

_FIELDS: dict[Period, str] = {"call": "per_call", "day": "per_day", "month": "per_month", "total": "total"}
_SPARE = 60.0  # seconds after its deadline in which a call still settles by itself


def scope_of(config: LLMConfig) -> str:
    """Returns the scope of the budget; empty for configurations written in Python that name none."""
    return config.budget_scope() or ""


def all_limits(config: LLMConfig) -> tuple[Limit, ...]:
    """Returns every limit that spans calls."""
    limits = _limits(config.budget, None) + [
        one for task in config.tasks.values() for one in _limits(task.budget, task.name)
    ]
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


class Budgets:
    """The budgets of one manager."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def money(self, call: Call, *, of_many: bool = False) -> Money | None:
        """Returns the money for one call, or for `of_many` calls together; None without a limit.

        A ledger that cannot be read counts as no limit here; `reserve` then refuses requests that cost money.
        """
        limits, ledger = [one for one in _limits_of(call) if not of_many or one.period != "call"], self.ledger
        if not limits:
            return None
        found: list[tuple[Limit, Decimal, float | None]] = []
        rate, now, scope = 0.0, ledger.clock(), scope_of(call.config)
        try:
            for limit in limits:
                left = limit.amount
                if limit.period != "call":
                    rate = rate or ledger.calls_per_day(scope)
                    for used in ledger.standing(scope, limit.period, limit.task):
                        left = CONTEXT.subtract(left, used)
                found.append((limit, left, seconds_left(limit.period, now)))
        except ConfigError as error:
            if not isinstance(error, LedgerBusyError):
                ledger.warn(error)
            found = [(limit, limit.amount, None) for limit in limits if limit.period == "call"]
        return money_of(found, calls_per_day=rate)

    @exact
    def affords(self, call: Call, cost: Decimal | None, *, spent: Decimal) -> bool:
        """True if the limits of a single call leave so many USD, after `spent` by its earlier attempts."""
        limits = [limit for limit in _limits_of(call) if limit.period == "call" and limit.hard]
        return not limits or (cost is not None and all(spent + cost <= limit.amount for limit in limits))

    def reserve(self, call: Call, candidate: Candidate, worst: Decimal | None, *, spent: Decimal) -> Reservation:
        """Reserves the worst case of an attempt, as `Reservation.reserve` does.

        `worst` is USD, None if no price is known. `spent` is USD of the call's earlier attempts.
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
