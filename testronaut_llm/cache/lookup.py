"""Finds and stores answers for the calls of one manager, and counts hits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from testronaut_llm.cache import entry
from testronaut_llm.cache.entry import Vector, answer_of, answer_value, vector_of, vector_values
from testronaut_llm.cache.entry import joined as all_vectors
from testronaut_llm.errors import CacheMissError
from testronaut_llm.records import Answer, Call, Candidate, Embeddings, Result, merged

if TYPE_CHECKING:
    from testronaut_llm.cache.answer_cache import AnswerCache
    from testronaut_llm.local.readiness import Probes
    from testronaut_llm.money.ledger import Ledger
    from testronaut_llm.schema.output_schema import SchemaDialect
    from testronaut_llm.telemetry.redaction import Redactor
    from testronaut_llm.telemetry.telemetry import Telemetry

Emit = Callable[[str], None]
"""Receives a piece of a stream; must not block."""

_FEW = 20  # texts to embed
_PIECE = re.compile(r"\s*\S+\s*")


class Lookup:
    """Finds and stores answers; without a `cache` nothing is stored. Safe for threads and event loops."""

    def __init__(
        self, cache: AnswerCache | None, probes: Probes, ledger: Ledger, telemetry: Telemetry, redactor: Redactor
    ) -> None:
        self.cache = cache
        self._probes, self._ledger, self._telemetry, self._redactor = probes, ledger, telemetry, redactor
        self._asked: WeakKeyDictionary[Call, Sequence[str]] = WeakKeyDictionary()

    def is_quick(self, call: Call) -> bool:
        """True if a lookup takes microseconds, so that it may run on an event loop."""
        if self.cache is None or call.cache in ("off", "refresh"):
            return True
        return self.cache.is_open and len(call.texts) <= _FEW and call.accept is None

    def find(self, call: Call) -> Result | None:
        """Returns the stored result, counted as a hit; None if a model has to be asked.

        Raises:
            CacheMissError: nothing is stored, and the cache mode is `only`.
        """
        result = self._stored(call)
        if result is not None:
            self._ledger.hit(call.config.budget_scope() or "", result.task, result.model, result.saved)
            self._telemetry.answered(call, result)
        elif call.cache == "only":
            names = ", ".join(one.alias for one in call.candidates) or "its models"
            what = f"vectors of all {len(call.texts)} texts" if call.texts else "answer to this prompt"
            raise CacheMissError(
                f"{call.task}: cache is `only`, and no {what} of {names} with these settings is stored; "
                "ask once with cache `use`, or import a file that holds it: testronaut-llm cache import FILE"
            )
        return result

    def has(self, call: Call) -> bool:
        """True if a stored answer would be returned. It counts no hit and reports nothing."""
        return self._stored(call) is not None

    def _stored(self, call: Call) -> Result | None:
        if self.cache is None or call.cache not in ("use", "only") or not call.candidates:
            return None
        if call.texts:
            found = self.vectors(call)
            if len(found) < len(set(call.texts)):
                return None
            result = all_vectors(found, call.texts, None, model=call.candidates[0].row, task=call.task)
            return replace(result, latency=time.monotonic() - call.started, masked=call.masking.count)
        for part in self._parts(call):  # one, or none
            for one in call.candidates:
                key = entry.hashed(part, self._model_part(call, one))
                answer = self.cache.read(key, partial(_decoded, call, one))
                if answer is not None and (call.accept is None or call.accept(answer)):
                    return answer
        return None

    def close(self) -> None:
        """Closes the file of the cache."""
        if self.cache is not None:
            self.cache.close()

    def vectors(self, call: Call) -> dict[str, Vector]:
        """Returns the stored vectors by their texts."""
        found: dict[str, Vector] = {}
        if self.cache is None or call.cache in ("off", "refresh") or not call.texts:
            return found
        models = [self._model_part(call, one) for one in call.candidates]
        for text, part in zip(call.texts, self._parts(call), strict=False):
            for model in models:
                vector = self.cache.read(entry.hashed(part, model), vector_of)
                if vector is not None:
                    found[text] = vector
                    break
        return found

    def flight(self, call: Call) -> str | None:
        """Returns a value that is equal for identical calls to the same models.

        None for a call that shares no request: it is not stored, or needs a new answer.
        """
        if self.cache is None or call.cache != "use" or not (parts := self._parts(call)):
            return None
        return entry.hashed(*parts, *[self._model_part(call, one) for one in call.candidates])

    def drop(self, call: Call) -> None:
        """Deletes what is stored for a call, so that no other model's older answer is found later."""
        if self.cache is not None:
            models = [self._model_part(call, one) for one in call.candidates]
            self.cache.drop([entry.hashed(part, model) for part in self._parts(call) for model in models])

    def keeps(self, call: Call) -> bool:
        """True if the result of a call is stored."""
        return self.cache is not None and call.cache != "off"

    def keep(self, call: Call, one: Candidate, result: Result, dialect: SchemaDialect) -> None:
        """Stores the accepted result of a model, unless it may be cut or holds a known secret."""
        cache, parts = self.cache, self._parts(call)
        if cache is None or not parts:
            return
        seen = self._probes.seen(one.row, one.provider_row)
        model = self._model_part(call, one, seen=seen and seen.digest)
        if isinstance(result, Embeddings):
            values = vector_values(result, call.texts)
        else:
            text = call.masking.mask(result.text)
            values = [answer_value(replace(result, text=text), dialect)]
            if text != result.text:
                values[0].pop("logprobs", None)  # its tokens may be parts of a secret
            if result.finish_reason != "stop" or self._redactor.knows(entry.canonical(values[0])):
                return
        for part, value in zip(parts, values, strict=True):
            cache.write(entry.hashed(part, model), value, call.config.cache, task=call.task)

    def without(self, call: Call, found: dict[str, Vector]) -> Call:
        """Returns the call with only the texts to send: each once, without those `found`."""
        if not self.keeps(call):
            return call
        return call.with_texts([text for text in dict.fromkeys(call.texts) if text not in found])

    def joined(self, call: Call, found: dict[str, Vector], results: Sequence[Result]) -> Result:
        """Returns the vectors of all texts: those `found`, and those of the requests."""
        asked = merged([one for one in results if isinstance(one, Embeddings)])
        if len(asked.vectors) == len(call.texts):
            return asked
        result = all_vectors(found, call.texts, asked, model=call.config.model(asked.model), task=call.task)
        if found:
            self._ledger.hit(call.config.budget_scope() or "", result.task, result.model, result.saved)
        return result

    def _parts(self, call: Call) -> Sequence[str]:
        """Returns what a call asks, without its model: one part, or one per text; none if it cannot be stored."""
        if (parts := self._asked.get(call)) is None:
            parts = self._asked[call] = entry.parts_of(call, call.texts)
        return parts

    def _model_part(self, call: Call, one: Candidate, *, seen: str | None = None) -> str:
        """Returns a model's part of the key; that of a local model has its last seen digest, which is stored, too."""
        row, provider = one.row, one.provider_row
        if not provider.local or row.digest or self.cache is None:
            return entry.model_part(row, provider, None)
        key = entry.digest_key(row, provider)
        noted = self.cache.read(key, str)
        if seen is not None and noted != seen:
            self.cache.write(key, seen, call.config.cache, task=None)
        return entry.model_part(row, provider, seen or noted)


def _decoded(call: Call, one: Candidate, value: Any) -> Answer[Any]:
    """Returns a stored answer with the secrets of this call."""
    if call.masking.originals and isinstance(value, dict) and isinstance(value.get("text"), str):
        value = {**value, "text": call.masking.restore(value["text"], as_json=call.output is not None)}
    answer = answer_of(call.task, call.output, one.row, call.started, value)
    return replace(answer, masked=call.masking.count) if call.masking.count and one.secrets == "mask" else answer


def emit_stored(result: Result, emit: Emit) -> None:
    """Passes the text of a stored answer to `emit`, in pieces."""
    if isinstance(result, Answer) and result.text:
        for piece in _PIECE.findall(result.text) or [result.text]:
            emit(piece)
