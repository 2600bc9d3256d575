"""Amounts as whole picodollars (1e-12 USD), and the UTC days and months of limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Literal

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.money import MOST_USD, exact

Period = Literal["call", "day", "month", "total"]
"""What a limit spans."""

_PICO = Decimal(10**12)
_LAST = 253_000_000_000.0  # seconds since 1970; datetime knows no later year, however wrong the clock is


@exact
def pico(amount: Decimal | None, *, down: bool = False) -> int | None:
    """Returns picodollars of USD, rounded up unless told otherwise; None for an unknown price."""
    if amount is None:
        return None
    whole = int((amount * _PICO).to_integral_value(ROUND_FLOOR if down else ROUND_CEILING))
    return max(0, min(whole, MOST_USD * 10**12))


@exact
def dollars(amount: int) -> Decimal:
    """Returns USD of picodollars, without zeros at the end.

    Raises:
        ConfigError: the ledger holds something that is not an amount.
    """
    if type(amount) is not int:
        raise ConfigError(f"the ledger holds {amount!r:.40} in place of an amount; restore it, or move it away")
    return Decimal(amount) / _PICO


def day_of(now: float) -> str:
    """Returns the UTC day of a time in seconds since 1970, as YYYY-MM-DD."""
    return _utc(now).date().isoformat()


def seconds_left(period: Period, now: float) -> float | None:
    """Returns the seconds until a limit of a day or month is renewed; None for the others."""
    if period not in ("day", "month"):
        return None
    today = _utc(now).replace(hour=0, minute=0, second=0, microsecond=0)
    next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return (today + timedelta(days=1) if period == "day" else next_month).timestamp() - now


def _utc(now: float) -> datetime:
    return datetime.fromtimestamp(min(max(now, 0.0), _LAST), UTC)
