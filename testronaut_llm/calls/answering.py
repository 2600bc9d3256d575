"""From a call to its result: what is stored, what an identical call is just getting, or what the models say."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.caching import key as cache_key
from testronaut_llm.caching.entry import Vector, answer_of, answer_value, joined, vector_of, vector_values
from testronaut_llm.caching.single_flight import FlightLocks, Flights
from testronaut_llm.calls.steps import Await, Flow, Pause, Piece, Result, Step, Work
from testronaut_llm.errors import CacheMissError, LLMTimeoutError
from testronaut_llm.records import Answer, CacheMode, Call, Embeddings, Message

if TYPE_CHECKING:
    from testronaut_llm.cache import AnswerCache
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.calls.question import Question
    from testronaut_llm.model_config import LLMConfig
    from testronaut_llm.task_router import Selected

_PIECE = re.compile(r"\s*\S+\s*")
_LOOKS = (0.005, 0.05)  # seconds between two looks for another process's end: at first, and at most


class Answering:
    """How the calls of one manager are answered. Safe for threads and event loops."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flights = Flights()
        self._locks = FlightLocks(self._cache.folder / "flights.lock") if self._cache else None
        self._noted: dict[str, str] = {}

    def is_quick(self, mode: CacheMode) -> bool:
        """Does it cost microseconds to look for an answer, or to store it, so that an event loop can do it?"""
        return self._cache is None or mode == "off" or self._cache.is_open

    def identify(self, question: Question) -> None:
        """Notes what its answers are known by, unless they are not to be stored."""
        prepared, frame = question.prepared, question.prepared.frame
        if self._cache is None or prepared.mode == "off" or frame is None:
            return
        if question.texts:
            question.parts = tuple(cache_key.text_part(frame, text) for text in question.texts)
        else:
            question.parts = (cache_key.chat_part(frame, question.messages),)
        question.models = tuple([self._model_part(prepared.config, one) for one in prepared.candidates])

    def stored(self, question: Question) -> Result | None:
        """What is stored, told and booked as a hit; None where a model has to be asked.

        Raises:
            CacheMissError: nothing is, and the call says `only`.
        """
        self.identify(question)
        prepared, mode = question.prepared, question.prepared.mode
        if mode == "refresh" and self._cache is not None:
            keys = (key for part in question.parts for key in question.keys(part))
            self._cache.drop(keys, prepared.config.cache)
            return None
        result = self._found(question)
        if result is None and mode == "only":
            names = ", ".join(one.model.alias for one in prepared.candidates) or "its models"
            what = f"vectors of all {len(question.texts)} texts" if question.texts else "answer to this prompt"
            raise CacheMissError(
                f"{prepared.task.name}: cache is `only`, and no {what} of {names} with these settings is stored; "
                "ask once with cache `use`, or import a file that holds it: testronaut-llm cache import FILE"
            )
        return result

    def flow(self, question: Question) -> Flow:
        """What to do for an answer: wait for that of an identical call, or ask the models.

        Raises:
            LLMError: no answer was accepted, or another call's did not come in time.
        """
        if not question.parts or question.prepared.mode != "use" or self._locks is None:
            return (yield from self._asked(question))
        key = question.flight
        seat = self._flights.take(key, alone=question.call.stream)
        landed = False
        try:
            if not seat.leads:
                yield Await(seat.future, max(0.0, question.left))
                if not seat.future.done():
                    raise _too_late(question)
            if seat.leads:
                yield from self._no_other_process(question, self._locks, key)
            result = self._found(question)
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

    @property
    def _cache(self) -> AnswerCache | None:
        return self._engine.answers

    def _found(self, question: Question) -> Result | None:
        if not question.parts:
            return None
        result = self._vectors_found(question) if question.texts else self._answer_found(question)
        if result is None:
            return None
        self._engine.ledger.hit(result.task, result.model, result.saved)
        if self._engine.telemetry.is_heard:
            self._engine.telemetry.answered(question.call, result)
        return result

    def _answer_found(self, question: Question) -> Answer[Any] | None:
        cache, prepared, accept = self._cache, question.prepared, question.accept
        for one, key in zip(prepared.candidates, question.keys(question.parts[0]), strict=True):
            decode = partial(answer_of, prepared.task.name, prepared.output, one.model, question.started)
            answer = cache.read(key, decode, prepared.config.cache) if cache else None
            if answer is not None and (accept is None or accept(answer)):
                return answer
        return None

    def _vectors_found(self, question: Question) -> Embeddings | None:
        found = self._vectors(question)
        if len(found) < len(set(question.texts)):
            return None
        model = question.prepared.candidates[0].model
        result = joined(found, question.texts, None, model=model, task=question.prepared.task.name)
        return replace(result, latency=time.monotonic() - question.started)

    def _vectors(self, question: Question) -> dict[str, Vector]:
        found: dict[str, Vector] = {}
        if (cache := self._cache) is None:
            return found
        for text, part in zip(question.texts, question.parts, strict=True):
            read = (cache.read(key, vector_of, question.prepared.config.cache) for key in question.keys(part))
            vector = next(filter(None, read), None)
            if vector is not None:
                found[text] = vector
        return found

    def _asked(self, question: Question) -> Generator[Step, Any, Result]:
        found = self._vectors(question) if question.parts and question.texts else {}
        texts = tuple(text for text in dict.fromkeys(question.texts) if text not in found)
        texts = texts if question.parts else question.texts
        call = _shortened(question, texts)
        begin = partial(self._engine.flow, question.prepared.config, question.prepared.task, call, texts)
        route, inner = begin() if self._engine.is_warm(question.prepared.candidates, call) else (yield Work(begin))
        result: Result = yield from inner
        self._engine.accepted(question.prepared.config, call, result, route)
        if question.parts:
            store = partial(self._store, question, result, texts)
            store() if self.is_quick(question.prepared.mode) else (yield Work(store))
        if isinstance(result, Embeddings) and texts != question.texts:
            model = question.prepared.config.model(result.model)
            result = joined(found, question.texts, result, model=model, task=question.prepared.task.name)
        result = replace(result, latency=time.monotonic() - question.started)
        self._engine.telemetry.answered(question.call, result)
        return result

    def _store(self, question: Question, result: Result, texts: tuple[str, ...]) -> None:
        """Keeps an accepted answer, unless it was cut, or says a secret that this process knows."""
        cache, frame = self._cache, question.prepared.frame
        one = next(one for one in question.prepared.candidates if one.model.alias == result.model)
        if cache is None or frame is None:
            return
        settings = question.prepared.config.cache
        model = self._model_part(
            question.prepared.config, one, seen=self._engine.probes.digest(one.model, one.provider)
        )
        if isinstance(result, Embeddings):
            for text, value in zip(texts, vector_values(result, texts), strict=True):
                key = cache_key.hashed(cache_key.text_part(frame, text), model)
                cache.write(key, value, settings, task=question.prepared.task.name)
        elif not self._unfit(question, result):
            value = answer_value(result, self._engine.dialect(one.model))
            cache.write(cache_key.hashed(question.parts[0], model), value, settings, task=question.prepared.task.name)

    def _unfit(self, question: Question, answer: Answer[Any]) -> bool:
        cut = question.prepared.task.allow_truncated and answer.finish_reason == "length"
        return cut or self._engine.redactor.knows(answer.text)

    def _model_part(self, config: LLMConfig, one: Selected, *, seen: str | None = None) -> str:
        """With the digest that a local model was last seen with, which is kept beside the answers."""
        if not one.provider.local or one.model.digest or self._cache is None:
            return cache_key.model_part(one.model, one.provider, None)
        key = cache_key.digest_key(one.model, one.provider)
        if seen is not None and self._noted.get(key) != seen:
            self._cache.write(key, seen, config.cache, task=None)
            self._noted[key] = seen
        return cache_key.model_part(one.model, one.provider, seen or self._cache.read(key, str, config.cache))

    def _no_other_process(self, question: Question, locks: FlightLocks, key: str) -> Generator[Step, Any, None]:
        wait, longest = _LOOKS
        while not locks.acquire(key):
            if question.left <= 0:
                raise _too_late(question)
            yield Pause(min(wait, question.left))
            wait = min(wait * 1.5, longest)


def pieces_of(result: Result) -> Iterator[str]:
    """The words of a stored answer, as a stream would bring them."""
    text = result.text if isinstance(result, Answer) else ""
    return (found[0] for found in _PIECE.finditer(text)) if text.strip() else iter((text,) if text else ())


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
