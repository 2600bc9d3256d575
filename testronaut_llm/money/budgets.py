"""The budgets of `llm.yaml` in force: what they leave for a call, and a purse that asks the ledger before sending."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import BudgetExceededError, ConfigError
from testronaut_llm.money.entries import PERIODS, Entry, seconds_left
from testronaut_llm.money.ledger_file import LedgerBusyError
from testronaut_llm.money.pacing import Allowance, Money, OnExceeded, money_of
from testronaut_llm.support.money import exact, usd

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, TaskConfig
    from testronaut_llm.config.sections import BudgetConfig
    from testronaut_llm.money.ledger import Ledger, Limit
    from testronaut_llm.money.spending import Slip
    from testronaut_llm.records import Attempt, Call, Candidate

_FIELDS = dict(zip(PERIODS, ("per_day", "per_month", "total"), strict=True))
_SPARE = 60.0  # seconds after its deadline in which a call still settles by itself
_RATE_FOR = 300.0  # seconds for which a count of calls per day is good enough


def scope_of(config: LLMConfig) -> str:
    """Whose money is spent; one name for all configurations that were made in Python and name none."""
    return config.budget_scope() or ""


def limits_of(config: LLMConfig, task: TaskConfig | None = None) -> tuple[Limit, ...]:
    """The limits that span calls: of the file (without a task), or of the file and of one task."""
    file = _limits("budget", config.budget, own=False)
    return file if task is None else file + _limits(f"tasks.{task.name}.budget", task.budget, own=True)


def all_limits(config: LLMConfig) -> tuple[tuple[str, Limit], ...]:
    """Every limit that spans calls, with the task whose it is; none for those of the file."""
    own = ((task.name, _limits(f"tasks.{task.name}.budget", task.budget, own=True)) for task in config.tasks.values())
    return tuple((name, limit) for name, limits in (("", limits_of(config)), *own) for limit in limits)


def _limits(name: str, budget: BudgetConfig | None, *, own: bool) -> tuple[Limit, ...]:
    if budget is None:
        return ()
    from testronaut_llm.money.ledger import Limit

    given = {period: getattr(budget, field) for period, field in _FIELDS.items()}
    return tuple(
        Limit(
            name=f"{name}.{_FIELDS[period]}",
            period=period,
            amount=amount,
            own=own,
            hard=budget.on_exceeded != "warn",
        )
        for period, amount in given.items()
        if amount is not None
    )


class Budgets:
    """What a manager may spend."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._rates: dict[str, tuple[float, float]] = {}

    @exact
    def money(self, config: LLMConfig, task: TaskConfig, call: Call) -> Money | None:
        """What one call may cost now; None without a limit.

        A ledger that cannot be read is left to the purse, which then refuses what would have to be paid.
        """
        allowances = list(_of_one_call(config, task, call))
        limits, scope = limits_of(config, task), scope_of(config)
        if not limits:
            return money_of(allowances)
        try:
            standing = self.ledger.standing(scope, task.name)
            rate = self._calls_per_day(scope)
        except ConfigError as error:
            self.ledger.warn(error)
            return money_of(allowances)
        now = self.ledger.clock()
        allowances += [
            Allowance(
                limit=limit.name,
                left=limit.amount - sum(standing[limit.period, limit.own]),
                seconds_left=seconds_left(limit.period, now),
                on_exceeded=_rule(task.budget if limit.own else config.budget),
            )
            for limit in limits
        ]
        return money_of(allowances, calls_per_day=rate)

    def affords(self, call: Call, cost: Decimal | None, *, spent: Decimal) -> bool:
        return self._purse(call, spent).affords(cost)

    def reserve(self, call: Call, candidate: Candidate, worst: Decimal | None, *, spent: Decimal) -> Slip:
        return self._purse(call, spent).reserve(call, candidate, worst)

    def _purse(self, call: Call, spent: Decimal) -> CallPurse:
        purse = self.purse(call.config, call.settings, call)
        purse.spent = spent
        return purse

    def purse(self, config: LLMConfig, task: TaskConfig, call: Call) -> CallPurse:
        """The purse of one call."""
        return CallPurse(self.ledger, scope_of(config), limits_of(config, task), _of_one_call(config, task, call))

    def _calls_per_day(self, scope: str) -> float:
        rate, until = self._rates.get(scope, (0.0, 0.0))
        if time.monotonic() > until:
            rate = self.ledger.calls_per_day(scope)
            self._rates[scope] = (rate, time.monotonic() + _RATE_FOR)
        return rate


