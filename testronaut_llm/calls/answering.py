"""From a call to its result: what is stored, what an identical call is just getting, or what the models say."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.caching import key as cache_key
from testronaut_llm.caching.entry import Vector, answer_of, answer_value, joined, vector_of, vector_values
from testronaut_llm.caching.single_flight import FlightLocks, Flights
from testronaut_llm.calls.steps import Await, Flow, Pause, Piece, Result, Step, Work
from testronaut_llm.errors import CacheMissError, LLMTimeoutError
from testronaut_llm.records import Answer, Call, Embeddings, Message
from testronaut_llm.task_router import Selected, one_vector_space, select

if TYPE_CHECKING:
    from testronaut_llm.cache import AnswerCache
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.model_config import LLMConfig, TaskConfig

_PIECE = re.compile(r"\s*\S+\s*")
_LOOKS = (0.005, 0.05)  # seconds between two looks for another process's end: at first, and at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A call with what its answers are known by: a key is made of one of `parts` and one of `models`.

    Attributes:
        texts: what to embed, each once; none for a chat.
        candidates: the models that may answer, in the listed order.
        parts: of the call; of each text where it is to be embedded. None: nothing is looked up or stored.
        models: of each candidate.
        started: seconds, on the clock that never goes back.
    """

    config: LLMConfig
    task: TaskConfig
    call: Call
    texts: tuple[str, ...]
    candidates: tuple[Selected, ...]
    parts: tuple[str, ...]
    models: tuple[str, ...]
    started: float

    @property
    def left(self) -> float:
        """Seconds until its deadline."""
        return self.started + self.call.deadline - time.monotonic()

    @property
    def flight(self) -> str:
        """What it has in common with every call that asks the same of the same models."""
        return cache_key.hashed(*self.parts, *self.models)

    def keys(self, part: str) -> Iterator[str]:
        """Where its answers, or the vectors of one text, are stored, in the listed order."""
        return (cache_key.hashed(part, model) for model in self.models)


