"""How long an attempt waits for its turn, what it says when it gives up, and what the limiter learns from a reply."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from testronaut_llm.errors import LLMError, LLMTimeoutError, OverloadedError, RateLimitError, Verdict
from testronaut_llm.limits.rate_limiter import Ticket
from testronaut_llm.records import Attempt, Candidate, Route
from testronaut_llm.routing.retry import LONGEST_WAIT

if TYPE_CHECKING:
    from testronaut_llm.gateway.model_request import Reply


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


def leave(ticket: Ticket, attempt: Attempt, reply: Reply, *, cut_short: bool) -> None:
    """Frees the slot of an attempt, and tells the limiter what its reply says of the model."""
    error, usage = reply.error, attempt.usage if reply.usage is not None else None
    used = usage.prompt_tokens + usage.completion_tokens if usage is not None else None
    if usage is None and error is not None and (error.status or 0) >= 400:
        used = 0
    if cut_short and isinstance(error, LLMTimeoutError):  # the caller's deadline says nothing of the model
        ticket.leave(sent=reply.sent)
    else:
        ticket.leave(sent=reply.sent, tokens=used, error=error, headers=reply.headers)
