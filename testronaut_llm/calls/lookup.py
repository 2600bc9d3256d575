"""What is stored: the answer to a question, its vectors, and what they are known by. It is all that a hit loads."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.cache import key as cache_key
from testronaut_llm.cache.entry import Vector, answer_of, joined, vector_of
from testronaut_llm.errors import CacheMissError
from testronaut_llm.records import Answer, Embeddings

if TYPE_CHECKING:
    from testronaut_llm.cache.answer_cache import AnswerCache
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.calls.question import Question
    from testronaut_llm.routing.task_router import Selected

_FEW = 20  # texts to embed
_PIECE = r"\s*\S+\s*"


class Lookup:
    """The store as the calls of one manager see it. Safe for threads and event loops."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def cache(self) -> AnswerCache | None:
        """The store; None where nothing is to be kept."""
        return self._engine.answers

    def keeps(self, question: Question) -> bool:
        """True if its answer is looked up and stored."""
        return self.cache is not None and bool(question.parts)

    def is_quick(self, question: Question) -> bool:
        """True if it costs microseconds to look for an answer, or to store it, so that an event loop can do it."""
        return self.cache is None or not question.parts or (self.cache.is_open and len(question.texts) <= _FEW)

    def stored(self, question: Question) -> Answer[Any] | Embeddings | None:
        """What is stored, told and booked as a hit; None where a model has to be asked.

        Raises:
            CacheMissError: nothing is, and the call says `only`.
        """
        mode = question.call.cache
        if mode == "refresh" and self.cache is not None:
            models = self._models(question)
            keys = (cache_key.hashed(part, model) for part in question.parts for model in models)
            self.cache.drop(keys, question.config.cache)
            return None
        result = self.found(question)
        if result is None and mode == "only":
            names = ", ".join(one.model.alias for one in question.candidates) or "its models"
            what = f"vectors of all {len(question.texts)} texts" if question.texts else "answer to this prompt"
            raise CacheMissError(
                f"{question.task.name}: cache is `only`, and no {what} of {names} with these settings is stored; "
                "ask once with cache `use`, or import a file that holds it: testronaut-llm cache import FILE"
            )
        return result

    def found(self, question: Question) -> Answer[Any] | Embeddings | None:
        """The same whatever the mode."""
        result = self._vectors_found(question) if question.texts else self._answer_found(question)
        if result is None:
            return None
        self._engine.ledger.hit(result.task, result.model, result.saved)
        self._engine.telemetry.answered(question.call, result)
        return result

    def _answer_found(self, question: Question) -> Answer[Any] | None:
        accept, output, cache = question.call.accept, question.call.output, self.cache
        if cache is None or not question.parts:
            return None
        for one, model in zip(question.candidates, self._models(question), strict=True):
            key = cache_key.hashed(question.parts[0], model)
            decode = partial(answer_of, question.task.name, output, one.model, question.started)
            answer = cache.read(key, decode, question.config.cache)
            if answer is not None and (accept is None or accept(answer)):
                return answer
        return None

    def _vectors_found(self, question: Question) -> Embeddings | None:
        found = self.vectors(question)
        if len(found) < len(set(question.texts)):
            return None
        result = joined(found, question.texts, None, model=question.candidates[0].model, task=question.task.name)
        return replace(result, latency=time.monotonic() - question.started)

    def vectors(self, question: Question) -> dict[str, Vector]:
        """The vectors that are stored, by their texts."""
        found: dict[str, Vector] = {}
        if (cache := self.cache) is None or not (question.texts and question.parts):
            return found
        models = self._models(question)
        for text, part in zip(question.texts, question.parts, strict=True):
            keys = (cache_key.hashed(part, model) for model in models)
            read = (cache.read(key, vector_of, question.config.cache) for key in keys)
            vector = next(filter(None, read), None)
            if vector is not None:
                found[text] = vector
        return found

    def flight(self, question: Question) -> str:
        """What it has in common with every call that asks the same of the same models."""
        return cache_key.hashed(*question.parts, *self._models(question))

    def model_part(self, question: Question, one: Selected, *, seen: str | None = None) -> str:
        """With the digest that a local model was last seen with, which is kept beside the answers."""
        if not one.provider.local or one.model.digest or self.cache is None:
            return cache_key.model_part(one.model, one.provider, None)
        key, settings = cache_key.digest_key(one.model, one.provider), question.config.cache
        noted = self.cache.read(key, str, settings)
        if seen is not None and noted != seen:
            self.cache.write(key, seen, settings, task=None)
        return cache_key.model_part(one.model, one.provider, seen or noted)

    def _models(self, question: Question) -> list[str]:
        """Each candidate, as the keys say it."""
        return [self.model_part(question, one) for one in question.candidates]


def pieces_of(result: Answer[Any] | Embeddings) -> Iterator[str]:
    """The words of a stored answer, as a stream would bring them."""
    text = result.text if isinstance(result, Answer) else ""
    return (found[0] for found in re.finditer(_PIECE, text)) if text.strip() else iter((text,) if text else ())
