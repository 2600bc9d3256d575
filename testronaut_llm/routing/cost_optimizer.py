"""On a cache miss: which models fit window and money, in which order to try them, and why.

Pure: values in, a Route out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import BudgetExceededError, ContextWindowError, LLMError, NoReadyModelError
from testronaut_llm.money.pacing import Money
from testronaut_llm.records import Candidate, Route
from testronaut_llm.routing.strategies import Ranked, rank
from testronaut_llm.support.money import tokens, usd

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import Strategy, TaskConfig
    from testronaut_llm.routing.options import Option

NOT_READY, WINDOW, MONEY = "no_ready_model", "context_window", "budget_exceeded"


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """What keeps a model from being tried."""

    reason: str
    problem: str | None = None


def plan(
    task: TaskConfig,
    options: Sequence[Option],
    *,
    max_tokens: int,
    money: Money | None = None,
    schema: bool = False,
    strategy: Strategy | None = None,
) -> Route:
    """What to try, in which order, and what not, each with its reason.

    Args:
        task: whose strategy orders the candidates, unless `strategy` is given.
        options: the task's models as listed, with all that is known of them.
        max_tokens: the longest answer; 0 for embeddings.
        money: what the call may cost; None without any limit.
        schema: does the caller want an answer of a certain shape?
        strategy: overrides the task's; embeddings are `as_listed`.
    """
    fitting: list[Candidate] = []
    too_dear: dict[str, _Obstacle] = {}
    dropped: list[Candidate] = []
    for option in options:
        candidate = option.candidate(max_tokens)
        obstacle = _obstacle(option, candidate, max_tokens, schema)
        if obstacle is not None:
            dropped.append(_dropped(candidate, obstacle))
            continue
        fitting.append(candidate)
        refused = _too_dear(option, candidate, money) if money is not None else None
        if refused is not None:
            too_dear[candidate.alias] = refused
    strategy = strategy or task.strategy
    ranked = rank(strategy, fitting, money)
    if money is not None and money.on_exceeded == "warn":
        kept = _warned(ranked, too_dear)
    else:
        kept, refused_for_money = _affordable(ranked, too_dear, money)
        dropped += refused_for_money
    listed = [option.selected.model.alias for option in options]
    dropped.sort(key=lambda candidate: listed.index(candidate.alias))
    return Route(task=task.name, strategy=strategy, candidates=(*kept, *dropped))


def _obstacle(option: Option, candidate: Candidate, max_tokens: int, schema: bool) -> _Obstacle | None:
    facts = option.facts
    if option.selected.excluded is not None:
        return _Obstacle(option.selected.excluded)
    if not option.ready.ready:
        return _Obstacle(f"not ready: {option.ready.missing}; {option.ready.mend}".removesuffix("; "), NOT_READY)
    if schema and facts.supports_schema is False:
        return _Obstacle("cannot answer in a given shape (JSON Schema)")
    if facts.max_output is not None and max_tokens > facts.max_output:
        most = tokens(facts.max_output)
        return _Obstacle(f"its answers have at most {most}, and max_tokens is {max_tokens:,}", WINDOW)
    if facts.context_window is not None and option.cautious + max_tokens > facts.context_window:
        prompt = f"the prompt (about {candidate.est_tokens or 0:,}) and an answer of {max_tokens:,}"
        return _Obstacle(f"window too small: {tokens(facts.context_window)}, for {prompt}", WINDOW)
    return None


def _too_dear(option: Option, candidate: Candidate, money: Money) -> _Obstacle | None:
    """Judged by the worst case: a budget that holds only for the expected case does not hold."""
    if candidate.worst_cost is None:
        return _Obstacle(f"no known price, and a limit holds ({money.limit}): {option.price_mend}", MONEY)
    if candidate.worst_cost > max(money.left, Decimal(0)):
        return _Obstacle(f"too dear: it may cost up to {usd(candidate.worst_cost)}, and {money.words}", MONEY)
    return None


def _affordable(
    ranked: Sequence[Ranked], too_dear: dict[str, _Obstacle], money: Money | None
) -> tuple[list[Candidate], list[Candidate]]:
    """Steps down to what the money still allows; under `stop` no free model stands in for a paid one."""
    refused = [_dropped(r.candidate, too_dear[r.candidate.alias]) for r in ranked if r.candidate.alias in too_dear]
    kept: list[Candidate] = []
    for one in ranked:
        if one.candidate.alias in too_dear:
            continue
        above = [r.candidate.alias for r in ranked[: ranked.index(one)] if r.candidate.alias in too_dear]
        note = f"steps down from {', '.join(above)}, too dear now: " if above and not kept else ""
        kept.append(replace(one.candidate, reason=note + one.reason))
    preferred = ranked[0].candidate.alias if ranked else ""
    only_free = all(candidate.worst_cost == 0 for candidate in kept)
    if money is not None and money.on_exceeded == "stop" and preferred in too_dear and only_free:
        stopped = _Obstacle(f"free, but {preferred} is too dear and on_exceeded is `stop`; `local` would use it", MONEY)
        return [], [*refused, *(_dropped(candidate, stopped) for candidate in kept)]
    return kept, refused


def _warned(ranked: Sequence[Ranked], too_dear: dict[str, _Obstacle]) -> list[Candidate]:
    return [
        replace(
            one.candidate, reason=f"{one.reason}; {obstacle.reason} (on_exceeded: warn)" if obstacle else one.reason
        )
        for one in ranked
        for obstacle in (too_dear.get(one.candidate.alias),)
    ]


def _dropped(candidate: Candidate, obstacle: _Obstacle) -> Candidate:
    return replace(candidate, kept=False, reason=obstacle.reason, problem=obstacle.problem)


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
