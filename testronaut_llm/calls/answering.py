"""What is not stored is asked: an identical call that is under way is waited for, else the models say it."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.cache import key as cache_key
from testronaut_llm.cache.entry import answer_value, joined, vector_values
from testronaut_llm.cache.single_flight import FlightLocks, ThreadFlights
from testronaut_llm.calls.lookup import Lookup, pieces_of
from testronaut_llm.calls.steps import Await, Flow, Pause, Piece, Result, Step, Work
from testronaut_llm.errors import LLMTimeoutError
from testronaut_llm.records import Call, Embeddings, Message

if TYPE_CHECKING:
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.calls.question import Question

_LOOKS = (0.005, 0.05)  # seconds between two looks for another process's end: at first, and at most


class Answering:
    """How the calls of one manager are answered. Safe for threads and event loops."""

    def __init__(self, engine: Engine, lookup: Lookup) -> None:
        self._engine, self._lookup = engine, lookup
        self._flights = ThreadFlights()
        self._locks = FlightLocks(lookup.cache.folder / "flights.lock") if lookup.cache else None

    def flow(self, question: Question) -> Flow:
        """What to do for an answer: wait for that of an identical call, or ask the models.

        Raises:
            LLMError: no answer was accepted, or another call's did not come in time.
        """
        if not question.parts or question.call.cache != "use" or self._locks is None:
            return (yield from self._asked(question))
        key = self._lookup.flight(question)
        seat = self._flights.take(key, alone=question.call.stream)
        landed = False
        try:
            if not seat.leads:
                yield Await(seat.future, max(0.0, question.left))
                if not seat.future.done():
                    raise _too_late(question)
            if seat.leads:
                yield from self._no_other_process(question, self._locks, key)
            result = self._lookup.found(question)
            if result is None:
                result = yield from self._asked(question)
            elif question.call.stream:
                yield from map(Piece, pieces_of(result))
            landed = True
            return result
        finally:
            if seat.leads:
                self._locks.release(key)
            self._flights.leave(seat, landed=landed)

    def close(self) -> None:
        """Closes what is open."""
        if self._locks is not None:
            self._locks.close()

    def _asked(self, question: Question) -> Generator[Step, Any, Result]:
        keeps, found = self._lookup.keeps(question), self._lookup.vectors(question)
        texts = tuple(text for text in dict.fromkeys(question.texts) if text not in found) if keeps else question.texts
        call = _shortened(question, texts)
        begin = partial(self._engine.flow, question.config, question.task, call, texts)
        route, inner = begin() if self._engine.is_warm(question.candidates, call) else (yield Work(begin))
        result: Result = yield from inner
        self._engine.accepted(question.config, call, result, route)
        if keeps:
            yield Work(partial(self._store, question, result, texts))  # another process may hold the store
        if isinstance(result, Embeddings) and texts != question.texts:
            model = question.config.model(result.model)
            result = joined(found, question.texts, result, model=model, task=question.task.name)
            if found:
                self._engine.ledger.hit(result.task, result.model, result.saved)
        result = replace(result, latency=time.monotonic() - question.started)
        self._engine.telemetry.answered(question.call, result)
        return result

    def _store(self, question: Question, result: Result, texts: tuple[str, ...]) -> None:
        """Keeps an accepted answer, unless it may not be whole, or says a secret that this process knows."""
        cache = self._lookup.cache
        one = next(one for one in question.candidates if one.model.alias == result.model)
        if cache is None:
            return
        settings = question.config.cache
        model = self._lookup.model_part(question, one, seen=self._engine.probes.digest(one.model, one.provider))
        if isinstance(result, Embeddings):
            for text, value in zip(texts, vector_values(result, texts), strict=True):
                key = cache_key.hashed(cache_key.text_part(question.call, text), model)
                cache.write(key, value, settings, task=question.task.name)
            return
        value = answer_value(result, self._engine.dialect(one.model))
        if result.finish_reason == "stop" and not self._engine.redactor.knows(cache_key.canonical(value)):
            cache.write(cache_key.hashed(question.parts[0], model), value, settings, task=question.task.name)

    def _no_other_process(self, question: Question, locks: FlightLocks, key: str) -> Generator[Step, Any, None]:
        wait, longest = _LOOKS
        while not locks.acquire(key):
            if question.left <= 0:
                raise _too_late(question)
            yield Pause(min(wait, question.left))
            wait = min(wait * 1.5, longest)


def _shortened(question: Question, texts: tuple[str, ...]) -> Call:
    """The call with what is left of its deadline, and with only the texts that have to be asked."""
    call, left = question.call, question.left
    if texts != question.texts:
        call = replace(call, messages=(Message(role="user", content="\n".join(texts)),))
    return replace(call, deadline=max(0.001, left)) if left < call.deadline - 0.1 else call


def _too_late(question: Question) -> LLMTimeoutError:
    return LLMTimeoutError(
        f"{question.call.task}: an identical call did not end within the deadline of {question.call.deadline:g} s; "
        "raise `deadline`, or ask for yourself with cache `off`"
    )
