"""In which order to try the models that may be tried: one function a strategy, each with its reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.support.money import exact, usd

if TYPE_CHECKING:
    from testronaut_llm.money.pacing import Money
    from testronaut_llm.records import Candidate

SMALL_CHANGE = Decimal("0.001")
"""USD below which `balanced` does not weigh one price against another."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate in its place, and why it has it."""

    candidate: Candidate
    reason: str


Strategy = Callable[[Sequence["Candidate"], "Money | None"], list[Ranked]]


def rank(strategy: str, candidates: Sequence[Candidate], money: Money | None) -> list[Ranked]:
    """The candidates (given as listed) in the order that the strategy tries them.

    Args:
        strategy: as `llm.yaml` spells it.
        candidates: with their expected costs.
        money: what the call may cost; `balanced` keeps to its pace.
    """
    return _STRATEGIES[strategy](candidates, money)


def better_than(refused: Candidate, rest: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """What a cascade still tries when the answer of this model was refused."""
    return tuple(candidate for candidate in rest if candidate.quality > refused.quality)


def larger_than(failed: Candidate, rest: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """What is left to try when a prompt did not fit this model: known larger windows, and unknown ones."""
    if failed.context_window is None:
        return tuple(rest)
    return tuple(c for c in rest if c.context_window is None or c.context_window > failed.context_window)


def _cheapest(candidates: Sequence[Candidate], _money: Money | None) -> list[Ranked]:
    ordered = sorted(candidates, key=_by_cost(candidates))
    return [
        Ranked(c, f"{_place(position, 'cheapest', len(ordered))}: {_price(c)}") for position, c in enumerate(ordered)
    ]


def _as_listed(candidates: Sequence[Candidate], _money: Money | None) -> list[Ranked]:
    return [Ranked(c, f"number {place} of the list: {_price(c)}") for place, c in enumerate(candidates, start=1)]


def _local_first(candidates: Sequence[Candidate], _money: Money | None) -> list[Ranked]:
    by_cost = _by_cost(candidates)
    ordered = sorted(candidates, key=lambda c: (not c.local, *by_cost(c)))
    return [Ranked(c, f"{'local' if c.local else 'not local, so later'}: {_price(c)}") for c in ordered]


def _cascade(candidates: Sequence[Candidate], _money: Money | None) -> list[Ranked]:
    ranked: list[Ranked] = []
    for candidate in sorted(candidates, key=_by_cost(candidates)):
        earlier = [r.candidate.alias for r in ranked if r.candidate.quality >= candidate.quality]
        if not ranked:
            why = "asked first, as the cheapest"
        elif earlier:
            why = f"no better than {earlier[0]}, so only when that fails"
        else:
            why = f"asked when those before it fail or are refused (quality {candidate.quality})"
        ranked.append(Ranked(candidate, f"{why}: {_price(candidate)}"))
    return ranked


def _balanced(candidates: Sequence[Candidate], money: Money | None) -> list[Ranked]:
    """With a pace, the best model within it; without one, each doubling of the price has to buy a point of quality."""
    by_cost = _by_cost(candidates)
    if money is None or money.pace is None:
        ordered = sorted(candidates, key=lambda c: (-_worth(c), *by_cost(c)))
        return [
            Ranked(c, f"{_place(n, 'most quality for the money', len(ordered))}: quality {c.quality}, {_price(c)}")
            for n, c in enumerate(ordered)
        ]
    pace = max(money.pace, Decimal(0))
    share = f"{usd(pace)}, what a call may cost for {money.pace_limit} to last"
    within = [c for c in candidates if c.est_cost is not None and c.est_cost <= pace]
    beyond = [c for c in candidates if c not in within]
    ranked = [
        Ranked(c, f"quality {c.quality} within {share}: {_price(c)}")
        for c in sorted(within, key=lambda c: (-c.quality, *by_cost(c)))
    ]
    return ranked + [Ranked(c, f"more than {share}: {_price(c)}") for c in sorted(beyond, key=by_cost)]


_STRATEGIES: dict[str, Strategy] = {
    "cheapest": _cheapest,
    "as_listed": _as_listed,
    "local_first": _local_first,
    "balanced": _balanced,
    "cascade": _cascade,
}


def _by_cost(candidates: Sequence[Candidate]) -> Callable[[Candidate], tuple[bool, Decimal, int, float]]:
    """Known prices before unknown ones, cheap before dear, good before bad, and of free ones the fast before the slow.

    The last only where all free ones were measured. A stable sort keeps the listed order.
    """
    measured = all(c.est_seconds is not None for c in candidates if c.est_cost == 0)

    def key(c: Candidate) -> tuple[bool, Decimal, int, float]:
        seconds = c.est_seconds if measured and c.est_cost == 0 else None
        return c.est_cost is None, c.est_cost or Decimal(0), -c.quality, seconds or 0.0

    return key


@exact
def _worth(candidate: Candidate) -> float:
    if candidate.est_cost is None:
        return -math.inf
    return candidate.quality - math.log2(max(candidate.est_cost, SMALL_CHANGE) / SMALL_CHANGE)


def _place(position: int, what: str, of: int) -> str:
    if of == 1:
        return "the only one left"
    return what if position == 0 else f"number {position + 1} by {'price' if what == 'cheapest' else 'worth'}"


def _price(candidate: Candidate) -> str:
    if candidate.est_cost is None:
        return "no known price"
    if candidate.est_cost > 0:
        return f"about {usd(candidate.est_cost)}"
    return "free" if candidate.est_seconds is None else f"free, about {candidate.est_seconds:.2g} s"
