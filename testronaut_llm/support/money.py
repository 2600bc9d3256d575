"""Arithmetic with money in a context of its own, and the bounds of an amount and of a count of tokens.

The host program's decimal context (precision, rounding, traps) therefore changes no price, budget or report.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from functools import wraps
from typing import Any, ParamSpec, TypeGuard, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MOST_USD = 1_000_000
"""USD that one request costs at most; sums of larger amounts would overflow the ledger."""
MOST_TOKENS = 2**40
"""Tokens that one request has at most, for the same reason."""

_CONTEXT = Context(
    prec=28,
    rounding=ROUND_HALF_EVEN,
    Emin=-999_999,
    Emax=999_999,
    capitals=1,
    clamp=0,
    flags=[],
    traps=[DivisionByZero, InvalidOperation, Overflow],
)


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run in the context of this module. It must not be a generator or a coroutine."""

    @wraps(function)
    def inside(*args: P.args, **given: P.kwargs) -> R:
        with localcontext(_CONTEXT):
            return function(*args, **given)

    return inside


def is_amount(value: Any) -> bool:
    """True if it is a finite number of USD, as an int or a Decimal, that is not negative and not absurdly large."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return False
    return Decimal(value).is_finite() and 0 <= value <= MOST_USD


def is_count(value: Any) -> TypeGuard[int]:
    """True if it is a plain int, not negative, and no more tokens than a request can have."""
    return type(value) is int and 0 <= value <= MOST_TOKENS
