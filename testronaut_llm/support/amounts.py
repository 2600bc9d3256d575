"""Money and tokens as words for people."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

from testronaut_llm.support.money import exact

_TWO_DIGITS = Context(prec=2, rounding=ROUND_HALF_EVEN)
_CENT = Decimal("0.01")


@exact
def usd(amount: Decimal) -> str:
    """`$1.25`, `$0.0012`: cents, or two digits of what is less than ten cents."""
    if amount == 0:
        return "$0"
    if abs(amount) >= _CENT * 10:
        return f"${amount.quantize(_CENT, rounding=ROUND_HALF_EVEN):,f}"
    return f"${_TWO_DIGITS.plus(amount).normalize():f}"


def tokens(count: int) -> str:
    """`12,345 tokens`."""
    return f"{count:,} token" + ("" if count == 1 else "s")
