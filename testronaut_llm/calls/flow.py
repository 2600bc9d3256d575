"""One call from its route to its answer, as a generator of what has to be done: ask, wait, hand out a piece.

It does no I/O: `calls/performers.py` drives it, from threads or on an event loop, so that both do the same.
Closing it in the middle settles what was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.calls.steps import Ask, Await, Flow, More, Pause, Piece, Result, Step
from testronaut_llm.calls.waiting import no_turn, patience
from testronaut_llm.errors import BudgetExceededError, ConfigError, LLMError, LLMTimeoutError, Verdict
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import EmbedRequest, Reply, Request
from testronaut_llm.limits.rate_limiter import Ticket
from testronaut_llm.money.ledger_file import WAIT, LedgerBusyError
from testronaut_llm.money.reservation import Reservation
from testronaut_llm.records import Attempt, Call, Candidate, Route, T, Usage
from testronaut_llm.routing.retry import End, Outcome, Policy, Try, all_failed, attempts
from testronaut_llm.support.money import exact

if TYPE_CHECKING:
    from testronaut_llm.calls.judge import Judge
    from testronaut_llm.local.on_demand import Fetch

_LOOKS = (0.001, 0.05)
"""Seconds between two tries of a ledger that another process holds: at first, and at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a flow needs to know of its candidates.

    Attributes:
        ask: by alias and step, what to send.
        limit: by alias, seconds for one attempt.
        judge: says of a reply whether it is an answer, and what it cost.
        reserve: sets the worst case of an attempt aside.
        spent: USD of each attempt so far, an unknown cost at the worst case.
        policy: how to retry and fall back.
        fetch: by alias, and with the seconds that are left: the model's download, where it has to be waited for.
        ticket: an attempt's place in line for its rate limits.
        rest: by alias, is it left alone because it failed, and for how many seconds more?
        on_attempt: is told of each attempt when it has ended.
    """

    route: Route
    ask: Callable[[Try, str], Callable[[float], Request | EmbedRequest]]
    limit: Mapping[str, float]
    judge: Judge
    reserve: Callable[[Candidate, Decimal | None], Reservation]
    spent: list[Decimal]
    policy: Policy
    fetch: Callable[[str, float], Fetch | None]
    slow: Callable[[str], bool]
    ticket: Callable[[Try], Ticket]
    rest: Callable[[str], tuple[bool, float]]
    on_attempt: Callable[[Call, Attempt], None]
    clock: Callable[[], float] = time.monotonic


@dataclass(slots=True)
class _Run:
    started: float
    tried: list[Attempt] = field(default_factory=list)
    refused_text: str = ""
    waited: float = 0.0
    sent: bool = False


def flow_of(call: Call, plan: Plan) -> Flow:
    """Asks along the route until an answer is accepted.

    Raises:
        LLMError: with the attempts made: the last error itself where it stops the call, else `AllModelsFailedError`.
    """
    run = _Run(started=plan.clock())
    steps = attempts(plan.route.kept, plan.policy)
    step = next(steps)
    while True:
        if step.wait:
            yield Pause(step.wait)
        result = yield from _attempt(call, plan, run, step)
        if not isinstance(result, Outcome):
            latency = plan.clock() - run.started
            return replace(result, attempts=tuple(run.tried), cost=total(run.tried), latency=latency)
        try:
            step = steps.send(result)
        except StopIteration as stop:
            raise _ended(call, run, stop.value) from None


@exact
def total(tried: list[Attempt]) -> Decimal | None:
    """USD of all attempts together; None where the price of one is not known."""
    known = [attempt.cost for attempt in tried if attempt.cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(tried) else None


def _attempt(call: Call, plan: Plan, run: _Run, step: Try) -> Generator[Step, Any, Result | Outcome]:
    ticket, began = plan.ticket(step), plan.clock()
    try:
        late = yield from _in_line(call, plan, run, step, ticket)
        late = late or (yield from _fetched(call, plan, run, step))
        step = replace(step, wait=step.wait + plan.clock() - began)
        return (yield from _sent(call, plan, run, step, ticket)) if late is None else late
    finally:
        ticket.leave()


def _in_line(call: Call, plan: Plan, run: _Run, step: Try, ticket: Ticket) -> Generator[Step, Any, Outcome | None]:
    """Waits for the attempt's turn; an outcome where it does not come in time, or another model is better asked."""
    began = plan.clock()
    while not ticket.turn():
        left = run.started + call.deadline - plan.clock()
        if ticket.at_least >= min(left, patience(plan.route, step.candidate, ticket, plan.rest)):
            return _not_sent(call, plan, run, step, no_turn(step.candidate, ticket, left), began)
        yield Await(ticket.woken, min(left, ticket.look_in))
    return None


def _fetched(call: Call, plan: Plan, run: _Run, step: Try) -> Generator[Step, Any, Outcome | None]:
    """Waits for a model that has to be fetched first: the attempt's time does not run, the call's deadline does."""
    began = plan.clock()
    left = run.started + call.deadline - began
    fetch = plan.fetch(step.candidate.alias, left)
    if fetch is None:
        return None
    yield Await(fetch.future, max(0.0, left))
    error = fetch.failure()
    return None if error is None else _not_sent(call, plan, run, step, error, began)


