"""Nothing left to send to: which error says best why, and what would mend it."""

from __future__ import annotations

from testronaut_llm.cost_optimizer import MONEY, WINDOW
from testronaut_llm.errors import BudgetExceededError, ContextWindowError, LLMError, NoReadyModelError
from testronaut_llm.records import Route


def nothing_left(route: Route) -> LLMError:
    """The error of a route that keeps no candidate.

    Money comes first, where it alone stopped a candidate; then a window; else no model was ready.
    """
    problems = {candidate.problem for candidate in route.candidates}
    listing = "".join(f"\n  {c.alias} ({c.model}): {c.reason}" for c in route.candidates) or "\n  (no candidates)"
    if MONEY in problems:
        mend = "raise the limit, lower `max_tokens`, or list a cheaper model"
        return BudgetExceededError(f"{route.task}: no model fits the money that is left ({mend}):{listing}")
    if WINDOW in problems:
        mend = "shorten the prompt, lower `max_tokens`, or list a model with a larger window"
        return ContextWindowError(f"{route.task}: the call fits no model's window ({mend}):{listing}")
    return NoReadyModelError(f"{route.task}: no model is ready; mend one of these:{listing}")
