"""How long an attempt waits in line before another model is the better choice, and what it says then."""

from __future__ import annotations

import math
from collections.abc import Callable

from testronaut_llm.errors import LLMError, OverloadedError, RateLimitError, Verdict
from testronaut_llm.limits.rate_limiter import Ticket
from testronaut_llm.records import Candidate, Route
from testronaut_llm.routing.retry import LONGEST_WAIT


def patience(route: Route, candidate: Candidate, ticket: Ticket, rest: Callable[[str], tuple[bool, float]]) -> float:
    """Seconds that it is worth to wait, whatever the deadline leaves.

    For a limit that was written: as long as it takes. For a pause that the provider asks for: as long as for a retry.
    A model that rests is passed over where a later one can be asked sooner, and its rest is waited for only once.
    """
    later = route.kept[route.kept.index(candidate) + 1 :]
    if ticket.is_resting:
        sooner = any(rest(one.alias) < rest(candidate.alias) for one in later)
        return 0.0 if sooner or ticket.is_in_vain else math.inf
    return LONGEST_WAIT * 4 if ticket.is_alone and later else math.inf


def no_turn(candidate: Candidate, ticket: Ticket, left: float) -> LLMError:
    """Why nothing was sent; the next model follows. `left`: seconds that the call has."""
    wait = f"at least {ticket.at_least:.3g} s" if ticket.at_least > 0 else "longer"
    if ticket.is_resting or ticket.is_alone:
        what, mend = f"{ticket.blocked_by} takes {wait}", "another model or a later call may do"
    else:
        what = f"{ticket.blocked_by} makes it wait {wait}, and the call has {max(0.0, left):.3g} s left"
        mend = "raise the limit or the call's `deadline`"
    error = (OverloadedError if ticket.is_resting else RateLimitError)(
        f"{candidate.alias} ({candidate.model}): nothing was sent: {what}; {mend}",
        model=candidate.alias,
        provider=candidate.provider,
        retry_after=ticket.at_least or None,
    )
    error.verdict = Verdict.NEXT  # type: ignore[misc]
    return error
