"""Reads how long a provider's rate limit headers ask to wait, before it has to say 429."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from testronaut_llm.support.text import seconds_of

_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_FORMS = ("x-ratelimit-{what}-{kind}", "anthropic-ratelimit-{kind}-{what}")


def pause_of(headers: Mapping[str, str], tokens: int, now: float) -> float:
    """Returns the seconds until the provider has room for one more such request; 0 if it has, or says nothing.

    The names of the response's headers are in lower case, `now` is seconds since 1970.
    """
    if not any("ratelimit-" in name for name in headers):
        return 0.0
    return max(_pause(headers, form, kind, tokens, now) for form in _FORMS for kind in _KINDS)


def _pause(headers: Mapping[str, str], form: str, kind: str, tokens: int, now: float) -> float:
    def value(what: str) -> str:
        return headers.get(form.format(what=what, kind=kind), "")

    left, needed = _number(value("remaining")), 1 if kind == "requests" else tokens
    if left is None or left >= needed:
        return 0.0
    reset, limit = _seconds(value("reset"), now), _number(value("limit"))
    if left > 0 and limit is not None and limit > left:
        return reset * min(1.0, (needed - left) / (limit - left))  # it fills up evenly
    return reset


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds(text: str, now: float) -> float:
    """From `6m0s`, `20ms`, plain seconds, seconds since 1970 or a date; 0 where it is none of these."""
    text = text.strip()
    if (number := _number(text)) is not None:
        return max(0.0, number - now if number > now / 2 else number)
    if (lasts := seconds_of(text)) is not None:
        return lasts
    try:
        date = datetime.fromisoformat(text.upper())
    except ValueError:
        return 0.0
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
