"""Budgets of `llm.yaml`: the money that they leave for a call, and reservations within them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import ConfigError
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.ledger_file import LedgerBusyError, Period, seconds_left
from testronaut_llm.money.reservation import Limit, OnExceeded, Reservation
from testronaut_llm.support.money import CONTEXT, exact, usd

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.config.sections import BudgetConfig
    from testronaut_llm.records import Call, Candidate

CALLS_A_DAY = 50
"""Expected calls a day, unless history shows more."""

_FIELDS: dict[Period, str] = {"call": "per_call", "day": "per_day", "month": "per_month", "total": "total"}
_SPARE = 60.0  # seconds after its deadline in which a call still settles by itself


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


def scope_of(config: LLMConfig) -> str:
    """Returns the scope of the budget; empty for configurations written in Python that name none."""
    return config.budget_scope() or ""


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
        scope, now = scope_of(call.config), self.ledger.clock()
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
