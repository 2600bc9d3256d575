"""Which answer a fake model gives to which question: rules of a test, the last one that fits goes first."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter

from testronaut_llm.errors import LLMError
from testronaut_llm.records import Message, Usage

Vectors = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeCall:
    """One request that a fake model got. `schema` is the JSON Schema that went with it, `texts` what to embed."""

    task: str
    model: str
    messages: tuple[Message, ...] = ()
    texts: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None

    @property
    def prompt(self) -> str:
        """The last thing that the user said, or the texts to embed."""
        return self.messages[-1].content if self.messages else "\n".join(self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeAnswer:
    """An answer in full. What is None is made up: usage by length, vectors from the text.

    Attributes:
        text: what the model says.
        finish_reason: `stop`, `length` or `content_filter`.
        usage: tokens, for the cost.
        delay: seconds before the answer, or before each piece of a stream.
        vectors: of an embedding.
    """

    text: str = ""
    finish_reason: str = "stop"
    usage: Usage | None = None
    delay: float = 0.0
    vectors: Vectors | None = None


Content = str | BaseModel | Mapping[str, Any] | Sequence[Any] | LLMError | FakeAnswer
"""What a rule may answer: text, an instance of the schema or plain JSON for it, an error to raise, or all details."""
Says = Content | Callable[[FakeCall], Content]


@dataclass(slots=True, kw_only=True)
class Rule:
    """Answers for the calls that fit; one after the other, the last one again and again."""

    answers: list[Says]
    task: str | None = None
    model: str | None = None
    prompt: re.Pattern[str] | None = None

    def fits(self, call: FakeCall) -> bool:
        """Is this rule for this call?"""
        return (
            (self.task is None or self.task == call.task)
            and (self.model is None or self.model == call.model)
            and (self.prompt is None or self.prompt.search(call.prompt) is not None)
        )

    def next(self) -> Says:
        """The answer whose turn it is."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class NoRuleError(LLMError):
    """A fake model was asked something that no rule answers."""

    code = "no_rule"


class Rules:
    """All rules of one fake, and the calls that it got. Safe for threads."""

    def __init__(self) -> None:
        self.calls: list[FakeCall] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> None:
        """A rule that goes before those that are there."""
        with self._lock:
            self._rules.insert(0, rule)

    def answer(self, call: FakeCall, *, wrapped: bool) -> FakeAnswer | LLMError:
        """What to answer; `wrapped` when the schema's wire wants `{"result": ...}` around it."""
        with self._lock:
            self.calls.append(call)
            rule = next((rule for rule in self._rules if rule.fits(call)), None)
            said = rule.next() if rule else None
        if callable(said):
            said = said(call)
        if said is None:
            return NoRuleError(
                f"no rule answers task {call.task!r}, model {call.model!r}, prompt {call.prompt[:80]!r}; "
                f'add one: llm.reply("...", task={call.task!r})'
            )
        if isinstance(said, LLMError):
            return copy.copy(said)
        return said if isinstance(said, FakeAnswer) else FakeAnswer(text=_text(said, wrapped=wrapped))


def _text(said: str | BaseModel | Mapping[str, Any] | Sequence[Any], *, wrapped: bool) -> str:
    if isinstance(said, str):
        return said
    plain = TypeAdapter(Any).dump_python(said, mode="json")
    return json.dumps({"result": plain} if wrapped else plain, ensure_ascii=False)
