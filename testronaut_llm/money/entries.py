"""The statements of the ledger: enter an attempt, settle it, sum what is spent and set aside, end what was left behind.

Money is in whole picodollars here (1e-12 USD), rounded against the spender.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from testronaut_llm.errors import ConfigError
from testronaut_llm.records import Attempt, Usage
from testronaut_llm.support.money import MOST_TOKENS, MOST_USD, exact

if TYPE_CHECKING:
    import sqlite3

Period = Literal["day", "month", "total"]
PERIODS: tuple[Period, ...] = ("day", "month", "total")
Span = tuple[Period, bool]
"""A period, and whether the money of one task alone is meant."""
Standing = dict[Span, tuple[int, int]]
"""What is spent, and what is set aside."""
SPANS: tuple[Span, ...] = tuple((period, own) for period in PERIODS for own in (False, True))

RESERVED, SENT = 0, 1  # and 2, settled

_PICO = Decimal(10**12)
_MOST = MOST_USD * 10**12
_ABROAD = 253_000_000_000.0  # seconds; the last year that datetime knows, however wrong the clock is

_INSERT = """INSERT INTO attempts (state, scope, day, at, lease, task, model, provider_model, amount, estimate)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SETTLE = """UPDATE attempts SET state = 2, amount = ?, outcome = ?, error = ?, prompt_tokens = ?,
             completion_tokens = ?, cached_tokens = ?, cache_write_tokens = ?, reasoning_tokens = ?, estimated = ?,
             latency = ? WHERE id = ?"""
_DAYS, _MONTHS = "period < 'E'", "period > 'E' AND period < 'T'"


def _sums(column: str, *conditions: str) -> str:
    both = (one for condition in conditions for one in (condition, f"{condition} AND task = ?3"))
    return ", ".join(f"ifnull(sum(CASE WHEN {one} THEN {column} END), 0)" for one in both)


_SPENT = f"""SELECT {_sums("spent", _DAYS, _MONTHS, "period = 'T'")} FROM balances
             WHERE scope = ?1 AND period >= 'D' || ?2 AND ({_DAYS} OR period >= 'M' || substr(?2, 1, 7))"""  # noqa: S608 - constants
_OPEN = f"""SELECT {_sums("amount", "day >= ?2", "day >= substr(?2, 1, 7)", "true")}
            FROM attempts WHERE state < 2 AND scope = ?1 AND """  # noqa: S608 - constants
_ASIDE, _LOST = f"{_OPEN} lease >= ?4", f"{_OPEN} state = 1 AND lease < ?4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One attempt, to be entered. `worst` and `estimate` are USD, None where no price is known.

    `lease` is in seconds: nobody still waits for the answer after that.
    """

    scope: str
    task: str
    model: str
    provider_model: str
    worst: Decimal | None
    estimate: Decimal | None = None
    lease: float = 960.0


def insert(db: sqlite3.Connection, entry: Entry, state: int, now: float, lease: float) -> int:
    """Enters an attempt; returns its row's id."""
    values = (state, entry.scope, day_of(now), now, now + lease, entry.task, entry.model, entry.provider_model)
    return db.execute(_INSERT, (*values, pico(entry.worst), pico(entry.estimate))).lastrowid or 0


def settle(db: sqlite3.Connection, booked: tuple[Entry, int, Attempt], now: float) -> None:
    """Books what an attempt cost, once more if need be; one whose row was never written (0), or is gone, gets one."""
    (entry, row, attempt), usage = booked, booked[2].usage or Usage(estimated=True)
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.cache_write_tokens)
    values = (
        pico(attempt.cost if attempt.cost is not None else entry.worst),
        *(attempt.outcome, attempt.error.code if attempt.error else None),
        *(max(0, min(count, MOST_TOKENS)) for count in (*counts, usage.reasoning_tokens)),
        *(usage.estimated, attempt.latency),
    )
    if row and db.execute(_SETTLE, (*values, row)).rowcount:
        return
    db.execute("BEGIN IMMEDIATE")
    db.execute(_SETTLE, (*values, insert(db, entry, SENT, now, 0.0)))
    db.execute("COMMIT")


def standing(db: sqlite3.Connection, scope: str, task: str, now: float) -> Standing:
    """What is spent and set aside. Nothing is written: what was sent and whose lease is over counts as spent."""
    values = (scope, day_of(now), task)
    aside, lost = (db.execute(ask, (*values, now)).fetchone() for ask in (_ASIDE, _LOST))
    spent = map(sum, zip(db.execute(_SPENT, values).fetchone(), lost, strict=True))
    return dict(zip(SPANS, zip(spent, aside, strict=True), strict=True))


def reap(db: sqlite3.Connection, now: float) -> None:
    """Ends the attempts whose lease is over: what did not leave is released, what did is settled at the worst case."""
    db.execute("DELETE FROM attempts WHERE state < 2 AND state = 0 AND lease < ?", (now,))
    db.execute("UPDATE attempts SET state = 2, outcome = 'lost' WHERE state < 2 AND state = 1 AND lease < ?", (now,))


@exact
def pico(amount: Decimal | None, *, down: bool = False) -> int | None:
    """Picodollars of USD, rounded up unless told otherwise."""
    if amount is None:
        return None
    whole = int((amount * _PICO).to_integral_value(ROUND_FLOOR if down else ROUND_CEILING))
    return max(0, min(whole, _MOST))


@exact
def dollars(amount: int) -> Decimal:
    """USD of picodollars, without zeros at the end.

    Raises:
        ConfigError: the ledger holds what is no amount.
    """
    if type(amount) is not int:
        raise ConfigError(f"the ledger holds {amount!r:.40} in place of an amount; restore it, or move it away")
    found = Decimal(amount).scaleb(-12).normalize()
    return found if found.as_tuple().exponent <= 0 else found.quantize(Decimal(1))  # type: ignore[operator] # never NaN


def day_of(now: float) -> str:
    """The UTC day of a time in seconds since 1970, as YYYY-MM-DD."""
    return _day(int(now // 86_400))


def seconds_left(period: Period, now: float) -> float | None:
    """Seconds until a limit of this period is renewed, None where it never is."""
    if period == "total":
        return None
    today = _utc(now).replace(hour=0, minute=0, second=0, microsecond=0)
    next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return (today + timedelta(days=1) if period == "day" else next_month).timestamp() - now


@lru_cache(maxsize=16)
def _day(number: int) -> str:
    return _utc(number * 86_400.0).strftime("%Y-%m-%d")


def _utc(now: float) -> datetime:
    return datetime.fromtimestamp(min(max(now, 0.0), _ABROAD), UTC)
