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
        return self.limiter.ticket(self.rules if rules is None else rules, model, tokens)

    def turn(self, tokens: int = 1, *, model: str = "m") -> Ticket:
        ticket = self.ticket(tokens, model=model)
        assert ticket.turn(), ticket.blocked_by
        return ticket

    def asked(self, error: LLMError | None = None, *, headers: dict[str, str] | None = None, tokens: int = 1) -> None:
        """Makes one complete request with this result."""
        self.turn(tokens).leave(sent=True, tokens=tokens, error=error, headers=headers or {})


@dataclass(kw_only=True, eq=False)
class Job:
    """One call of a run: it comes at `at`, asks for some of the rules, takes `lasts` seconds and uses `uses` tokens."""

    at: float
    rules: tuple[Rule, ...]
    tokens: int
    uses: int
    lasts: float
    patience: float  # seconds after which it is cancelled, wherever it is
    granted: float = math.nan
    left: float = math.nan
    ticket: Ticket = field(init=False, repr=False)


class _Run:
    def __init__(self) -> None:
        self.still, self.waiting, self.order = Still(), list[Job](), itertools.count()
        self.events: list[tuple[float, int, str, Job]] = []

    def plan(self, seconds: float, what: str, job: Job) -> None:
        heapq.heappush(self.events, (self.still.now + seconds, next(self.order), what, job))

    def ask(self, job: Job) -> None:
        if job.ticket.turn():
            job.granted = self.still.now
            self.waiting.remove(job)
            self.plan(job.lasts, "ends", job)
        elif job.ticket.look_in < math.inf:
            self.plan(job.ticket.look_in, "looks", job)

    def happens(self, what: str, job: Job) -> None:
        if what == "comes":
            job.ticket = self.still.ticket(job.tokens, rules=job.rules)
            self.waiting.append(job)
            self.plan(job.patience, "ends", job)
        elif what == "ends" and math.isnan(job.left):
            job.left = self.still.now
            job.ticket.leave(sent=job not in self.waiting, tokens=job.uses, headers={})
            self.waiting = [one for one in self.waiting if one is not job]
        if what != "ends" and job in self.waiting:
            self.ask(job)


def play(jobs: Sequence[Job]) -> None:
    """Plays the jobs through one limiter; a waiting job asks for its turn when it is woken or due to look."""
    one = _Run()
    for job in jobs:
        one.plan(job.at, "comes", job)
    while one.events:
        one.still.now, _, what, job = heapq.heappop(one.events)
        one.happens(what, job)
        while woken := next((job for job in one.waiting if job.ticket.woken.is_set()), None):
            one.ask(woken)  # a turn may wake others
    assert not one.waiting