def _of_one_call(config: LLMConfig, task: TaskConfig, call: Call) -> tuple[Allowance, ...]:
    given: tuple[tuple[str, Decimal | None, OnExceeded], ...] = (
        ("max_cost", call.max_cost, "local" if _rule(task.budget or config.budget) == "local" else "stop"),
        ("budget.per_call", config.budget.per_call if config.budget else None, _rule(config.budget)),
        (f"tasks.{task.name}.budget.per_call", task.budget.per_call if task.budget else None, _rule(task.budget)),
    )
    return tuple(Allowance(limit=name, left=left, on_exceeded=rule) for name, left, rule in given if left is not None)


def _rule(budget: BudgetConfig | None) -> OnExceeded:
    return budget.on_exceeded if budget else "stop"


class CallPurse:
    """The purse of one call: its own limits hold for all its attempts together, the ledger's for all calls."""

    def __init__(self, ledger: Ledger, scope: str, limits: Sequence[Limit], own: Sequence[Allowance]) -> None:
        self.ledger = ledger
        self.spent = Decimal(0)
        self._scope, self._limits = scope, tuple(limits)
        self._own = tuple(allowance for allowance in own if allowance.on_exceeded != "warn")

    @exact
    def affords(self, cost: Decimal | None) -> bool:
        """May that many USD still be spent on this call, as far as its own limits say?"""
        return not self._own or (cost is not None and all(self.spent + cost <= one.left for one in self._own))

    @exact
    def reserve(self, call: Call, candidate: Candidate, worst: Decimal | None) -> Slip:
        """Sets the worst case of an attempt aside.

        Raises:
            BudgetExceededError: a limit leaves less.
            LedgerBusyError: another process holds the ledger, and a limit has to hold.
            ConfigError: the ledger cannot be used, and a limit has to hold.
        """
        for one in self._own:
            if worst is None or self.spent + worst > one.left:
                asked = "has no known price" if worst is None else f"may cost up to {usd(worst)}"
                gone = f", of which {usd(self.spent)} is spent" if self.spent else ""
                raise BudgetExceededError(
                    f"{candidate.alias} {asked} for task {call.task!r}, and {one.limit} is {usd(one.left)}{gone}; "
                    "raise that, lower `max_tokens`, or list a cheaper model",
                    model=candidate.alias,
                )
        entry = Entry(
            scope=self._scope,
            task=call.task,
            model=candidate.alias,
            provider_model=candidate.model,
            worst=worst,
            estimate=candidate.est_cost,
            lease=call.deadline + _SPARE,
        )
        slip = _Slip(self, entry, self._limits if worst != 0 else ())
        slip.reserve()
        return slip


class _Slip:
    """One attempt's money. Without a limit that refuses, a ledger that fails stops nothing."""

    def __init__(self, purse: CallPurse, entry: Entry, limits: Sequence[Limit]) -> None:
        self._purse, self._entry, self._limits = purse, entry, limits
        self._must = any(limit.hard for limit in limits)
        self._row = 0
        self._settled: Attempt | None = None

    def reserve(self) -> None:
        """Takes the money out."""
        try:
            self._row = self._purse.ledger.reserve(self._entry, self._limits, wait=0)
        except ConfigError as error:
            self._failed(error)

    def sent(self) -> None:
        """Marks it; a process that slept past the reservation's lease has to ask once more."""
        if not self._row:
            return
        try:
            if not self._purse.ledger.sent(self._row, self._entry.lease, wait=0):
                self.reserve()
                self._purse.ledger.sent(self._row, self._entry.lease, wait=0)
        except ConfigError as error:
            self._failed(error)

    @exact
    def settle(self, attempt: Attempt) -> None:
        """Books what it cost; a second time it corrects the first."""
        before, self._settled = self._settled, attempt
        change = self._cost(attempt) - (self._cost(before) if before else Decimal(0))
        self._purse.spent += change
        self._purse.ledger.count(change, unpriced=0 if before else int(attempt.cost is None))
        if self._row or before is None:
            self._purse.ledger.settle(self._entry, self._row, attempt)

    def _cost(self, attempt: Attempt) -> Decimal:
        return attempt.cost if attempt.cost is not None else self._entry.worst or Decimal(0)

    def _failed(self, error: ConfigError) -> None:
        if self._must:
            raise error
        if not isinstance(error, LedgerBusyError):  # what it costs is booked later
            self._purse.ledger.warn(error)
