"""A rate limiter on a clock that tests move, and a simulation of many calls."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from testronaut_llm.errors import LLMError
from testronaut_llm.limits.rate_limiter import RateLimiter, Ticket
from testronaut_llm.limits.rules import Rule


class Still:
    """A limiter and its clock, in seconds."""

    def __init__(self, *rules: Rule) -> None:
        self.now = 1000.0
        self.rules = rules
        self.limiter = RateLimiter(lambda: self.now)

    def ticket(self, tokens: int = 1, *, model: str = "m", rules: Sequence[Rule] | None = None) -> Ticket:
        """A ticket of a new caller."""
        return self.limiter.ticket(self.rules if rules is None else rules, model, tokens)

    def turn(self, tokens: int = 1, *, model: str = "m") -> Ticket:
        """Returns a ticket that has its turn at once."""
        ticket = self.ticket(tokens, model=model)
        assert ticket.turn(), ticket.blocked_by
        return ticket

    def asked(self, error: LLMError | None = None, *, headers: dict[str, str] | None = None, tokens: int = 1) -> None:
        """Makes one complete request with this result."""
        self.turn(tokens).leave(sent=True, tokens=tokens, error=error, headers=headers or {})


@dataclass(kw_only=True, eq=False)
class Job:
    """One call of a run: it comes at `at`, asks for some of the rules, takes `lasts` seconds and uses `uses` tokens.

    `patience`: seconds after which it is cancelled, wherever it is.
    """

    at: float
    rules: tuple[Rule, ...]
    tokens: int
    uses: int
    lasts: float
    patience: float
    granted: float = math.nan
    left: float = math.nan
    ticket: Ticket = field(init=False, repr=False)


class _Run:
    """The events of a run, in their order."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.still, self.waiting, self._order = Still(), list[Job](), itertools.count()
        self._events: list[tuple[float, int, str, Job]] = []
        for job in jobs:
            self._plan(job.at, "comes", job)

    def _plan(self, seconds: float, what: str, job: Job) -> None:
        heapq.heappush(self._events, (self.still.now + seconds, next(self._order), what, job))

    def play(self) -> None:
        while self._events:
            self.still.now, _, what, job = heapq.heappop(self._events)
            if what == "comes":
                job.ticket = self.still.ticket(job.tokens, rules=job.rules)
                self.waiting.append(job)
                self._plan(job.patience, "ends", job)
            elif what == "ends" and math.isnan(job.left):
                self._end(job)
            if what != "ends" and job in self.waiting:
                self._ask(job)
            while woken := next((one for one in self.waiting if one.ticket.woken.is_set()), None):
                self._ask(woken)  # a turn may wake others

    def _end(self, job: Job) -> None:
        sent, job.left = not math.isnan(job.granted), self.still.now
        job.ticket.leave(sent=sent, tokens=job.uses, headers={})
        if not sent:
            self.waiting.remove(job)

    def _ask(self, job: Job) -> None:
        if job.ticket.turn():
            job.granted = self.still.now
            self.waiting.remove(job)
            self._plan(job.lasts, "ends", job)
        elif job.ticket.look_in < math.inf:
            self._plan(job.ticket.look_in, "looks", job)


def run(jobs: Sequence[Job]) -> None:
    """Plays the jobs through one limiter; a waiting job asks for its turn when it is woken or due to look."""
    one = _Run(jobs)
    one.play()
    assert not one.waiting