def _not_sent(call: Call, plan: Plan, run: _Run, step: Try, error: LLMError, began: float) -> Outcome:
    """Notes an attempt that waited in vain."""
    now = plan.clock()
    step = replace(step, wait=step.wait + now - began)
    run.tried.append(plan.judge.attempt(step, Reply(error=error, sent=False), latency=0.0))
    plan.on_attempt(call, run.tried[-1])
    return Outcome(error=error, remaining=run.started + call.deadline - now)


def _sent(call: Call, plan: Plan, run: _Run, step: Try, ticket: Ticket) -> Generator[Step, Any, Result | Outcome]:
    candidate = step.candidate
    until = run.started + call.deadline
    if until <= plan.clock():
        return Outcome(error=_out_of_time(call, candidate), remaining=0.0)
    step = replace(step, answered=run.refused_text)
    try:
        reserve = partial(plan.reserve, candidate, plan.judge.worst(step))
        slip = yield from _when_free(reserve, until, plan.clock)
        yield from _when_free(slip.sent, until, plan.clock)
    except (BudgetExceededError, ConfigError) as error:
        if isinstance(error, BudgetExceededError):
            error.verdict = Verdict.NEXT  # type: ignore[misc]
        return Outcome(error=error, remaining=until - plan.clock())
    began, exchange = plan.clock(), Exchange()
    limit = min(plan.limit[candidate.alias], max(0.0, until - began))
    reply, delivered = None, False
    try:
        reply = yield Ask(plan.ask(step, run.refused_text), limit, plan.slow(candidate.alias), exchange)
        while isinstance(reply, str):
            delivered = True
            yield Piece(reply)
            reply = yield More()
    finally:
        if not isinstance(reply, Reply):  # closed in the middle: nobody knows what was billed
            unread = LLMTimeoutError("the call was left before its answer was complete")
            reply = Reply(error=unread, sent=exchange.left)
            _settle(call, plan, run, slip, step, plan.judge.attempt(step, reply, latency=plan.clock() - began))
            ticket.leave(sent=reply.sent)
    usage = plan.judge.usage(step, reply) if reply.usage is not None else None
    _leave(ticket, reply, usage, cut_short=limit < plan.limit[candidate.alias])
    return _judged(call, plan, run, slip, step, reply, began=began, delivered=delivered)


def _when_free(work: Callable[[], T], until: float, clock: Callable[[], float]) -> Generator[Step, Any, T]:
    """What `work` returns. While another process holds the ledger it is tried again: nobody waits for the file."""
    wait, until = _LOOKS[0], min(until, clock() + WAIT)
    while True:
        try:
            return work()
        except LedgerBusyError:
            if (left := until - clock()) <= 0:
                raise
            yield Pause(min(wait, left))
            wait = min(2 * wait, _LOOKS[1])


def _leave(ticket: Ticket, reply: Reply, usage: Usage | None, *, cut_short: bool) -> None:
    """Before the answer is judged: `accept` may ask the same model. A time-out of the call's making says nothing."""
    error = reply.error
    used = usage.prompt_tokens + usage.completion_tokens if usage is not None else None
    if usage is None and error is not None and (error.status or 0) >= 400:
        used = 0
    if cut_short and isinstance(error, LLMTimeoutError):
        ticket.leave(sent=reply.sent)
    else:
        ticket.leave(sent=reply.sent, tokens=used, error=error, headers=reply.headers)


def _judged(
    call: Call, plan: Plan, run: _Run, slip: Reservation, step: Try, reply: Reply, *, began: float, delivered: bool
) -> Result | Outcome:
    now = plan.clock()
    try:
        judged = plan.judge.verdict(step, reply)
    except BaseException:  # a validator of the caller's may raise what is no refusal; the answer was paid all the same
        _settle(call, plan, run, slip, step, plan.judge.attempt(step, reply, latency=now - began))
        raise
    attempt = plan.judge.attempt(step, reply, latency=now - began, error=judged.error)
    _settle(call, plan, run, slip, step, attempt)
    run.sent = run.sent or reply.sent
    if judged.repair is not None:  # of later attempts that fail, none has an answer to repair
        run.refused_text = getattr(judged.error, "text", reply.text)
    if judged.result is not None:
        refusal = plan.judge.refused(judged.result, tuple(run.tried))
        if refusal is None:
            return judged.result
        run.tried[-1] = replace(attempt, outcome="rejected", error=refusal)
        slip.settle(run.tried[-1])
        judged = replace(judged, error=refusal)
    return Outcome(
        error=judged.error or LLMError("no answer"),
        remaining=run.started + call.deadline - now,
        repair=judged.repair if not delivered else None,
        delivered=delivered,
        may_double=judged.may_double,
        not_taken=judged.not_taken if not delivered else (),
    )


def _settle(call: Call, plan: Plan, run: _Run, slip: Reservation, step: Try, attempt: Attempt) -> None:
    run.tried.append(attempt)
    plan.spent.append(attempt.cost if attempt.cost is not None else plan.judge.worst(step) or Decimal(0))
    slip.settle(attempt)
    plan.on_attempt(call, attempt)


def _ended(call: Call, run: _Run, end: End) -> LLMError:
    unsent_budget = isinstance(end.last, BudgetExceededError) and not run.sent
    error = end.last if end.stopped or unsent_budget else all_failed(call.task, end.last, tuple(run.tried))
    error.attempts = tuple(run.tried)
    return error


def _out_of_time(call: Call, candidate: Candidate) -> LLMTimeoutError:
    return LLMTimeoutError(
        f"{call.task}: the deadline of {call.deadline:g} s has passed; raise `deadline` if it needs longer",
        model=candidate.alias,
        provider=candidate.provider,
    )
