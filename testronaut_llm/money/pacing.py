"""Computes the money for one call: what the limits leave, and the share that lasts until the period ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from testronaut_llm.money.ledger_file import Period
from testronaut_llm.support.money import exact, usd

OnExceeded = Literal["stop", "local", "warn"]

CALLS_A_DAY = 50
"""Expected calls a day, unless history shows more."""


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
