"""The stored answers as the calls of one manager see them: looked up, kept, and counted as hits."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.cache import key as cache_key
from testronaut_llm.cache.entry import Vector, answer_of, answer_value, vector_of, vector_values
from testronaut_llm.cache.entry import joined as all_vectors
from testronaut_llm.errors import CacheMissError
from testronaut_llm.records import Answer, Call, Embeddings, Message, Result

if TYPE_CHECKING:
    from testronaut_llm.cache.answer_cache import AnswerCache
    from testronaut_llm.money.ledger import Ledger
    from testronaut_llm.providers.provider_registry import Probes
    from testronaut_llm.routing.task_router import Selected
    from testronaut_llm.schema.output_schema import SchemaDialect
    from testronaut_llm.telemetry.redaction import Redactor
    from testronaut_llm.telemetry.telemetry import Telemetry

Emit = Callable[[str], None]
"""Takes a piece of a stream. It must not wait."""

_FEW = 20  # texts to embed
_PIECE = re.compile(r"\s*\S+\s*")


class Lookup:
    """Finds and keeps answers. Safe for threads and event loops.

    Args:
        cache: the store; None where nothing is kept.
        probes: knows the digests of local models.
        ledger: counts hits.
        telemetry: gets an event for each hit.
        redactor: knows the secrets of this process.
    """

    def __init__(
        self, cache: AnswerCache | None, probes: Probes, ledger: Ledger, telemetry: Telemetry, redactor: Redactor
    ) -> None:
        self.cache = cache
        self._probes, self._ledger, self._telemetry, self._redactor = probes, ledger, telemetry, redactor

    def is_quick(self, call: Call) -> bool:
        """True if a lookup takes microseconds, so that an event loop can do it."""
        if call.cache == "off" or self.cache is None:
            return True
        return self.cache.is_open and len(call.texts) <= _FEW and call.accept is None and call.cache != "refresh"

    def find(self, call: Call) -> Result | None:
        """Returns the stored result, counted as a hit; None where a model has to be asked.

        Raises:
            CacheMissError: nothing is stored, and the call says `only`.
        """
        if call.cache == "refresh" and self.cache is not None:
            self.cache.drop(self._keys(call))
            return None
        result = self.find_stored(call) if call.cache != "refresh" else None
        if result is None and call.cache == "only":
            names = ", ".join(one.model.alias for one in call.candidates) or "its models"
            what = f"vectors of all {len(call.texts)} texts" if call.texts else "answer to this prompt"
            raise CacheMissError(
                f"{call.task}: cache is `only`, and no {what} of {names} with these settings is stored; "
                "ask once with cache `use`, or import a file that holds it: testronaut-llm cache import FILE"
            )
        return result

    async def afind(self, call: Call) -> Result | None:
        """`find` for an event loop, which never waits for the store or for code of the caller."""
        return self.find(call) if self.is_quick(call) else await asyncio.to_thread(self.find, call)

    def find_stored(self, call: Call) -> Result | None:
        """Returns the same for a call whose mode was looked at before."""
        if not self.keeps(call):
            return None
        result = self._vectors_found(call) if call.texts else self._answer_found(call)
        if result is None:
            return None
        self._ledger.hit(result.task, result.model, result.saved)
        self._telemetry.answered(call, result)
        return result

    def vectors(self, call: Call) -> dict[str, Vector]:
        """Returns the vectors that are stored, by their texts."""
        found: dict[str, Vector] = {}
        if self.cache is None or call.cache in ("off", "refresh"):
            return found
        models = self._models(call)
        for text, part in zip(call.texts, cache_key.parts_of(call, call.texts), strict=False):
            keys = (cache_key.hashed(part, model) for model in models)
            read = (self.cache.read(key, vector_of) for key in keys)
            vector = next(filter(None, read), None)
            if vector is not None:
                found[text] = vector
        return found

    def flight(self, call: Call) -> str | None:
        """Returns what the call has in common with every call that asks the same of the same models.

        None for a call that shares no request: one that is not stored, or wants a new answer.
        """
        if self.cache is None or call.cache != "use":
            return None
        parts = cache_key.parts_of(call, call.texts)
        return cache_key.hashed(*parts, *self._models(call)) if parts else None

    def keeps(self, call: Call) -> bool:
        """True if the result of a call is stored."""
        return self.cache is not None and call.cache != "off"

    def keep(self, call: Call, result: Result, dialect: SchemaDialect) -> None:
        """Stores an accepted result, unless it may be cut, or holds a secret that this process knows."""
        cache, parts = self.cache, cache_key.parts_of(call, call.texts)
        if cache is None or not parts:
            return
        one = next(one for one in call.candidates if one.model.alias == result.model)
        model = self._model_part(call, one, seen=self._probes.digest(one.model, one.provider))
        if isinstance(result, Embeddings):
            for part, value in zip(parts, vector_values(result, call.texts), strict=True):
                cache.write(cache_key.hashed(part, model), value, call.config.cache, task=call.task)
            return
        value = answer_value(result, dialect)
        if result.finish_reason == "stop" and not self._redactor.knows(cache_key.canonical(value)):
            cache.write(cache_key.hashed(parts[0], model), value, call.config.cache, task=call.task)

    def without(self, call: Call, found: dict[str, Vector]) -> Call:
        """Returns the call with the texts that have to be asked: each once, and none that was `found`."""
        if not call.texts or not self.keeps(call):
            return call
        texts = tuple([text for text in dict.fromkeys(call.texts) if text not in found])
        return replace(call, texts=texts, messages=tuple([Message(role="user", content=text) for text in texts]))

    def joined(self, call: Call, found: dict[str, Vector], asked: Result) -> Result:
        """Returns the vectors of all texts: those that were `found`, and those that were asked for."""
        if not isinstance(asked, Embeddings) or len(asked.vectors) == len(call.texts):
            return asked
        result = all_vectors(found, call.texts, asked, model=call.config.model(asked.model), task=call.task)
        if found:
            self._ledger.hit(result.task, result.model, result.saved)
        return result

    def _answer_found(self, call: Call) -> Answer[Any] | None:
        parts = cache_key.parts_of(call)
        if self.cache is None or not parts:
            return None
        for one in call.candidates:
            decode = partial(answer_of, call.task, call.output, one.model, call.started)
            answer = self.cache.read(cache_key.hashed(parts[0], self._model_part(call, one)), decode)
            if answer is not None and (call.accept is None or call.accept(answer)):
                return answer
        return None

    def _vectors_found(self, call: Call) -> Embeddings | None:
        found = self.vectors(call)
        if not call.candidates or len(found) < len(set(call.texts)):
            return None
        result = all_vectors(found, call.texts, None, model=call.candidates[0].model, task=call.task)
        return replace(result, latency=time.monotonic() - call.started)

    def _keys(self, call: Call) -> Iterator[str]:
        models = self._models(call)
        return (cache_key.hashed(part, model) for part in cache_key.parts_of(call, call.texts) for model in models)

    def _models(self, call: Call) -> list[str]:
        """Each candidate, as the keys say it."""
        return [self._model_part(call, one) for one in call.candidates]

    def _model_part(self, call: Call, one: Selected, *, seen: str | None = None) -> str:
        """A model with the digest that it was last seen with, if it is local; digests are kept beside the answers."""
        if not one.provider.local or one.model.digest or self.cache is None:
            return cache_key.model_part(one.model, one.provider, None)
        key = cache_key.digest_key(one.model, one.provider)
        noted = self.cache.read(key, str)
        if seen is not None and noted != seen:
            self.cache.write(key, seen, call.config.cache, task=None)
        return cache_key.model_part(one.model, one.provider, seen or noted)


def _pieces_of(result: Result) -> list[str]:
    text = result.text if isinstance(result, Answer) else ""
    return _PIECE.findall(text) if text.strip() else [text] if text else []


def emit_stored(result: Result, emit: Emit | None) -> None:
    """Hands over the words of a stored answer, if somebody wants them."""
    for piece in _pieces_of(result) if emit is not None else ():
        emit(piece)  # type: ignore[misc]  # there is one
