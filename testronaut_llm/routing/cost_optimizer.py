"""Orders the models that fit, with the reason of each, as a Route. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from testronaut_llm.errors import BudgetExceededError, ContextWindowError, LLMError, NoReadyModelError
from testronaut_llm.records import Candidate, Route
from testronaut_llm.routing.estimates import MONEY, UNREACHABLE, WINDOW
from testronaut_llm.routing.strategies import rank

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import Strategy
    from testronaut_llm.money.budgets import Money


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
    ranked = rank(strategy, [one for one in weighed if one.kept], money)
    for one, why in ranked:
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
