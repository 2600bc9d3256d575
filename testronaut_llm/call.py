"""Runs one call, in the order from top to bottom, on the manager's event loop.

Join an identical call, look into the cache, route; for each step of `routing/retry.py`, wait for the turn, reserve,
send, settle, judge, tell; then store and return.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.attempt import PlannedRequest, attempt_of, in_requests, judged, planned_request, request_of
from testronaut_llm.cache.lookup import Emit, Lookup, emit_stored
from testronaut_llm.cache.single_flight import FlightLocks, Flights, FlightTimeoutError
from testronaut_llm.errors import BudgetExceededError, ConfigError, LLMError, LLMTimeoutError
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply
from testronaut_llm.local.download import reported, reporter
from testronaut_llm.loop import LoopTask, wait_for
from testronaut_llm.masking import Pieces
from testronaut_llm.money.ledger_file import when_free
from testronaut_llm.providers.provider_registry import timeout_of
from testronaut_llm.records import Attempt, Call, Result, T, known_cost, total_cost
from testronaut_llm.routing.cost_optimizer import nothing_left
from testronaut_llm.routing.retry import Failure, Try, all_failed, first_try, next_try, no_turn, passed_over, patience
from testronaut_llm.support.text import CONTEXT

if TYPE_CHECKING:
    from decimal import Decimal

    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.limits.rate_limiter import Ticket
    from testronaut_llm.money.budgets import Reservation
    from testronaut_llm.services import Services


class Caller:
    """Answers the calls of one manager."""

    def __init__(self, services: Services, lookup: Lookup) -> None:
        self.services, self._lookup = services, lookup
        self._locks = FlightLocks(lookup.cache.folder / "flights.lock") if lookup.cache else None
        self._flights = Flights(self._locks)

    def missed(self, call: Call) -> LoopTask[Result]:
        """Returns the task of a call whose answer is not in the cache. Its caller reports its end."""
        return LoopTask(self.services.loop, partial(self._answer, call, None))

    def stream(self, call: Call, emit: Emit) -> LoopTask[Result]:
        """Returns the task of a stream; its pieces go to `emit`."""
        return LoopTask(self.services.loop, partial(self._watched, call, emit))

    def outcome(self, make: Callable[[], Call]) -> LoopTask[Any]:
        """Returns the task of a call of a batch, from its arguments; its result is the answer or the error."""

        async def outcome() -> Result | LLMError:
            call = None
            try:
                call = make()
                return await self._watched(call, None)
            except LLMError as error:
                if call is None:
                    self.services.telemetry.count(error)
                return error.with_traceback(None)  # the traceback would keep every call of the batch in memory

        return LoopTask(self.services.loop, outcome)

    async def _watched(self, call: Call, emit: Emit | None) -> Result:
        with self.services.telemetry.watch(call):
            return await self._answer(call, emit)

    async def _answer(self, call: Call, emit: Emit | None) -> Result:
        """Returns the result of a call: a stored one, that of an identical call in flight, or a new one."""
        flight = self._lookup.flight(call)
        join = self._flights.join(flight, lambda: call.left, leads=not call.stream) if flight else nullcontext()
        try:
            async with join:
                result = await self._looked_up(self._lookup.find, call)
                if result is None:
                    result = await (self._embedded(call) if call.texts else self._asked(call, emit, []))
                    self.services.telemetry.answered(call, result)
                    return result
        except FlightTimeoutError:
            raise LLMTimeoutError(
                f"{call.task}: an identical call did not end within the deadline of {call.deadline:g} s; "
                "raise `deadline`, or send a request of its own with cache `off`"
            ) from None
        if emit is not None:
            emit_stored(result, emit)
        return result

    async def _looked_up(self, find: Callable[[Call], T], call: Call) -> T:
        """Returns the result of `find`: run here if a lookup is quick, else off the event loop."""
        if self._lookup.is_quick(call):
            return find(call)
        off_the_loop = asyncio.to_thread if call.accept is not None else self.services.loop.on_file
        return await off_the_loop(find, call)

    async def _embedded(self, call: Call) -> Result:
        """Returns the vectors of all texts; only texts without a stored vector are sent, many in several requests."""
        stored, made = await self._looked_up(self._lookup.vectors, call), list[Attempt]()
        parts = in_requests(self._lookup.without(call, stored))
        return self._lookup.joined(call, stored, [await self._asked(part, None, made) for part in parts])

    async def _asked(self, call: Call, emit: Emit | None, made: list[Attempt]) -> Result:
        """Asks the models along the route until one gives an answer; stores it, and returns it.

        Its attempts are added to those that the call has `made`.
        """
        services, lookup, before = self.services, self._lookup, len(made)
        if call.cache == "refresh":
            await services.loop.on_file(lookup.drop, call)

        route = await services.routed(call)
        if not (candidates := route.kept):
            error = nothing_left(route)
            error.attempts = tuple(made)
            raise error

        attempts, step = _Attempts(services, call, emit, made, known_cost(made)), first_try(candidates)
        outcome = await attempts.make(step)
        while isinstance(outcome, Failure):
            step = attempts.after(step, outcome)
            outcome = await attempts.make(step)

        own, latency = tuple(made[before:]), time.monotonic() - call.started
        result: Result = replace(outcome, attempts=own, cost=total_cost(own), latency=latency)
        services.observe(call, step.candidate, result)
        if lookup.keeps(call):
            await services.loop.on_file(lookup.keep, call, step.candidate, result, services.dialect(step.candidate))
        return result

    def close(self) -> None:
        """Cancels running calls and closes what they use."""
        self.services.close()
        if self._locks is not None:
            self._locks.close()


@dataclass(slots=True)
class _Attempts:
    """The attempts of one call; those `made` are reported."""

    services: Services
    call: Call
    emit: Emit | None
    made: list[Attempt]
    booked: Decimal  # USD, of those made; the worst case where a price or a bill is unknown
    delivered: bool = False  # the caller has seen a piece of a stream
    sent: bool = False

    async def make(self, step: Try) -> Result | Failure:
        """Makes one attempt: returns the accepted result, or why there is none."""
        call, services, began, before = self.call, self.services, time.monotonic(), len(self.made)
        planned = planned_request(services, call, step)
        if step.wait:
            await asyncio.sleep(step.wait)
        try:
            with services.ticket(call, step.candidate, planned.most[1]) as ticket:
                error = await self._turn(step, ticket)
                waited = time.monotonic() - began
                if error is not None:
                    self.made.append(attempt_of(services, planned, Reply(error=error, sent=False), waited=waited)[0])
                    return Failure(error=error)
                reservation = await self._reserved(planned)
                if isinstance(reservation, LLMError):
                    return Failure(error=reservation)
                reply, source = await self._send(planned, ticket, reservation, waited)
            return await self._judged(planned, reply, source)
        finally:
            for attempt in self.made[before:]:
                services.attempted(call, attempt)

    def after(self, step: Try, failure: Failure) -> Try:
        """Returns what to try after a failed attempt. Raises the error of the call if nothing is left to try."""
        following = next_try(step, failure, self.call.settings, left=self.call.left)
        if isinstance(following, Try):
            return following
        last, made = following.last, tuple(self.made)
        stopped = following.stopped or (isinstance(last, BudgetExceededError) and not self.sent)
        error = last if stopped else all_failed(self.call.task, last, made)
        error.attempts = made
        raise error

    async def _turn(self, step: Try, ticket: Ticket) -> LLMError | None:
        """Waits for rate limits and a download; returns an error if nothing can be sent now."""
        call, one = self.call, step.candidate
        while not ticket.turn():
            left = call.left
            if ticket.at_least >= min(left, patience(step, ticket, self.services.limiter)):
                return no_turn(one, ticket, left)
            await ticket.wait(left)
        if (download := self.services.local.fetch(one.row, call.left)) is not None:
            await wait_for(download.future, call.left)
            if (failure := download.failure()) is not None:
                return failure
        if call.left > 0:
            return None
        late = f"{call.task}: the deadline of {call.deadline:g} s has passed; raise `deadline` if it needs longer"
        return LLMTimeoutError(late, model=one.alias, provider=one.provider)

    async def _reserved(self, planned: PlannedRequest) -> Reservation | LLMError:
        """Reserves the worst case; returns an error if the budget does not leave it."""
        budgets, call = self.services.budgets, self.call
        reserve = partial(budgets.reserve, call, planned.candidate, planned.worst, spent=self.booked)
        try:
            return await when_free(reserve, call.left)
        except (BudgetExceededError, ConfigError) as error:
            return passed_over(error)

    async def _send(
        self, planned: PlannedRequest, ticket: Ticket, reservation: Reservation, waited: float
    ) -> tuple[Reply, str | None]:
        """Returns the reply and the source of its price. However it ends, its cost is settled and the slot is freed."""
        began, exchange, reply = time.monotonic(), Exchange(), None
        try:
            reply = await self._reply(planned, exchange, reservation)
        finally:
            ended = reply if reply is not None else _cancelled(exchange)
            latency = time.monotonic() - began
            attempt, source = attempt_of(self.services, planned, ended, waited=waited, latency=latency)
            self.made.append(attempt)
            self.sent = self.sent or ended.sent
            reservation.settle(attempt)
            self.booked = CONTEXT.add(self.booked, reservation.booked or 0)
            _free(ticket, attempt, ended, hurried=reply is None or self.call.left <= 0)
        return reply, source

    async def _reply(self, planned: PlannedRequest, exchange: Exchange, reservation: Reservation) -> Reply:
        """Returns the reply; pieces of a stream go to the caller.

        Limits the time here, since the time-out of an HTTP client restarts with each byte.
        """
        call, row = self.call, planned.row
        pieces, reply = Pieces(call.masking, as_json=call.output is not None), None
        try:
            await when_free(reservation.sent, call.left)
            seconds = max(0.001, min(call.timeout or timeout_of(row), call.left))
            async with asyncio.timeout(seconds):
                make = partial(request_of, self.services, planned, seconds)
                may_wait = row.provider == "embedded" or row.api_key_command is not None
                request = await asyncio.to_thread(make) if may_wait else make()
                unseen = self.emit is not None or reporter.get() is None
                with nullcontext() if unseen else reported(self._waiting(row), "seconds"):
                    async for part in self.services.gateway.send(request, exchange):
                        if isinstance(part, Reply):
                            reply, piece = part, pieces.end() if part.error is None else ""
                        else:
                            piece = pieces.add(part)
                        if piece and self.emit is not None:
                            self.delivered = True
                            self.emit(piece)
        except TimeoutError:
            message = f"no complete answer within {seconds:.3g} s; raise `timeout` or `deadline` if it needs longer"
            return Reply(error=LLMTimeoutError(message), sent=exchange.left)
        except LLMError as error:
            return Reply(error=passed_over(error), sent=False)
        return reply if reply is not None else Reply(error=LLMError("the gateway ended without a reply"), sent=False)

    def _waiting(self, row: ModelConfig) -> str:
        """Returns what a person waits for: `asking qwen (ollama/qwen3:8b)`."""
        does = "loading and asking" if self.services.local.has_to_load(row) else "asking"
        return f"{does} {row.alias}" + (f" ({row.model})" if row.alias != row.model else "")

    async def _judged(self, planned: PlannedRequest, reply: Reply, source: str | None) -> Result | Failure:
        """Returns the accepted result, or why there is none. The caller's own code runs in a thread."""
        call, attempt = self.call, self.made[-1]
        judge = partial(judged, self.services, planned, reply, attempt, source, self.booked)
        callers_code = call.accept is not None or call.output is not None  # may take long, or call the manager
        outcome = await asyncio.to_thread(judge) if callers_code else judge()
        if not isinstance(outcome, Failure):
            return outcome
        self.made[-1] = replace(attempt, error=outcome.error, outcome="error" if reply.error else "rejected")
        return replace(outcome, delivered=self.delivered)


def _cancelled(exchange: Exchange) -> Reply:
    """Returns the reply of an attempt that ended from outside; its bill is unknown."""
    error = LLMTimeoutError("the call was cancelled before its answer was complete")
    return Reply(error=error, sent=exchange.left)


def _free(ticket: Ticket, attempt: Attempt, reply: Reply, *, hurried: bool) -> None:
    """Frees the slot of a request, and passes the facts of its reply to the limiter.

    `hurried`: the call's deadline or its caller ended it, which is not a failure of the model.
    """
    error, usage = reply.error, attempt.usage if reply.usage is not None else None
    used = usage.prompt_tokens + usage.completion_tokens if usage is not None else None
    if usage is None and error is not None and (error.status or 0) >= 400:
        used = 0
    if hurried and isinstance(error, LLMTimeoutError):
        ticket.leave(sent=reply.sent)
    else:
        ticket.leave(sent=reply.sent, tokens=used, error=error, headers=reply.headers)
