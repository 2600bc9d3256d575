"""What is stored: the answer to a question, its vectors, and what they are known by. It is all that a hit loads."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.caching import key as cache_key
from testronaut_llm.caching.entry import Vector, answer_of, joined, vector_of
from testronaut_llm.errors import CacheMissError
from testronaut_llm.records import Answer, Embeddings

if TYPE_CHECKING:
    from testronaut_llm.cache import AnswerCache
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.calls.question import Question
    from testronaut_llm.model_config import LLMConfig
    from testronaut_llm.task_router import Selected

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

    def is_quick(self, question: Question) -> bool:
        """Does it cost microseconds to look for an answer, or to store it, so that an event loop can do it?"""
        if self.cache is None or question.prepared.mode == "off":
            return True
        return self.cache.is_open and len(question.texts) <= _FEW

    def identify(self, question: Question) -> None:
        """Notes what its answers are known by, unless they are not to be stored."""
        prepared, frame = question.prepared, question.prepared.frame
        if self.cache is None or prepared.mode == "off" or frame is None:
            return
        if question.texts:
            question.parts = tuple(cache_key.text_part(frame, text) for text in question.texts)
        else:
            question.parts = (cache_key.chat_part(frame, question.messages),)
        question.models = tuple([self.model_part(prepared.config, one) for one in prepared.candidates])

    def stored(self, question: Question) -> Answer[Any] | Embeddings | None:
        """What is stored, told and booked as a hit; None where a model has to be asked.

        Raises:
            CacheMissError: nothing is, and the call says `only`.
        """
        self.identify(question)
        prepared, mode = question.prepared, question.prepared.mode
        if mode == "refresh" and self.cache is not None:
            keys = (key for part in question.parts for key in question.keys(part))
            self.cache.drop(keys, prepared.config.cache)
            return None
        result = self.found(question)
        if result is None and mode == "only":
            names = ", ".join(one.model.alias for one in prepared.candidates) or "its models"
            what = f"vectors of all {len(question.texts)} texts" if question.texts else "answer to this prompt"
            raise CacheMissError(
                f"{prepared.task.name}: cache is `only`, and no {what} of {names} with these settings is stored; "
                "ask once with cache `use`, or import a file that holds it: testronaut-llm cache import FILE"
            )
        return result

    def found(self, question: Question) -> Answer[Any] | Embeddings | None:
        """The same whatever the mode."""
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
        cache, prepared, accept = self.cache, question.prepared, question.accept
        for one, key in zip(prepared.candidates, question.keys(question.parts[0]), strict=True):
            decode = partial(answer_of, prepared.task.name, prepared.output, one.model, question.started)
            answer = cache.read(key, decode, prepared.config.cache) if cache else None
            if answer is not None and (accept is None or accept(answer)):
                return answer
        return None

    def _vectors_found(self, question: Question) -> Embeddings | None:
        found = self.vectors(question)
        if len(found) < len(set(question.texts)):
            return None
        model = question.prepared.candidates[0].model
        result = joined(found, question.texts, None, model=model, task=question.prepared.task.name)
        return replace(result, latency=time.monotonic() - question.started)

    def vectors(self, question: Question) -> dict[str, Vector]:
        """The vectors that are stored, by their texts."""
        found: dict[str, Vector] = {}
        if (cache := self.cache) is None:
            return found
        for text, part in zip(question.texts, question.parts, strict=True):
            read = (cache.read(key, vector_of, question.prepared.config.cache) for key in question.keys(part))
            vector = next(filter(None, read), None)
            if vector is not None:
                found[text] = vector
        return found

    def model_part(self, config: LLMConfig, one: Selected, *, seen: str | None = None) -> str:
        """With the digest that a local model was last seen with, which is kept beside the answers."""
        if not one.provider.local or one.model.digest or self.cache is None:
            return cache_key.model_part(one.model, one.provider, None)
        key = cache_key.digest_key(one.model, one.provider)
        noted = self.cache.read(key, str, config.cache)
        if seen is not None and noted != seen:
            self.cache.write(key, seen, config.cache, task=None)
        return cache_key.model_part(one.model, one.provider, seen or noted)


def pieces_of(result: Answer[Any] | Embeddings) -> Iterator[str]:
    """The words of a stored answer, as a stream would bring them."""
    text = result.text if isinstance(result, Answer) else ""
    return (found[0] for found in re.finditer(_PIECE, text)) if text.strip() else iter((text,) if text else ())
