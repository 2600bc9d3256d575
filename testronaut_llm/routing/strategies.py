"""Strategies: functions that order the candidates and give the reason for each place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.support.money import exact, usd

if TYPE_CHECKING:
    from testronaut_llm.money.budgets import Money
    from testronaut_llm.records import Candidate

SMALL_CHANGE = Decimal("0.001")
"""USD below which `balanced` treats prices as equal."""
Ranked = list[tuple["Candidate", str]]
"""Candidates in their order, each with the reason for its place."""
_Key = Callable[["Candidate"], tuple[bool, Decimal, int, float]]


def rank(strategy: str, candidates: Sequence[Candidate], money: Money | None) -> Ranked:
    """Returns the candidates (given in listed order, with costs) in the order of the strategy.

    `money` is for the call; `balanced` keeps to its pace.
    """
    ranked = _STRATEGIES[strategy](candidates, _by_cost(candidates), money)
    return [(one, f"{why}: {_price(one)}") for one, why in ranked]


def larger_than(failed: Candidate, rest: Sequence[Candidate]) -> list[Candidate]:
    """Returns the candidates left after a prompt did not fit this model: those with larger or unknown windows."""
    window = failed.context_window
    return [c for c in rest if window is None or c.context_window is None or c.context_window > window]


def _cheapest(candidates: Sequence[Candidate], by_cost: _Key, _money: Money | None) -> Ranked:
    return _in_places(sorted(candidates, key=by_cost), "cheapest", "price")


def _as_listed(candidates: Sequence[Candidate], _by_cost: _Key, _money: Money | None) -> Ranked:
    return [(one, f"number {place} of the list") for place, one in enumerate(candidates, start=1)]


def _local_first(candidates: Sequence[Candidate], by_cost: _Key, _money: Money | None) -> Ranked:
    ordered = sorted(candidates, key=lambda one: (not one.local, *by_cost(one)))
    return [(one, "local" if one.local else "not local, so later") for one in ordered]


def _cascade(candidates: Sequence[Candidate], by_cost: _Key, _money: Money | None) -> Ranked:
    ranked: Ranked = []
    for one in sorted(candidates, key=by_cost):
        earlier = [before.alias for before, _ in ranked if before.quality >= one.quality]
        if not ranked:
            why = "asked first, as the cheapest"
        elif earlier:
            why = f"no better than {earlier[0]}, so only when that fails"
        else:
            why = f"asked when those before it fail or are refused (quality {one.quality})"
        ranked.append((one, why))
    return ranked


def _balanced(candidates: Sequence[Candidate], by_cost: _Key, money: Money | None) -> Ranked:
    """Orders by quality within the pace; without one, each doubling of the price must add a point of quality."""
    if money is None or money.pace is None:
        ordered = sorted(candidates, key=lambda one: (-_worth(one), *by_cost(one)))
        places = _in_places(ordered, "most quality for the money", "worth")
        return [(one, f"{why}: quality {one.quality}") for one, why in places]
    pace = max(money.pace, Decimal(0))
    share = f"{usd(pace)}, what a call may cost for {money.pace_limit} to last"
    within = [one for one in candidates if one.est_cost is not None and one.est_cost <= pace]
    beyond = [one for one in candidates if one not in within]
    within.sort(key=lambda one: (-one.quality, *by_cost(one)))
    return [(one, f"quality {one.quality} within {share}") for one in within] + [
        (one, f"more than {share}") for one in sorted(beyond, key=by_cost)
    ]


_STRATEGIES: dict[str, Callable[[Sequence[Candidate], _Key, Money | None], Ranked]] = {
    "cheapest": _cheapest,
    "as_listed": _as_listed,
    "local_first": _local_first,
    "balanced": _balanced,
    "cascade": _cascade,
}


def _by_cost(candidates: Sequence[Candidate]) -> _Key:
    """Orders known prices before unknown ones, cheap before expensive, good before bad, fast free ones first.

    The last only if all free ones were measured. A stable sort keeps the listed order.
    """
    measured = all(one.est_seconds is not None for one in candidates if one.est_cost == 0)

    def key(one: Candidate) -> tuple[bool, Decimal, int, float]:
        seconds = one.est_seconds if measured and one.est_cost == 0 else None
        return one.est_cost is None, one.est_cost or Decimal(0), -one.quality, seconds or 0.0

    return key


@exact
def _worth(candidate: Candidate) -> float:
    if candidate.est_cost is None:
        return -math.inf
    return candidate.quality - math.log2(max(candidate.est_cost, SMALL_CHANGE) / SMALL_CHANGE)


def _in_places(ordered: Sequence[Candidate], first: str, by: str) -> Ranked:
    only = len(ordered) == 1
    return [
        (one, "the only one left" if only else first if place == 1 else f"number {place} by {by}")
        for place, one in enumerate(ordered, start=1)
    ]


def _price(candidate: Candidate) -> str:
    if candidate.est_cost is None:
        return "no known price"
    if candidate.est_cost > 0:
        return f"about {usd(candidate.est_cost)}"
    return "free" if candidate.est_seconds is None else f"free, about {candidate.est_seconds:.2g} s"
