"""One call on its way to its answer: its prompt, what it shares with others, and what its answers are known by."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from testronaut_llm.caching import key as cache_key
from testronaut_llm.records import Accept, Call, Message

if TYPE_CHECKING:
    from testronaut_llm.calls.prepared import Prepared


@dataclass(slots=True, kw_only=True, eq=False)
class Question:
    """A key is made of one of `parts` and one of `models`.

    Attributes:
        texts: what to embed; none for a chat.
        parts: of the call; of each text where it is to be embedded. None: nothing is looked up or stored.
        models: of each candidate.
        started: seconds, on the clock that never goes back.
    """

    prepared: Prepared
    messages: tuple[Message, ...]
    texts: tuple[str, ...] = ()
    accept: Accept | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)
    _call: Call | None = None

    @property
    def call(self) -> Call:
        """The same as the value that flows on; a hit that nobody listens to needs none."""
        if self._call is None:
            of_this = {"messages": self.messages, "accept": self.accept, "metadata": self.metadata}
            self._call = Call(**{**self.prepared.fields, **of_this})
        return self._call

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
