"""Decides how long an attempt waits for its rate limits, and adds waits and cooldowns to a dry run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from testronaut_llm.errors import LLMError, LLMTimeoutError, OverloadedError, RateLimitError, Verdict
from testronaut_llm.limits.rate_limiter import Ticket
from testronaut_llm.limits.rules import key_of, rules_of
from testronaut_llm.records import Attempt, Candidate, Route
from testronaut_llm.routing.estimates import NOT_READY
from testronaut_llm.routing.retry import LONGEST_WAIT

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.gateway.model_request import Reply
    from testronaut_llm.limits.rate_limiter import RateLimiter


def patience(route: Route, candidate: Candidate, ticket: Ticket, limiter: RateLimiter) -> float:
    """Returns the longest useful wait in seconds, without regard to the deadline.

    For a limit of `llm.yaml`: any time. For a pause that the provider asks for: as long as for a retry. A model in a
    cooldown is skipped if a later one can be asked sooner, and is waited for only once.
    """
    later = route.kept[route.kept.index(candidate) + 1 :]
    if ticket.in_cooldown:
        own = limiter.cooldown(key_of(candidate.row))
        sooner = any(limiter.cooldown(key_of(one.row)) < own for one in later)
        return 0.0 if sooner or ticket.is_in_vain else math.inf
    return LONGEST_WAIT * 4 if ticket.is_alone and later else math.inf


def no_turn(candidate: Candidate, ticket: Ticket, left: float) -> LLMError:
    """Returns the error if nothing was sent; the next model follows. `left`: seconds until the deadline."""
    wait = f"at least {ticket.at_least:.3g} s" if ticket.at_least > 0 else "longer"
    if ticket.in_cooldown or ticket.is_alone:
        what, fix = f"{ticket.blocked_by} takes {wait}", "list another model, or try later"
    else:
        what = f"{ticket.blocked_by} makes it wait {wait}, and the call has {max(0.0, left):.3g} s left"
        fix = "raise the limit or the call's `deadline`"
    error = (OverloadedError if ticket.in_cooldown else RateLimitError)(
        f"{candidate.alias} ({candidate.model}): not tried: {what}; {fix}",
        model=candidate.alias,
        provider=candidate.provider,
        retry_after=ticket.at_least or None,
    )
    error.verdict = Verdict.NEXT  # type: ignore[misc]
    return error


def leave(ticket: Ticket, attempt: Attempt, reply: Reply, *, cut_short: bool) -> None:
    """Frees the slot of an attempt, and passes the facts of its reply to the limiter.

    `cut_short`: the call's deadline ended it, which is not a failure of the model.
    """
    error, usage = reply.error, attempt.usage if reply.usage is not None else None
    used = usage.prompt_tokens + usage.completion_tokens if usage is not None else None
    if usage is None and error is not None and (error.status or 0) >= 400:
        used = 0
    if cut_short and isinstance(error, LLMTimeoutError):
        ticket.leave(sent=reply.sent)
    else:
        ticket.leave(sent=reply.sent, tokens=used, error=error, headers=reply.headers)


def with_limits(route: Route, config: LLMConfig, limiter: RateLimiter, max_tokens: int) -> Route:
    """Returns the route with the rate limits of this process, for an answer of so many tokens.

    A model in a cooldown is dropped if a later one can be asked sooner.
    """
    kept, dropped = [], []
    cooldowns = [limiter.cooldown(key_of(one.row)) for one in route.kept]
    for place, one in enumerate(route.kept):
        rules = rules_of(config, one.row)
        ticket = limiter.outlook(limiter.ticket(rules, key_of(one.row), (one.est_tokens or 0) + max_tokens))
        reason = one.reason
        if ticket.blocked_by:
            wait = f"{ticket.at_least:.2g} s" if 0 < ticket.at_least < math.inf else "a while"
            reason += f"; would wait {wait} for {ticket.blocked_by}"
        noted = replace(one, reason=reason, limits=tuple(str(rule) for rule in rules))
        if cooldowns[place][0] and any(later < cooldowns[place] for later in cooldowns[place + 1 :]):
            dropped.append(replace(noted, kept=False, problem=NOT_READY))
        else:
            kept.append(noted)
    return replace(route, candidates=(*kept, *dropped, *(one for one in route.candidates if not one.kept)))
