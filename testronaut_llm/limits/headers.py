"""Reads from rate limit headers how long to wait, before the provider answers 429."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from datetime import UTC, datetime

from testronaut_llm.support.text import seconds_of

_FORMS = ("x-ratelimit-{what}-{kind}", "anthropic-ratelimit-{kind}-{what}")
_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")


def pause_of(headers: Mapping[str, str], tokens: int, now: float) -> float:
    """Returns the seconds until the provider has room for one more such request; 0 if it has, or if unknown.

    The names of the headers are in lower case, `now` is seconds since 1970.
    """
    longest = 0.0
    if not any("ratelimit-" in name for name in headers):
        return longest
    for form, kind in itertools.product(_FORMS, _KINDS):
        names = (form.format(what=what, kind=kind) for what in ("remaining", "limit", "reset"))
        left, most, reset = (headers.get(name, "").strip() for name in names)
        has, limit, needed = _number(left), _number(most), 1 if kind == "requests" else tokens
        if has is not None and has < needed:
            pause = _seconds(reset, now)
            if limit is not None and limit > has > 0:  # it fills up evenly
                pause *= min(1.0, (needed - has) / (limit - has))
            longest = max(longest, pause)
    return longest


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds(text: str, now: float) -> float:
    """Returns the seconds of `6m0s`, `20ms`, plain seconds, seconds since 1970 or a date; 0 if it is none of these."""
    if (number := _number(text)) is not None:
        return max(0.0, number - now if number > now / 2 else number)
    if (seconds := seconds_of(text)) is not None:
        return seconds
    try:
        date = datetime.fromisoformat(text.upper())
    except ValueError:
        return 0.0
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
