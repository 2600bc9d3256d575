"""Orders the models that fit, with the reason of each, as a Route. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import BudgetExceededError, ContextWindowError, LLMError, NoReadyModelError
from testronaut_llm.limits.rules import key_of, rules_of
from testronaut_llm.records import Candidate, Route
from testronaut_llm.routing.task_router import MONEY, NOT_READY, UNREACHABLE, WINDOW
from testronaut_llm.support.text import exact, usd

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, Strategy
    from testronaut_llm.limits.rate_limiter import RateLimiter
    from testronaut_llm.money.budgets import Money

SMALL_CHANGE = Decimal("0.001")
"""USD below which `balanced` treats prices as equal."""
Ranked = list[tuple[Candidate, str]]
"""Candidates in their order, each with the reason for its place."""


def plan(task: str, strategy: Strategy, weighed: Sequence[Candidate], money: Money | None = None) -> Route:
    """Returns all candidates in the order to try them, each with its reason.

    Uses cheaper models if money runs low, but with `stop` no free model instead of a paid one.

    Args:
        task: its name.
        strategy: orders the candidates.
        weighed: the candidates in listed order, with estimates; `problem` marks those that are over budget.
        money: for the call; None without a limit.
    """
    on_exceeded = money.on_exceeded if money is not None else None
    kept: list[Candidate] = []
    refused: dict[str, Candidate] = {}
    ranked = _STRATEGIES[strategy]([one for one in weighed if one.kept], money)
    for one, place in ranked:
        why = f"{place}: {_price(one)}"
        if one.problem is None:
            note = f"steps down from {', '.join(refused)}, over budget now: " if refused and not kept else ""
            kept.append(replace(one, reason=note + why))
        elif on_exceeded == "warn":
            kept.append(replace(one, problem=None, reason=f"{why}; {one.reason} (on_exceeded: warn)"))
        else:
            refused[one.alias] = replace(one, kept=False)
    first = ranked[0][0].alias if ranked else ""
    if on_exceeded == "stop" and first in refused and all(one.worst_cost == 0 for one in kept):
        reason = f"free, but {first} is over budget and on_exceeded is `stop`; `local` would use it"
        refused |= {one.alias: replace(one, kept=False, reason=reason, problem=MONEY) for one in kept}
        kept = []
    dropped = [refused.get(one.alias, one) for one in weighed if not one.kept or one.alias in refused]
    return Route(task=task, strategy=strategy, candidates=(*kept, *dropped))


def _by_cost(listed: Sequence[Candidate]) -> list[Candidate]:
    """Orders known prices before unknown ones, cheap before expensive, good before bad, fast free ones first.

    The last only if all free ones were measured. Equal ones keep the listed order.
    """
    measured = all(one.est_seconds is not None for one in listed if one.est_cost == 0)

    def key(one: Candidate) -> tuple[bool, Decimal, int, float]:
        seconds = one.est_seconds if measured and one.est_cost == 0 else None
        return one.est_cost is None, one.est_cost or Decimal(0), -one.quality, seconds or 0.0

    return sorted(listed, key=key)


def _cheapest(listed: Sequence[Candidate], _money: Money | None) -> Ranked:
    return _in_places(_by_cost(listed), "cheapest", "price")


def _as_listed(listed: Sequence[Candidate], _money: Money | None) -> Ranked:
    return [(one, f"number {place} of the list") for place, one in enumerate(listed, start=1)]


def _local_first(listed: Sequence[Candidate], _money: Money | None) -> Ranked:
    ordered = sorted(_by_cost(listed), key=lambda one: not one.local)
    return [(one, "local" if one.local else "not local, so later") for one in ordered]


def _cascade(listed: Sequence[Candidate], _money: Money | None) -> Ranked:
    ranked: Ranked = []
    for one in _by_cost(listed):
        earlier = [before.alias for before, _ in ranked if before.quality >= one.quality]
        if not ranked:
            why = "asked first, as the cheapest"
        elif earlier:
            why = f"no better than {earlier[0]}, so only when that fails"
        else:
            why = f"asked when those before it fail or are refused (quality {one.quality})"
        ranked.append((one, why))
    return ranked


def _balanced(listed: Sequence[Candidate], money: Money | None) -> Ranked:
    """Orders by quality within the pace; without one, each doubling of the price must add a point of quality."""
    by_cost = _by_cost(listed)
    if money is None or money.pace is None:
        places = _in_places(sorted(by_cost, key=_worth, reverse=True), "most quality for the money", "worth")
        return [(one, f"{why}: quality {one.quality}") for one, why in places]
    pace = max(money.pace, Decimal(0))
    share = f"{usd(pace)}, what a call may cost for {money.pace_limit} to last"
    within = [one for one in by_cost if one.est_cost is not None and one.est_cost <= pace]
    ranked = [(one, f"quality {one.quality} within {share}") for one in sorted(within, key=lambda one: -one.quality)]
    return ranked + [(one, f"more than {share}") for one in by_cost if one not in within]


_STRATEGIES: dict[Strategy, Callable[[Sequence[Candidate], Money | None], Ranked]] = {
    "cheapest": _cheapest,
    "as_listed": _as_listed,
    "local_first": _local_first,
    "balanced": _balanced,
    "cascade": _cascade,
}
"""Each orders the candidates, given in listed order with their costs; `balanced` keeps to the pace of the money."""


@exact
def _worth(candidate: Candidate) -> float:
    if candidate.est_cost is None:
        return -math.inf
    return candidate.quality - math.log2(max(candidate.est_cost, SMALL_CHANGE) / SMALL_CHANGE)


def _in_places(ordered: Sequence[Candidate], first: str, by: str) -> Ranked:
    if len(ordered) == 1:
        return [(ordered[0], "the only one left")]
    return [(one, f"number {place} by {by}" if place > 1 else first) for place, one in enumerate(ordered, start=1)]


def _price(candidate: Candidate) -> str:
    if candidate.est_cost is None:
        return "no known price"
    if candidate.est_cost > 0:
        return f"about {usd(candidate.est_cost)}"
    return "free" if candidate.est_seconds is None else f"free, about {candidate.est_seconds:.2g} s"


def with_limits(route: Route, config: LLMConfig, limiter: RateLimiter, max_tokens: int) -> Route:
    """Returns the route with the rate limits of this process, for an answer of so many tokens.

    A model in a cooldown is dropped if a later one can be asked sooner.
    """
    kept, dropped = [], []
    cooldowns = [limiter.cooldown(key_of(one.row)) for one in route.kept]
    for place, one in enumerate(route.kept):
        rules = rules_of(config, one.row)
        ticket = limiter.ticket(rules, key_of(one.row), (one.est_tokens or 0) + max_tokens)
        limiter.outlook(ticket, limiter.clock())
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


def nothing_left(route: Route) -> LLMError:
    """Returns the error of a route without candidates.

    Over budget comes first, if only that dropped a candidate; then the window; else no model was ready.
    """
    problems = {candidate.problem for candidate in route.candidates}
    listing = "".join(f"\n  {c.alias} ({c.model}): {c.reason}" for c in route.candidates) or "\n  (no candidates)"
    if MONEY in problems:
        fix = "raise the limit, lower `max_tokens`, or list a cheaper model"
        return BudgetExceededError(f"{route.task}: no model fits the money that is left ({fix}):{listing}")
    if WINDOW in problems:
        fix = "shorten the prompt, lower `max_tokens`, or list a model with a larger window"
        return ContextWindowError(f"{route.task}: the call fits no model's window ({fix}):{listing}")
    error = NoReadyModelError(f"{route.task}: no model is ready; fix one of these:{listing}")
    error.unreachable = problems == {UNREACHABLE}
    return error
