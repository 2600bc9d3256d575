"""Reports what was spent and saved by day, task and model, and what limits leave; and thins the history."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import reduce
from typing import Any

from testronaut_llm.config.sections import seconds
from testronaut_llm.errors import ConfigError
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.reservation import Limit
from testronaut_llm.money.units import day_of, dollars, seconds_left
from testronaut_llm.support.money import exact

DEAREST = 10
"""Number of the most expensive requests in a report."""

_NAMES = ("calls", "unpriced", "prompt_tokens", "completion_tokens", "cost", "hits", "saved_by_cache")
_MONEY = {"cost", "saved_by_cache"}
_SUMS = ", ".join(_NAMES)
_ATTEMPTS = """SELECT scope, day, task, model, count(*) AS calls, sum(amount IS NULL) AS unpriced,
    sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens, ifnull(sum(amount), 0) AS cost,
    0 AS hits, 0 AS saved_by_cache
    FROM attempts WHERE state = 2 AND {which} GROUP BY scope, day, task, model"""
_ROWS = f"""SELECT day, task, model, {", ".join(f"sum({name})" for name in _NAMES)}
    FROM (SELECT scope, day, task, model, {_SUMS} FROM daily
          UNION ALL {_ATTEMPTS.format(which="scope = ?1 AND day >= ?2")})
    WHERE scope = ?1 AND day >= ?2 GROUP BY day, task, model ORDER BY day, task, model"""  # noqa: S608 - constants
_FOLD = f"""INSERT INTO daily (scope, day, task, model, {_SUMS}) {_ATTEMPTS.format(which="day < ?1")}
    ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in _NAMES)}"""
_DEAREST = f"""SELECT at, task, model, provider_model, outcome, prompt_tokens, completion_tokens, amount FROM attempts
    WHERE state = 2 AND scope = ? AND day >= ? AND amount > 0 ORDER BY amount DESC, at DESC LIMIT {DEAREST}"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums of requests, in USD.

    `calls` are requests sent: retries, repairs and fallbacks too. `cost` is of those whose price is known, `unpriced`
    the number of the others. `hits` are answers from the cache, which saved `saved_by_cache`.
    """

    calls: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal = Decimal(0)
    hits: int = 0
    saved_by_cache: Decimal = Decimal(0)

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """What one model did for one task on one day (UTC, YYYY-MM-DD)."""

    day: str
    task: str
    model: str
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """The state of a limit, in USD. `reserved` is set aside for requests under way; `renewed_in` is in seconds."""

    name: str
    limit: Decimal
    spent: Decimal
    reserved: Decimal
    left: Decimal
    renewed_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DearCall:
    """One of the most expensive requests. `at` is ISO 8601 in UTC, `cost` USD."""

    at: str
    task: str
    model: str
    provider_model: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What was spent under one scope since a UTC day (None: ever).

    `rows` are by day, task and model; `by_day`, `by_task` and `by_model` are their sums. `limits` are the budgets as
    they stand now, whatever `since` says. `dearest` are the most expensive requests that the history still has.
    """

    scope: str
    since: str | None
    total: Totals
    by_day: dict[str, Totals]
    by_task: dict[str, Totals]
    by_model: dict[str, Totals]
    rows: tuple[SpendRow, ...]
    limits: tuple[LimitState, ...]
    dearest: tuple[DearCall, ...]


@exact
def report(
    ledger: Ledger, scope: str, *, since: str | date | None, limits: Sequence[tuple[str | None, Limit]]
) -> Spend:
    """Sums what the ledger holds under one scope since a day; `limits` come with their task.

    Raises:
        ConfigError: the ledger cannot be used.
    """
    first = first_day(since, ledger.clock())
    ledger.flush()
    values = (scope, first or "")
    rows, dearest = [], []
    if ledger.file.exists:
        rows = ledger.file.run(lambda db: [_row(*found) for found in db.execute(_ROWS, values)])
        dearest = ledger.file.run(lambda db: [_dear(*found) for found in db.execute(_DEAREST, values)])
    return Spend(
        scope=scope,
        since=first,
        total=reduce(Totals.__add__, (row.totals for row in rows), Totals()),
        by_day=_by(rows, lambda row: row.day),
        by_task=_by(rows, lambda row: row.task),
        by_model=_by(rows, lambda row: row.model),
        rows=tuple(rows),
        limits=tuple(_state(ledger, scope, task, limit) for task, limit in limits),
        dearest=tuple(dearest),
    )


def prune(ledger: Ledger, older_than: str | date) -> int:
    """Deletes the single requests before a day, or older than `90d`, keeps their sums, and returns how many it deleted.

    Raises:
        ConfigError: the ledger cannot be used.
    """
    before = first_day(older_than, ledger.clock()) or ""
    if not ledger.file.exists:
        return 0
    ledger.flush()

    def work(db: sqlite3.Connection) -> int:
        db.execute(_FOLD, (before,))
        return db.execute("DELETE FROM attempts WHERE state = 2 AND day < ?", (before,)).rowcount

    gone = ledger.file.transaction(work)
    ledger.file.run(lambda db: db.execute("VACUUM"))
    return gone


def first_day(since: str | date | None, now: float) -> str | None:
    """Returns a UTC day: of a date, or of a time that has passed, such as `7d`.

    Raises:
        ConfigError: it is neither.
    """
    if since is None:
        return None
    if isinstance(since, datetime):
        return day_of(since.timestamp())
    if isinstance(since, date):
        return since.isoformat()
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", since):
            return date.fromisoformat(since).isoformat()
        return day_of(now - seconds(since))
    except (ValueError, TypeError):
        mend = "a day such as 2026-08-01, or a time that has passed, such as 7d or 12h"
        raise ConfigError(f"since is {since!r:.40}; expected {mend}") from None


def _by(rows: Sequence[SpendRow], key: Callable[[SpendRow], str]) -> dict[str, Totals]:
    sums: dict[str, Totals] = {}
    for row in rows:
        sums[key(row)] = sums.get(key(row), Totals()) + row.totals
    return sums


def _row(day: str, task: str, model: str, *sums: int) -> SpendRow:
    named: dict[str, Any] = dict(zip(_NAMES, sums, strict=True))
    totals = Totals(**named | {name: dollars(named[name]) for name in _MONEY})
    return SpendRow(day=day, task=task, model=model, totals=totals)


def _state(ledger: Ledger, scope: str, task: str | None, limit: Limit) -> LimitState:
    spent, reserved = ledger.standing(scope, limit.period, task)
    return LimitState(
        name=limit.name,
        limit=limit.amount,
        spent=spent,
        reserved=reserved,
        left=max(limit.amount - spent - reserved, Decimal(0)),
        renewed_in=seconds_left(limit.period, ledger.clock()),
    )


def _dear(at: float, *facts: Any) -> DearCall:
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    named: dict[str, Any] = dict(zip(DearCall.__slots__, (time, *facts), strict=True))
    return DearCall(**named | {"cost": dollars(named["cost"])})
