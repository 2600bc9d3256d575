"""Runs one call, in the order from top to bottom, on the manager's event loop.

Look into the cache, join an identical call, route; for each step of `routing/retry.py`, wait for rate limits, reserve,
send, judge, settle; then store and return.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.cache.single_flight import FlightLocks, Flights, FlightTimeoutError
from testronaut_llm.errors import BudgetExceededError, ConfigError, LLMError, LLMTimeoutError
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply, Request
from testronaut_llm.judge import attempt_of, judged
from testronaut_llm.local.download import reported, reporter
from testronaut_llm.lookup import Emit, Lookup, emit_stored
from testronaut_llm.loop import Running, wait_for
from testronaut_llm.masking import Pieces
from testronaut_llm.money.ledger_file import when_free
from testronaut_llm.providers.provider_registry import timeout_of
from testronaut_llm.records import Attempt, Call, Embeddings, Result, Route, T, known_cost, total_cost
from testronaut_llm.requests import Ask, ask_of, request_of
from testronaut_llm.routing.cost_optimizer import nothing_left
from testronaut_llm.routing.retry import Outcome, Try, all_failed, attempts, passed_over
from testronaut_llm.routing.waiting import leave, no_turn, patience

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.limits.rate_limiter import Ticket
    from testronaut_llm.money.reservation import Reservation
    from testronaut_llm.services import Services


class Caller:
    """Answers the calls of one manager."""

    def __init__(self, services: Services, lookup: Lookup) -> None:
        self.services, self._lookup = services, lookup
        self._locks = FlightLocks(lookup.cache.folder / "flights.lock") if lookup.cache else None
        self._flights = Flights(self._locks)

    def start_missed(self, call: Call) -> Running[Result]:
        """Starts a call whose answer is not in the cache."""
        return self.services.loop.start(self._missed(call, None))

    def start(self, call: Call, emit: Emit) -> Running[Result]:
        """Starts a stream; its pieces go to `emit`."""
        return self.services.loop.start(self.answer(call, emit))

    def start_outcome(self, make: Callable[[], Call]) -> Running[Any]:
        """Starts a call of a batch from its arguments; its result is the answer or the error."""

        async def outcome() -> Result | LLMError:
            call = None
            try:
                call = make()
                return await self.answer(call)
            except LLMError as error:
                if call is None:
                    self.services.telemetry.count(error)
                return error.with_traceback(None)  # the traceback would keep every call of the batch in memory

        return self.services.loop.start(outcome())

    async def answer(self, call: Call, emit: Emit | None = None) -> Result:
        """Returns the stored result of a call, or asks for one; pieces of a stream go to `emit`."""
        with self.services.telemetry.watch(call):
            found = await self._looked_up(self._lookup.find, call)
            if found is None:
                return await self._missed(call, emit)
        emit_stored(found, emit)
        return found

    async def _missed(self, call: Call, emit: Emit | None) -> Result:
        """On a cache miss: returns the result of an identical call in flight, or asks the models."""
        key = self._lookup.flight(call)
        if key is None:
            return await self._ask(call, emit)
        try:
            async with self._flights.join(key, lambda: call.left, leads=not call.stream):
                result = await self._looked_up(self._lookup.find_stored, call)
                if result is None:
                    return await self._ask(call, emit)
        except FlightTimeoutError:
            raise LLMTimeoutError(
                f"{call.task}: an identical call did not end within the deadline of {call.deadline:g} s; "
                "raise `deadline`, or send a request of its own with cache `off`"
            ) from None
        emit_stored(result, emit)
        return result

    async def _looked_up(self, find: Callable[[Call], T], call: Call) -> T:
        """Returns the result of `find`: run here if a lookup is quick, else off the event loop."""
        if self._lookup.is_quick(call):
            return find(call)
        off_the_loop = asyncio.to_thread if call.accept is not None else self.services.loop.on_file
        return await off_the_loop(find, call)

    async def _ask(self, whole: Call, emit: Emit | None) -> Result:
        """Asks the models, stores their answer, and returns it."""
        services, lookup = self.services, self._lookup
        call, found = whole, {}
        if whole.texts:  # only texts without a stored vector are sent
            found = await self._looked_up(lookup.vectors, whole)
            call = lookup.without(whole, found)

        route = services.route(call) if services.is_warm(call) else await asyncio.to_thread(services.cold_route, call)
        if not route.kept:
            raise nothing_left(route)
        result = await _Attempts(services, call, route, emit).result()

        asked = next(one for one in route.kept if one.alias == result.model)
        if len(result.attempts) == 1 and asked.est_tokens is not None and not services.offline:  # no repair turns
            services.counter.observe(call.task, asked.row, asked.est_tokens, result.usage)
        if lookup.keeps(call):
            await services.loop.on_file(lookup.keep, call, result, services.dialect(asked.row))
        if isinstance(result, Embeddings):
            result = lookup.joined(whole, found, result)
        result = replace(result, latency=time.monotonic() - call.started)
        services.telemetry.answered(call, result)
        return result

    def close(self) -> None:
        """Cancels running calls and closes what they use."""
        self.services.close()
        if self._locks is not None:
            self._locks.close()


@dataclass(slots=True)
class _Attempts:
    """The attempts of one call along its route, until an answer is accepted."""

    services: Services
    call: Call
    route: Route
    emit: Emit | None
    tried: list[Attempt] = field(default_factory=list)
    delivered: bool = False  # the caller has seen a piece of a stream
    sent: bool = False

    async def result(self) -> Result:
        """Makes attempts until an answer is accepted. Raises what stops the call, else `AllModelsFailedError`."""
        steps = attempts(self.route.kept, self.call.settings)
        step = next(steps)
        while True:
            if step.wait:
                await asyncio.sleep(step.wait)
            outcome = await self._attempt(step)
            if not isinstance(outcome, Outcome):
                return replace(outcome, attempts=tuple(self.tried), cost=total_cost(self.tried))
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                last, stopped = stop.value
                break
        stopped = stopped or (isinstance(last, BudgetExceededError) and not self.sent)
        error = last if stopped else all_failed(self.call.task, last, tuple(self.tried))
        error.attempts = tuple(self.tried)
        raise error

    async def _attempt(self, step: Try) -> Result | Outcome:
        """Waits until an attempt may be sent, then sends it."""
        call, services, began = self.call, self.services, time.monotonic()
        ask = ask_of(services, call, step)
        ticket = services.ticket(call, step.candidate, ask.most[1])
        try:
            error = await self._turn(step, ticket)
            waited = step.wait + time.monotonic() - began
            if error is None and call.left > 0:
                return await self._paid(ask, ticket, waited)
        finally:
            ticket.leave()
        if error is None:
            what = f"{call.task}: the deadline of {call.deadline:g} s has passed"
            fix, one = "raise `deadline` if it needs longer", step.candidate
            late = LLMTimeoutError(f"{what}; {fix}", model=one.alias, provider=one.provider)
            return Outcome(error=late, remaining=0.0)
        self.tried.append(attempt_of(services, ask, Reply(error=error, sent=False), waited=waited))
        services.attempted(call, self.tried[-1])
        return Outcome(error=error, remaining=call.left)

    async def _turn(self, step: Try, ticket: Ticket) -> LLMError | None:
        """Waits for rate limits and a download; returns an error if the next model should be asked instead."""
        call, candidate = self.call, step.candidate
        while not ticket.turn():
            left = call.left
            if ticket.at_least >= min(left, patience(self.route, candidate, ticket, self.services.limiter)):
                return no_turn(candidate, ticket, left)
            await wait_for(ticket.woken, min(left, ticket.look_in))
        download = self.services.local.fetch(candidate.row, call.left)
        if download is None:
            return None
        await wait_for(download.future, call.left)
        return download.failure()

    async def _paid(self, ask: Ask, ticket: Ticket, waited: float) -> Result | Outcome:
        """Reserves the worst case, sends the request, and settles the cost in every case."""
        call, services = self.call, self.services
        spent = known_cost(self.tried)
        reserve = partial(services.budgets.reserve, call, ask.step.candidate, ask.worst, spent=spent)
        try:
            reservation = await when_free(reserve, call.left)
        except (BudgetExceededError, ConfigError) as error:
            return Outcome(error=passed_over(error), remaining=call.left)

        began, exchange, reply = time.monotonic(), Exchange(), None
        limit = call.timeout or timeout_of(ask.row)
        seconds = min(limit, max(0.0, call.left))
        try:
            await when_free(reservation.sent, call.left)
            reply = await self._reply(ask, exchange, seconds)
        except (BudgetExceededError, ConfigError) as error:
            reply = Reply(error=passed_over(error), sent=False)
        finally:
            cancelled = reply is None
            if reply is None:  # the bill is unknown
                left = LLMTimeoutError("the call was cancelled before its answer was complete")
                reply = Reply(error=left, sent=exchange.left)
            attempt = attempt_of(services, ask, reply, waited=waited, latency=time.monotonic() - began)
            self.tried.append(attempt)
            self.sent = self.sent or reply.sent
            reservation.settle(attempt)
            leave(ticket, attempt, reply, cut_short=seconds < limit)
            if cancelled:
                services.attempted(call, attempt)
        return await self._judged(ask, reply, attempt, reservation)

    async def _reply(self, ask: Ask, exchange: Exchange, seconds: float) -> Reply:
        """Returns the reply. Limits its time here, since the time-out of an HTTP client restarts with each byte."""
        make = partial(request_of, self.services, ask, max(0.001, seconds))
        try:
            async with asyncio.timeout(seconds):
                may_wait = ask.row.provider == "embedded" or ask.row.api_key_command is not None
                request = await asyncio.to_thread(make) if may_wait else make()
                unseen = self.emit is not None or reporter.get() is None
                with nullcontext() if unseen else reported(self._waiting(ask.row), "seconds"):
                    return await self._sent(request, exchange)
        except TimeoutError:
            message = f"no complete answer within {seconds:.3g} s; raise `timeout` or `deadline` if it needs longer"
            return Reply(error=LLMTimeoutError(message), sent=exchange.left)
        except LLMError as error:
            return Reply(error=error, sent=False)

    def _waiting(self, row: ModelConfig) -> str:
        """Returns what a person waits for: `asking qwen (ollama/qwen3:8b)`."""
        does = "loading and asking" if self.services.local.has_to_load(row) else "asking"
        return f"{does} {row.alias}" + (f" ({row.model})" if row.alias != row.model else "")

    async def _sent(self, request: Request, exchange: Exchange) -> Reply:
        """Sends a request through the gateway; pieces of a stream go to the caller."""
        reply = Reply(error=LLMError("no reply"), sent=False)
        pieces = Pieces(self.call.masking, as_json=self.call.output is not None)
        async for part in self.services.gateway.send(request, exchange):
            if isinstance(part, Reply):
                reply, piece = part, pieces.end() if part.error is None else ""
            else:
                piece = pieces.add(part)
            if piece and self.emit is not None:
                self.delivered = True
                self.emit(piece)
        return reply

    async def _judged(self, ask: Ask, reply: Reply, attempt: Attempt, reservation: Reservation) -> Result | Outcome:
        """Returns the accepted result, or the facts that decide about a retry."""
        call, services = self.call, self.services
        judge = partial(judged, services, ask, reply, attempt, known_cost(self.tried))
        callers_code = call.accept is not None or call.output is not None  # may take long, or call the manager
        try:
            outcome = await asyncio.to_thread(judge) if callers_code else judge()
            if isinstance(outcome, Outcome):
                rejected = "rejected" if reply.error is None else attempt.outcome
                self.tried[-1] = attempt = replace(attempt, error=outcome.error, outcome=rejected)
                if reply.error is None:
                    reservation.settle(attempt)
        finally:
            services.attempted(call, self.tried[-1])
        return replace(outcome, delivered=self.delivered) if isinstance(outcome, Outcome) else outcome
