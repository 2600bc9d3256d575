"""What one call may cost: what the limits leave, and what it should cost for the rest to last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from testronaut_llm.support.money import exact, usd

OnExceeded = Literal["stop", "local", "warn"]

CALLS_A_DAY = 50
"""Calls that a day is expected to bring, while history does not show more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one limit leaves, and what happens to a model that does not fit.

    `seconds_left` until it is renewed; None for a limit of a single call.
    """

    limit: str
    left: Decimal
    seconds_left: float | None = None
    on_exceeded: OnExceeded = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """What a call may cost, in USD.

    Attributes:
        left: the most that it may cost, by the tightest `limit`; `on_exceeded` is the rule of that limit.
        pace: what it should cost for the money of `pace_limit` to last; None if no limit spans several calls.
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
def money_of(allowances: Sequence[Allowance], *, calls_per_day: float = 0) -> Money | None:
    """Returns the money of one call under all its limits, `max_cost` among them; None without a limit.

    A limit that only warns never stands in for one that refuses. `calls_per_day` is how many a day has brought lately.
    """
    if not allowances:
        return None
    refusing = [allowance for allowance in allowances if allowance.on_exceeded != "warn"]
    tightest = min(refusing or allowances, key=lambda allowance: allowance.left)
    a_day = max(calls_per_day, CALLS_A_DAY)
    paces = [  # shared by this call and those to come
        (one.left / Decimal(str(1 + a_day * max(one.seconds_left, 0.0) / 86_400)), one.limit)
        for one in allowances
        if one.seconds_left is not None
    ]
    pace, pace_limit = min(paces, default=(None, ""), key=lambda pair: pair[0])
    return Money(
        left=tightest.left, limit=tightest.limit, pace=pace, pace_limit=pace_limit, on_exceeded=tightest.on_exceeded
    )
