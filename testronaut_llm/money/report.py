"""Reports spend and savings by day, task and model, and what is left of limits; prunes the history."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from testronaut_llm.config.sections import seconds
from testronaut_llm.errors import ConfigError
from testronaut_llm.money.budgets import Limit
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.ledger_file import day_of, dollars, patiently, seconds_left
from testronaut_llm.support.text import exact

_NAMES = ("calls", "unpriced", "prompt_tokens", "completion_tokens", "cost", "hits", "saved_by_cache")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums of requests (`calls`, attempts each; those of unknown price are `unpriced`) and of cache hits, in USD."""

    calls: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal = Decimal(0)
    hits: int = 0
    saved_by_cache: Decimal = Decimal(0)

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in _NAMES})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """Sums of one model for one task on one day (UTC, YYYY-MM-DD)."""

    day: str
    task: str
    model: str
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """The state of a limit, in USD. `reserved` is for running requests; `renewed_in` is in seconds."""

    name: str
    limit: Decimal
    spent: Decimal
    reserved: Decimal
    left: Decimal
    renewed_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Spend in one scope since a UTC day (None: ever). `limits` have their current state."""

    scope: str
    since: str | None
    total: Totals
    by_day: dict[str, Totals]
    by_task: dict[str, Totals]
    by_model: dict[str, Totals]
    rows: tuple[SpendRow, ...]
    limits: tuple[LimitState, ...]


@exact
def report(ledger: Ledger, scope: str, *, since: str | date | None, limits: Sequence[Limit]) -> Spend:
    """Returns the sums of one scope in the ledger since a day."""
    first = first_day(since, ledger.clock())
    ledger.flush()
    rows: list[SpendRow] = []
    if ledger.file.exists:
        found = patiently(lambda: ledger.file.run(lambda db: db.execute(_ROWS, (scope, first or "")).fetchall()))
        rows = [_row(*one) for one in found]
    return Spend(
        scope=scope,
        since=first,
        total=sum((row.totals for row in rows), Totals()),
        by_day=_sums((row.day, row.totals) for row in rows),
        by_task=_sums((row.task, row.totals) for row in rows),
        by_model=_sums((row.model, row.totals) for row in rows),
        rows=tuple(rows),
        limits=tuple(_state(ledger, scope, limit) for limit in limits),
    )


def prune(ledger: Ledger, older_than: str | date) -> int:
    """Deletes records of requests before a day, or older than `90d`; their sums stay. Returns how many it deleted."""
    before = first_day(older_than, ledger.clock(), "older_than") or ""
    if not ledger.file.exists:
        return 0
    ledger.flush()

    def fold(db: sqlite3.Connection) -> int:
        db.execute(_FOLD, (before,))
        return db.execute("DELETE FROM attempts WHERE state = 2 AND day < ?", (before,)).rowcount

    gone = patiently(lambda: ledger.file.run(fold))
    patiently(lambda: ledger.file.run(lambda db: db.executescript("VACUUM; BEGIN")))  # it commits first
    return gone


def first_day(since: str | date | None, now: float, name: str = "since") -> str | None:
    """Returns a UTC day: of a date, or of an age such as `7d`. Raises ConfigError, which has the argument's `name`."""
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
        expected = "a day such as 2026-08-01, or an age such as 7d or 12h"
        raise ConfigError(f"{name} is {since!r:.40}; expected {expected}") from None


def _sums(rows: Iterable[tuple[str, Totals]]) -> dict[str, Totals]:
    sums: dict[str, Totals] = {}
    for key, totals in rows:
        sums[key] = sums.get(key, Totals()) + totals
    return sums


def _row(day: str, task: str, model: str, *sums: int) -> SpendRow:
    named: dict[str, Any] = dict(zip(_NAMES, sums, strict=True))
    for name in ("cost", "saved_by_cache"):
        named[name] = dollars(named[name])
    return SpendRow(day=day, task=task, model=model, totals=Totals(**named))


def _state(ledger: Ledger, scope: str, limit: Limit) -> LimitState:
    spent, reserved = ledger.standing(scope, limit.period, limit.task)
    left = max(limit.amount - spent - reserved, Decimal(0))
    renewed = seconds_left(limit.period, ledger.clock())
    return LimitState(
        name=limit.name, limit=limit.amount, spent=spent, reserved=reserved, left=left, renewed_in=renewed
    )
