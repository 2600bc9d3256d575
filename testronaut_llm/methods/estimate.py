"""Estimates what many prompts would cost, before any of them is sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from testronaut_llm.errors import LLMError
from testronaut_llm.methods.batch import listed
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Call, Candidate
from testronaut_llm.routing.cost_optimizer import nothing_left
from testronaut_llm.support.money import exact

if TYPE_CHECKING:
    from testronaut_llm.cache.lookup import Lookup
    from testronaut_llm.services import Services


@dataclass(slots=True, kw_only=True)
class ModelEstimate:
    """The cost with one model of the prompts that are not in the cache.

    Attributes:
        model: its alias; `route` for the sum over the models that are asked first.
        prompts: how many it can be asked: it is ready, and its window and the money are enough for each.
        first: how many of them ask it first.
        tokens: of these prompts; `answer_tokens` of their expected answers.
        cost: USD, expected; `worst_cost` if each answer is as long as it may be; None if a price is unknown.
        reason: why it cannot be asked, of the last prompt for which it cannot.
    """

    model: str
    prompts: int = 0
    first: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    cost: Decimal | None = Decimal(0)
    worst_cost: Decimal | None = Decimal(0)
    reason: str = ""

    def add(self, one: Candidate, *, first: bool) -> None:
        """Adds one prompt."""
        if not one.kept:
            self.reason = one.reason
            return
        self.prompts += 1
        self.first += first
        self.tokens += one.est_tokens or 0
        self.answer_tokens += one.est_completion_tokens or 0
        self.cost = _sum(self.cost, one.est_cost)
        self.worst_cost = _sum(self.worst_cost, one.worst_cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The cost of a batch, if the first model of each prompt answers at its first attempt.

    Attributes:
        prompts: how many there are.
        cached: how many of them the cache answers, or an equal prompt before them.
        refused: how many are no prompt, or cannot be asked of any model.
        errors: why, by code: the error that the first refused prompt of each kind would raise.
        route: the sum over the model that each prompt asks first.
        models: one entry for each model of the task that was weighed, in its order.
        left: USD that the tightest limit of many calls leaves, and `limit` its name; None without one.
        fits: True if `left` is enough for the expected cost; None if a price is unknown; False if all are refused.

    >>> found = llm.estimate("cli_analysis", ["What is ls?", "What is ls?", ""])
    >>> found.prompts, found.route.first, found.refused, [one.model for one in found.models]
    (3, 2, 1, ['fake'])
    """

    task: str
    prompts: int
    cached: int
    refused: int
    errors: Mapping[str, LLMError]
    route: ModelEstimate
    models: tuple[ModelEstimate, ...]
    left: Decimal | None
    limit: str
    fits: bool | None


@exact
def estimate_of(
    call_of: Callable[[Prompt], Call], prompts: Iterable[Prompt], lookup: Lookup, services: Services
) -> Estimate:
    """Returns the estimate of prompts, which are read once and not kept. Raises LLMError: an argument is wrong."""
    shared = call_of("?")
    errors: dict[str, LLMError] = {}
    cached = refused = 0
    with closing(sqlite3.connect("")) as db:  # in a temporary file: as many hashes as there are prompts
        sums = _Sums(shared, lookup, services, db)
        for prompt in listed(prompts):
            try:
                cached += not sums.add(call_of(prompt))
            except LLMError as error:
                refused += 1
                errors.setdefault(error.code, error.with_traceback(None))
    route, limit = sums.route, services.budgets.money(shared, of_many=True)
    enough = limit is None or (None if route.cost is None else route.cost <= limit.left)
    return Estimate(
        task=shared.task,
        prompts=cached + refused + route.first,
        cached=cached,
        refused=refused,
        errors=errors,
        route=route,
        models=tuple([one for one in sums.models.values() if one.prompts or one.reason]),
        left=limit.left if limit is not None else None,
        limit=limit.limit if limit is not None else "",
        fits=enough if cached or route.first or not refused else False,
    )


class _Sums:
    """The sums over the prompts so far."""

    def __init__(self, shared: Call, lookup: Lookup, services: Services, db: sqlite3.Connection) -> None:
        self.route = ModelEstimate(model="route")
        self.models = {one.alias: ModelEstimate(model=one.alias) for one in shared.selected}
        self._lookup, self._db = lookup, db
        self._route_of = partial(services.route, money=services.budgets.money(shared), ready={})
        db.execute("CREATE TABLE seen (hash INTEGER PRIMARY KEY)")

    def add(self, call: Call) -> bool:
        """Adds a call; False if the cache or an equal call answers it. Raises the LLMError that the call would."""
        key = (int(flight[:15], 16),) if (flight := self._lookup.flight(call)) else None
        if (key and self._db.execute("SELECT 1 FROM seen WHERE hash = ?", key).fetchone()) or self._lookup.has(call):
            return False
        if call.cache == "only":
            self._lookup.find(call)  # raises
        found = self._route_of(call)
        for one in found.candidates:
            self.models[one.alias].add(one, first=one is found.candidates[0])
        if not found.kept:
            raise nothing_left(found)
        self.route.add(found.kept[0], first=True)
        if key:
            self._db.execute("INSERT INTO seen VALUES (?)", key)
        return True


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else one + other