class Answering:
    """How the calls of one manager are answered. Safe for threads and event loops."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flights = Flights()
        self._locks = FlightLocks(self._cache.folder / "flights.lock") if self._cache else None
        self._noted: dict[str, str] = {}

    def is_quick(self, call: Call) -> bool:
        """Does it cost microseconds to look for its answer, or to store it, so that an event loop can do it?"""
        return self._cache is None or call.cache == "off" or self._cache.is_open

    def question(self, config: LLMConfig, task: TaskConfig, call: Call, texts: tuple[str, ...] = ()) -> Question:
        """Puts a call into the words of the cache.

        Raises:
            ConfigError: a model is unknown.
        """
        started = time.monotonic()
        selected = select(config, call.model, task)
        allowed = tuple(one for one in (one_vector_space(selected) if texts else selected) if one.excluded is None)
        parts: tuple[str, ...] = ()
        models: tuple[str, ...] = ()
        if self._cache is not None and call.cache != "off":
            try:
                parts = tuple(cache_key.text_part(call, text) for text in texts) or (cache_key.chat_part(call),)
                models = tuple(self._model_part(config, one) for one in allowed)
            except (TypeError, ValueError):  # `extra` holds what no key can be made of
                parts = ()
        return Question(
            config=config,
            task=task,
            call=call,
            texts=texts,
            candidates=allowed,
            parts=parts,
            models=models,
            started=started,
        )

    def stored(self, question: Question) -> Result | None:
        """What is stored, told and booked as a hit; None where a model has to be asked.

        Raises:
            CacheMissError: nothing is, and the call says `only`.
        """
        mode = question.call.cache
        if mode == "refresh" and self._cache is not None:
            keys = (key for part in question.parts for key in question.keys(part))
            self._cache.drop(keys, question.config.cache)
            return None
        result = self._found(question)
        if result is None and mode == "only":
            names = ", ".join(one.model.alias for one in question.candidates) or "its models"
            what = f"vectors of all {len(question.texts)} texts" if question.texts else "answer to this prompt"
            raise CacheMissError(
                f"{question.task.name}: cache is `only`, and no {what} of {names} with these settings is stored; "
                "ask once with cache `use`, or import a file that holds it: testronaut-llm cache import FILE"
            )
        return result

    def flow(self, question: Question) -> Flow:
        """What to do for an answer: wait for that of an identical call, or ask the models.

        Raises:
            LLMError: no answer was accepted, or another call's did not come in time.
        """
        if not question.parts or question.call.cache != "use" or self._locks is None:
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
        self._engine.telemetry.answered(question.call, result)
        return result

    def _answer_found(self, question: Question) -> Answer[Any] | None:
        cache, call = self._cache, question.call
        for one, key in zip(question.candidates, question.keys(question.parts[0]), strict=True):
            decode = partial(answer_of, call=call, model=one.model, started=question.started)
            answer = cache.read(key, decode, question.config.cache) if cache else None
            if answer is not None and (call.accept is None or call.accept(answer)):
                return answer
        return None

    def _vectors_found(self, question: Question) -> Embeddings | None:
        found = self._vectors(question)
        if len(found) < len(set(question.texts)):
            return None
        model = question.candidates[0].model
        result = joined(found, question.texts, None, model=model, task=question.task.name)
        return replace(result, latency=time.monotonic() - question.started)

    def _vectors(self, question: Question) -> dict[str, Vector]:
        found: dict[str, Vector] = {}
        if (cache := self._cache) is None:
            return found
        for text, part in zip(question.texts, question.parts, strict=True):
            read = (cache.read(key, vector_of, question.config.cache) for key in question.keys(part))
            vector = next(filter(None, read), None)
            if vector is not None:
                found[text] = vector
        return found

    def _asked(self, question: Question) -> Generator[Step, Any, Result]:
        found = self._vectors(question) if question.parts and question.texts else {}
        texts = tuple(text for text in dict.fromkeys(question.texts) if text not in found)
        texts = texts if question.parts else question.texts
        call = _shortened(question, texts)
        begin = partial(self._engine.flow, question.config, question.task, call, texts)
        route, inner = begin() if self._engine.is_warm(question.candidates, call) else (yield Work(begin))
        result: Result = yield from inner
        self._engine.accepted(call, result, route)
        if question.parts:
            store = partial(self._store, question, result, texts)
            store() if self.is_quick(call) else (yield Work(store))
        if isinstance(result, Embeddings) and texts != question.texts:
            model = question.config.model(result.model)
            result = joined(found, question.texts, result, model=model, task=question.task.name)
        result = replace(result, latency=time.monotonic() - question.started)
        self._engine.telemetry.answered(question.call, result)
        return result

    def _store(self, question: Question, result: Result, texts: tuple[str, ...]) -> None:
        """Keeps an accepted answer, unless it was cut, or says a secret that this process knows."""
        cache = self._cache
        one = next(one for one in question.candidates if one.model.alias == result.model)
        if cache is None:
            return
        settings = question.config.cache
        model = self._model_part(question.config, one, seen=self._engine.probes.digest(one.model, one.provider))
        if isinstance(result, Embeddings):
            for text, value in zip(texts, vector_values(result, texts), strict=True):
                key = cache_key.hashed(cache_key.text_part(question.call, text), model)
                cache.write(key, value, settings, task=question.task.name)
        elif not self._unfit(question, result):
            value = answer_value(result, self._engine.dialect(one.model))
            cache.write(cache_key.hashed(question.parts[0], model), value, settings, task=question.task.name)

    def _unfit(self, question: Question, answer: Answer[Any]) -> bool:
        cut = question.task.allow_truncated and answer.finish_reason == "length"
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
        f"{question.task.name}: an identical call did not end within the deadline of {question.call.deadline:g} s; "
        "raise `deadline`, or ask for yourself with cache `off`"
    )
