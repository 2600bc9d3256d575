"""A manager whose models answer by rules; routing, fallback, cost, schemas and streams are real.

::

    llm = FakeLLM()
    llm.reply("It lists files.", task="cli_analysis")
    llm.reply(RateLimitError("slow down"), "at last")         # one after the other
    llm.complete("cli_analysis", "What does ls do?").text      # "It lists files."
    llm.calls[0].prompt                                        # "What does ls do?"
"""

import asyncio
import copy
import hashlib
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.errors import BadResponseError, LLMError
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply, Request, Target
from testronaut_llm.gateway.provider_errors import failure_of
from testronaut_llm.llm_manager import LLMManager
from testronaut_llm.records import Message, Usage

Vectors = tuple[tuple[float, ...], ...]

_DIMENSIONS = 8
_PIECE = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeCall:
    """One request to a fake model. `schema` is its JSON Schema, `texts` are the texts to embed."""

    task: str
    model: str
    messages: tuple[Message, ...] = ()
    texts: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None

    @property
    def prompt(self) -> str:
        """The content of the last message, or the texts to embed."""
        return self.messages[-1].content if self.messages else "\n".join(self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeAnswer:
    """An answer with details; `delay` is in seconds before the answer, or before each piece of a stream.

    A `finish_reason` is `stop`, `length` or `content_filter`. None stands for usage by length, and vectors by text.
    """

    text: str = ""
    finish_reason: str = "stop"
    usage: Usage | None = None
    delay: float = 0.0
    vectors: Vectors | None = None


Content = str | BaseModel | Mapping[str, Any] | Sequence[Any] | LLMError | FakeAnswer
"""An answer of a rule: text, an instance of the schema or plain JSON for it, an error to raise, or all details."""
Says = Content | Callable[[FakeCall], Content]


class NoRuleError(LLMError):
    """No rule matches a request to a fake model."""

    code = "no_rule"


class _Rule(NamedTuple):
    """Answers for matching calls."""

    answers: list[Says]
    task: str | None
    model: str | None
    prompt: re.Pattern[str] | None

    def fits(self, call: FakeCall) -> bool:
        if self.task not in (None, call.task) or self.model not in (None, call.model):
            return False
        return self.prompt is None or self.prompt.search(call.prompt) is not None


class FakeGateway:
    """Answers by rules, instead of `Gateway`, which sends requests through LiteLLM. Safe for threads."""

    def __init__(self) -> None:
        self.calls: list[FakeCall] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def reply(
        self, *answers: Says, task: str | None = None, model: str | None = None, prompt: str | None = None
    ) -> None:
        """Adds a rule. Of several rules that match a request, the last added one answers.

        Args:
            answers: `Content`, or functions of the `FakeCall` that return it; the last one repeats.
            task: for this task only.
            model: for this alias only.
            prompt: for prompts that match this regular expression (anywhere).
        """
        rule = _Rule(list(answers or ("",)), task, model, None if prompt is None else re.compile(prompt))
        with self._lock:
            self._rules.insert(0, rule)

    def load(self) -> None:
        """Loads nothing: LiteLLM is not needed."""

    def dropped_params(self, _target: Target, _params: dict[str, Any]) -> tuple[str, ...]:
        """Returns (): a fake model supports every setting."""
        return ()

    async def aclose(self) -> None:
        """Closes nothing: no connection is open."""

    async def send(self, request: Request, exchange: Exchange) -> AsyncIterator[str | Reply]:
        """Yields pieces of text if it is a stream, then the Reply."""
        exchange.requests += 1
        call = _call_of(request)
        said = self._answer(call, wrapped=bool(request.schema and request.schema.wrapped))
        if isinstance(said, LLMError):
            yield Reply(error=said)
            return
        if request.stream:
            for piece in _PIECE.findall(said.text):
                await asyncio.sleep(said.delay)
                yield piece
        await asyncio.sleep(said.delay)
        yield _reply(said, call, request.target.model.name)

    def _answer(self, call: FakeCall, *, wrapped: bool) -> FakeAnswer | LLMError:
        with self._lock:
            self.calls.append(call)
            answers = next((rule.answers for rule in self._rules if rule.fits(call)), None)
            said = None if answers is None else answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(said):
            said = said(call)
        if said is None:
            return NoRuleError(
                f"no rule answers task {call.task!r}, model {call.model!r}, prompt {call.prompt[:80]!r}; "
                f'add one: llm.reply("...", task={call.task!r})'
            )
        if isinstance(said, LLMError):
            return copy.copy(said)
        if isinstance(said, FakeAnswer):
            return said
        if not isinstance(said, str):
            plain = TypeAdapter(Any).dump_python(said, mode="json")
            said = json.dumps({"result": plain} if wrapped else plain, ensure_ascii=False)
        return FakeAnswer(text=said)


class FakeLLM(LLMManager):
    """An `LLMManager` for tests. It sends nothing, needs no key and writes nothing.

    Args:
        path: an `llm.yaml` whose models, tasks and prices apply; without it, one free model named `fake` does the
            task `default` and any `tasks`.
        config: the same, written in Python.
        tasks: names of further tasks for the model `fake`.

    Attributes:
        reply: adds a rule, see `FakeGateway.reply`.
        calls: every request that a model got, in order; retries, repairs and fallbacks too.
    """

    def __init__(
        self, path: str | Path | None = None, *, config: LLMConfig | None = None, tasks: tuple[str, ...] = ()
    ) -> None:
        if config is None and path is None:
            model = {"model": "openai/fake", "price": {"input": 0, "output": 0}, "quality": 10}
            named = {name: {"models": ["fake"]} for name in ("default", *tasks)}
            config = LLMConfig.model_validate({"version": 1, "models": {"fake": model}, "tasks": named})
        gateway = FakeGateway()
        super().__init__(path, config=config, gateway=gateway, offline=True)
        self.reply, self.calls = gateway.reply, gateway.calls


def _call_of(request: Request) -> FakeCall:
    return FakeCall(
        task=request.task,
        model=request.target.model.alias,
        messages=request.messages,
        texts=request.texts,
        schema=request.schema.schema if request.schema else None,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
    )


def _reply(said: FakeAnswer, call: FakeCall, model: str) -> Reply:
    """Returns the reply of the real gateway to such a response, with its errors."""
    asked = sum(len(message.content) for message in call.messages) + len("".join(call.texts))
    error: LLMError | None = None if call.texts else failure_of(said.finish_reason)
    if not call.texts and error is None and said.finish_reason != "length" and not said.text.strip():
        error = BadResponseError(f"the answer is empty (finish reason {said.finish_reason})")
    vectors = said.vectors or tuple([_vector(text) for text in call.texts])
    prompt_tokens, completion_tokens = (max(1, characters // 4) for characters in (asked, len(said.text)))
    return Reply(
        text=said.text,
        finish_reason=said.finish_reason,
        usage=said.usage or Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens),
        response_model=model,
        vectors=vectors,
        error=error,
    )


def _vector(text: str) -> tuple[float, ...]:
    """Returns a vector that depends on the text alone."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return tuple([byte / 127.5 - 1 for byte in digest[:_DIMENSIONS]])
