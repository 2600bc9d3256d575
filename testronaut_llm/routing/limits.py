"""What a dry run says of the rate limits: which hold for a model, how long it would wait, and whether it rests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from testronaut_llm.limits.rules import key_of, rules_of
from testronaut_llm.routing.cost_optimizer import NOT_READY

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.limits.rate_limiter import RateLimiter
    from testronaut_llm.records import Candidate, Route


def with_limits(route: Route, config: LLMConfig, limiter: RateLimiter, max_tokens: int) -> Route:
    """The route as this process would go it now, for an answer of so many tokens.

    A model that rests is dropped where a later one can be asked sooner.
    """
    noted = [_noted(one, config, limiter, max_tokens) for one in route.kept]
    rests = [limiter.rest(key_of(config.model(one.alias))) for one in noted]
    kept, resting = [], []
    for place, one in enumerate(noted):
        if any(later < rests[place] for later in rests[place + 1 :]) and rests[place][0]:
            resting.append(replace(one, kept=False, problem=NOT_READY))
        else:
            kept.append(one)
    return replace(route, candidates=(*kept, *resting, *(one for one in route.candidates if not one.kept)))


def _noted(candidate: Candidate, config: LLMConfig, limiter: RateLimiter, max_tokens: int) -> Candidate:
    model = config.model(candidate.alias)
    rules = rules_of(config, model)
    ticket = limiter.outlook(limiter.ticket(rules, key_of(model), (candidate.est_tokens or 0) + max_tokens))
    reason = candidate.reason
    if ticket.blocked_by:
        wait = f"{ticket.at_least:.2g} s" if 0 < ticket.at_least < float("inf") else "a while"
        reason += f"; would wait {wait} for {ticket.blocked_by}"
    limits = tuple(str(rule) for rule in rules)
    return replace(candidate, reason=reason, limits=limits)
