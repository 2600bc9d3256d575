"""Runs many calls concurrently: results in order, and one failure does not stop the others; estimates them before."""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from testronaut_llm.errors import InvalidRequestError, LLMError
from testronaut_llm.options import takes
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Answer, Call, Candidate
from testronaut_llm.routing.cost_optimizer import nothing_left
from testronaut_llm.support.text import exact

if TYPE_CHECKING:
    from testronaut_llm.cache.lookup import Lookup
    from testronaut_llm.loop import LoopTask
    from testronaut_llm.services import Services

Outcome = Answer[Any] | LLMError
OnProgress = Callable[[int, int | None, Outcome], object]
"""Called after each call with how many have ended, how many there are (None if unknown), and the result."""


class Record:
    """The results so far, in the order of the prompts; `on_progress` is called for each."""

    def __init__(self, prompts: Any = (), on_progress: OnProgress | None = None) -> None:
        if on_progress is not None and not takes(on_progress, 3):
            raise InvalidRequestError(
                f"on_progress is {on_progress!r:.60}; expected a function of three arguments: done, total, result"
            )
        self.results: list[Any] = []
        self._done, self._on_progress = 0, on_progress
        self._total = len(prompts) if isinstance(prompts, Sized) else None

    def add(self, place: int, result: Outcome) -> None:
        """Stores the result of the prompt at an index."""
        self.results += [None] * (place + 1 - len(self.results))
        self.results[place] = result
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total, result)


def listed(prompts: Any) -> Iterable[Prompt]:
    """Returns the prompts. Raises InvalidRequestError: it is one prompt, or cannot be iterated."""
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        raise InvalidRequestError(f"prompts is {prompts!r:.40}; expected a list or another iterable of prompts")
    return prompts


class _Window:
    """The tasks that run, with their indexes. `ended` is called with each that ends, in any thread."""

    def __init__(self, tasks: Iterable[LoopTask[Outcome]], concurrency: Any, ended: Callable[[Any], object]) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidRequestError(f"concurrency is {concurrency!r:.40}; expected a whole number of at least 1")
        self.running: dict[LoopTask[Outcome], int] = {}
        self._tasks, self._concurrency, self._ended = enumerate(tasks), concurrency, ended

    def fill(self) -> bool:
        """Starts tasks until the window is full; False if none is left."""
        for place, task in islice(self._tasks, self._concurrency - len(self.running)):
            self.running[task] = place
            task.done.add_done_callback(lambda _, task=task: self._ended(task))  # type: ignore[misc]
            task.start()
        return bool(self.running)

    def take(self, task: LoopTask[Outcome]) -> tuple[int, Outcome]:
        """Returns the index and the result of a task that has ended."""
        return self.running.pop(task), task.result()


def run_each(
    tasks: Iterable[LoopTask[Outcome]], *, concurrency: int, finished: Callable[[int, Outcome], object]
) -> None:
    """Passes on each result with the index of its task as soon as it is there, and keeps none.

    Tasks are made, and results passed on, in the caller's thread.

    Raises:
        InvalidRequestError: `concurrency` is not a whole number above 0.
    """
    ended: queue.SimpleQueue[LoopTask[Outcome]] = queue.SimpleQueue()
    window = _Window(tasks, concurrency, ended.put)
    try:
        while window.fill():
            finished(*window.take(ended.get()))
    finally:
        for task in window.running:
            task.cancel()
        for task in window.running:
            task.end()


async def arun_each(
    tasks: Iterable[LoopTask[Outcome]], *, concurrency: int, finished: Callable[[int, Outcome], object]
) -> None:
    """Same as `run_each`, on the caller's event loop."""
    from asyncio import Queue

    from testronaut_llm.loop import to_this_loop

    ended: Queue[LoopTask[Outcome]] = Queue()
    window = _Window(tasks, concurrency, to_this_loop(ended.put_nowait))
    try:
        while window.fill():
            finished(*window.take(await ended.get()))
    finally:
        for task in window.running:
            task.cancel()
        for task in window.running:
            await task.aend()


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
