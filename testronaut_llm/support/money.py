"""Money: arithmetic independent of the program's decimal context, bounds, and texts for messages."""

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from functools import wraps
from typing import Any, ParamSpec, TypeGuard, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MOST_USD = 1_000_000
"""Most USD of one request; sums of larger amounts would overflow the ledger."""
MOST_TOKENS = 2**40
"""Most tokens of one request, for the same reason."""

CONTEXT = Context(  # names every argument: the program may have changed `decimal.DefaultContext`
    *(28, ROUND_HALF_EVEN, -999_999, 999_999, 1, 0, []), traps=[DivisionByZero, InvalidOperation, Overflow]
)
"""The decimal context of all computations with money."""
_TWO_DIGITS = Context(prec=2, rounding=ROUND_HALF_EVEN)
_CENT = Decimal("0.01")


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function in `CONTEXT`. It must not be a generator or a coroutine."""

    @wraps(function)
    def inside(*args: P.args, **given: P.kwargs) -> R:
        with localcontext(CONTEXT):
            return function(*args, **given)

    return inside


def is_amount(value: Any) -> bool:
    """True if it is a finite number of USD, as an int or a Decimal, from 0 to `MOST_USD`."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return False
    return Decimal(value).is_finite() and 0 <= value <= MOST_USD


def is_count(value: Any) -> TypeGuard[int]:
    """True if it is a plain int from 0 to `MOST_TOKENS`."""
    return type(value) is int and 0 <= value <= MOST_TOKENS


@exact
def usd(amount: Decimal) -> str:
    """Returns `$1.25` or `$0.0012`: cents, or two digits of what is less than ten cents."""
    if amount == 0:
        return "$0"
    if abs(amount) >= _CENT * 10:
        return f"${amount.quantize(_CENT, rounding=ROUND_HALF_EVEN):,f}"
    return f"${_TWO_DIGITS.plus(amount).normalize():f}"
