"""The order of one call, from top to bottom. It runs on the manager's event loop.

Join an identical call, look into the cache, route, and for each step of `routing/retry.py`: wait for the turn, reserve,
send, judge, settle; then store and return.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.cache.single_flight import FlightLocks, Flights, FlightTimeoutError
from testronaut_llm.errors import BudgetExceededError, ConfigError, LLMError, LLMTimeoutError
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply
from testronaut_llm.judge import Judge, Judgement
from testronaut_llm.limits.rules import key_of
from testronaut_llm.lookup import Emit, Lookup, emit_stored
from testronaut_llm.loop import Running, wait_for
from testronaut_llm.money.ledger_file import when_free
from testronaut_llm.providers.provider_registry import timeout_of
from testronaut_llm.records import Attempt, Call, Result, Route, T, known_cost, total_cost
from testronaut_llm.requests import Requests, cancelled
from testronaut_llm.routing.cost_optimizer import nothing_left
from testronaut_llm.routing.retry import (
    End,
    Outcome,
    Policy,
    Try,
    all_failed,
    another_too_slow,
    attempts,
    out_of_time,
    passed_over,
)
from testronaut_llm.routing.waiting import leave, no_turn, patience

if TYPE_CHECKING:
    from testronaut_llm.limits.rate_limiter import Ticket
    from testronaut_llm.money.reservation import Reservation
    from testronaut_llm.services import Services


class Caller:
    """Answers the calls of one manager that its stored answers do not.

    Args:
        services: what calls share.
        lookup: the stored answers.
    """

    def __init__(self, services: Services, lookup: Lookup) -> None:
        self.services, self._lookup = services, lookup
        self._locks = FlightLocks(lookup.cache.folder / "flights.lock") if lookup.cache else None
        self._flights = Flights(self._locks)

    def start_missed(self, call: Call) -> Running[Result]:
        """Starts a call that was looked up in vain."""
        return self.services.loop.start(partial(self.answer, call))

    def start(self, call: Call, emit: Emit) -> Running[Result]:
        """Starts a stream, from its lookup on."""
        return self.services.loop.start(partial(self._whole, call, emit))

    def start_outcome(self, make: Callable[[], Call]) -> Running[Any]:
        """Starts a call of a batch, from its arguments on; it ends in its answer or its error."""

        async def outcome() -> Result | LLMError:
            try:
                return await self._whole(make(), None)
            except LLMError as error:
                return error.with_traceback(None)  # its frames would keep every call of the batch alive

        return self.services.loop.start(outcome)

    async def _whole(self, call: Call, emit: Emit | None) -> Result:
        with self.services.telemetry.watch(call):
            found = await self._lookup.afind(call)
            if found is None:
                return await self.answer(call, emit)
        emit_stored(found, emit)
        return found

    async def answer(self, call: Call, emit: Emit | None = None) -> Result:
        """Returns the result of a call; hands the pieces of a stream to `emit`.

        Raises:
            LLMError: with the attempts made.
        """
        key = self._lookup.flight(call)
        if key is None:
            return await self._asked(call, emit)
        try:
            async with self._flights.join(key, lambda: call.left, leads=not call.stream):
                result = await self._looked_up(call, self._lookup.find_stored)
                if result is None:
                    return await self._asked(call, emit)
        except FlightTimeoutError:
            raise another_too_slow(call.task, call.deadline) from None
        emit_stored(result, emit)
        return result

    async def _looked_up(self, call: Call, find: Callable[[Call], T]) -> T:
        """Returns what `find` finds in the store: at once if that is quick, else off the event loop."""
        if self._lookup.is_quick(call):
            return find(call)
        off_the_loop = asyncio.to_thread if call.accept is not None else self.services.loop.on_file
        return await off_the_loop(find, call)

    async def _asked(self, whole: Call, emit: Emit | None) -> Result:
        """Asks the models, stores what they answer, and returns it."""
        services, found = self.services, await self._looked_up(whole, self._lookup.vectors)
        call = self._lookup.without(whole, found)

        route = services.route(call) if services.is_warm(call) else await asyncio.to_thread(services.cold_route, call)
        if not route.kept:
            raise nothing_left(route)

        result = await _Conversation(services, call, route, emit).result()

        services.learn(call, result, route)
        if self._lookup.keeps(call):
            dialect = services.dialect(call.config.model(result.model))
            await services.loop.on_file(self._lookup.keep, call, result, dialect)
        result = self._lookup.joined(whole, found, result)
        result = replace(result, latency=time.monotonic() - call.started)
        services.telemetry.answered(call, result)
        return result

    def close(self) -> None:
        """Ends what runs, and frees what it held."""
        self.services.close()
        if self._locks is not None:
            self._locks.close()


@dataclass(slots=True)
class _Conversation:
    """The attempts of one call along its route, until one brings an answer."""

    services: Services
    call: Call
    route: Route
    emit: Emit | None
    tried: list[Attempt] = field(default_factory=list)
    refused_text: str = ""
    delivered: bool = False
    sent: bool = False

    async def result(self) -> Result:
        """Makes attempts until an answer is accepted.

        Raises:
            LLMError: the last error itself where it stops the call, else `AllModelsFailedError`.
        """
        settings = self.call.settings
        cascade = settings.strategy == "cascade"
        policy = Policy(retries=settings.retries, fallback_on=settings.fallback_on, cascade=cascade)
        steps = attempts(self.route.kept, policy)
        step = next(steps)
        while True:
            if step.wait:
                await asyncio.sleep(step.wait)
            result = await self._attempt(step)
            if not isinstance(result, Outcome):
                return replace(result, attempts=tuple(self.tried), cost=total_cost(self.tried))
            try:
                step = steps.send(result)
            except StopIteration as stop:
                raise self._ended(stop.value) from None

    async def _attempt(self, step: Try) -> Result | Outcome:
        """Makes one attempt: waits for its turn, reserves, sends, judges, settles."""
        call, requests, began = self.call, Requests(self.services, self.call), time.monotonic()
        ticket = self.services.ticket(call, step.candidate, requests.longest_answer(step))
        try:
            error = await self._turn(step, ticket) or await self._downloaded(step)
            step = replace(step, wait=step.wait + time.monotonic() - began, answered=self.refused_text)
            if error is None and call.left > 0:
                return await self._paid(step, ticket, requests)
        finally:
            ticket.leave()
        if error is None:
            return Outcome(error=out_of_time(call.task, step.candidate, call.deadline), remaining=0.0)
        self.tried.append(Judge(requests).attempt(step, Reply(error=error, sent=False), latency=0.0))
        self.services.attempted(call, self.tried[-1])
        return Outcome(error=error, remaining=call.left)

    async def _turn(self, step: Try, ticket: Ticket) -> LLMError | None:
        """Waits for the attempt's turn; returns an error where another model is the better choice."""
        limiter, model = self.services.limiter, self.call.config.model
        while not ticket.turn():
            left = self.call.left
            worth = patience(self.route, step.candidate, ticket, lambda alias: limiter.rest(key_of(model(alias))))
            if ticket.at_least >= min(left, worth):
                return no_turn(step.candidate, ticket, left)
            await wait_for(ticket.woken, min(left, ticket.look_in))
        return None

    async def _downloaded(self, step: Try) -> LLMError | None:
        """Waits for a model that has to be downloaded first; returns why that failed. Only the call's time runs."""
        download = self.services.local.fetch(self.call.config.model(step.candidate.alias), self.call.left)
        if download is None:
            return None
        await wait_for(download.future, self.call.left)
        return download.failure()

    async def _paid(self, step: Try, ticket: Ticket, requests: Requests) -> Result | Outcome:
        """Sends a request whose worst case is reserved; it is settled whatever happens."""
        call, judge = self.call, Judge(requests)
        reserve = partial(
            self.services.budgets.reserve, call, step.candidate, requests.worst(step), spent=known_cost(self.tried)
        )
        try:
            reservation = await when_free(reserve, call.left)
        except (BudgetExceededError, ConfigError) as error:
            return Outcome(error=passed_over(error), remaining=call.left)

        began, exchange, reply = time.monotonic(), Exchange(), None
        limit = call.timeout or timeout_of(requests.model(step))
        seconds = min(limit, max(0.0, call.left))
        try:
            await when_free(reservation.sent, call.left)
            reply = await self._reply(step, requests, exchange, seconds)
        except (BudgetExceededError, ConfigError) as error:
            reply = Reply(error=passed_over(error), sent=False)
        finally:
            received = reply if reply is not None else cancelled(exchange)
            self.tried.append(judge.attempt(step, received, latency=time.monotonic() - began))
            self.sent = self.sent or received.sent
            reservation.settle(self.tried[-1])
            leave(ticket, self.tried[-1], received, cut_short=seconds < limit)
            if reply is None:
                self.services.attempted(call, self.tried[-1])
        return await self._judged(step, judge, reply, reservation)

    async def _reply(self, step: Try, requests: Requests, exchange: Exchange, seconds: float) -> Reply:
        """Returns the reply to one request.

        Its time is kept out here, since the time-outs of an HTTP client start anew with every byte.
        """
        model, reply = requests.model(step), Reply(error=LLMError("no reply"), sent=False)
        make = partial(requests.request, step, max(0.001, seconds))
        try:
            async with asyncio.timeout(seconds):
                may_wait = model.provider == "embedded" or model.api_key_command is not None
                request = await asyncio.to_thread(make) if may_wait else make()
                async for part in self.services.gateway.send(request, exchange):
                    if isinstance(part, Reply):
                        reply = part
                    elif self.emit is not None:
                        self.delivered = True
                        self.emit(part)
        except TimeoutError:
            message = f"no complete answer within {seconds:.3g} s; raise `timeout` or `deadline` if it needs longer"
            return Reply(error=LLMTimeoutError(message), sent=exchange.left)
        except LLMError as error:
            return Reply(error=error, sent=False)
        return reply

    async def _judged(self, step: Try, judge: Judge, reply: Reply, reservation: Reservation) -> Result | Outcome:
        """Returns the result that a reply is, or what retrying needs to know of it."""
        attempt, call = self.tried[-1], self.call
        may_double = partial(self.services.budgets.affords, call, spent=known_cost(self.tried))
        decide = partial(judge.judgement, step, reply, attempt, may_double)
        callers_code = call.accept is not None or call.output is not None  # it may take long, or call the manager
        try:
            judged: Judgement = await asyncio.to_thread(decide) if callers_code else decide()
            if judged.error is not None:
                self.tried[-1] = replace(attempt, error=judged.error)
            if judged.error is not None and reply.error is None:
                self.tried[-1] = replace(self.tried[-1], outcome="rejected")
                reservation.settle(self.tried[-1])
        finally:
            self.services.attempted(call, self.tried[-1])
        if judged.result is not None:
            return judged.result
        if judged.repair is not None:
            self.refused_text = getattr(judged.error, "text", reply.text)
        return Outcome(
            error=judged.error or LLMError("no answer"),
            remaining=call.left,
            repair=None if self.delivered else judged.repair,
            delivered=self.delivered,
            may_double=judged.may_double,
            not_taken=() if self.delivered else judged.not_taken,
        )

    def _ended(self, end: End) -> LLMError:
        unsent_budget = isinstance(end.last, BudgetExceededError) and not self.sent
        stopped = end.stopped or unsent_budget
        error = end.last if stopped else all_failed(self.call.task, end.last, tuple(self.tried))
        error.attempts = tuple(self.tried)
        return error
