"""A manager whose models answer by rule: routing, fallback, cost, schemas and streams are the real ones.

::

    llm = FakeLLM()
    llm.reply("It lists files.", task="cli_analysis")
    llm.reply(RateLimitError("slow down"), "at last")         # one after the other
    llm.complete("cli_analysis", "What does ls do?").text      # "It lists files."
    llm.calls[0].prompt                                        # "What does ls do?"
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.errors import BadResponseError, LLMError
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import EmbedRequest, Reply, Request, Target
from testronaut_llm.gateway.provider_errors import failure_of
from testronaut_llm.llm_manager import LLMManager
from testronaut_llm.records import Usage
from testronaut_llm.testing.fake_rules import FakeAnswer, FakeCall, Rule, Rules, Says, Vectors

Asked = Request | EmbedRequest

_DIMENSIONS = 8
_PIECE = re.compile(r"\S*\s*")


class FakeLLM(LLMManager):
    """An `LLMManager` for tests. It sends nothing, needs no key and writes nothing.

    Args:
        path: an `llm.yaml` whose models, tasks and prices apply; without it, one free model named `fake` does the
            task `default` and any `tasks`.
        config: the same, made in Python.
        tasks: names of further tasks for the model `fake`.
    """

    def __init__(
        self, path: str | Path | None = None, *, config: LLMConfig | None = None, tasks: tuple[str, ...] = ()
    ) -> None:
        self._rules = Rules()
        made = config if config or path else _one_free_model(tasks)
        super().__init__(path, config=made, gateway=_FakeGateway(self._rules), offline=True)

    @property
    def calls(self) -> list[FakeCall]:
        """Every request that a model got, in order; retries, repairs and fallbacks too."""
        return self._rules.calls

    def reply(
        self, *answers: Says, task: str | None = None, model: str | None = None, prompt: str | None = None
    ) -> None:
        """Answer like this from now on. The rule that was added last and fits goes first.

        Args:
            answers: one after the other, the last one again and again. A text; an instance of the schema, or plain
                JSON for it; an error to raise; a `FakeAnswer` for usage, finish or delay; or a function of the
                `FakeCall` that returns one of these.
            task: for this task only.
            model: for this alias only.
            prompt: for prompts in which this regular expression is found.
        """
        pattern = re.compile(prompt) if prompt is not None else None
        self._rules.add(Rule(answers=list(answers or ("",)), task=task, model=model, prompt=pattern))


class _FakeGateway:
    """What `Gateway` does, with rules in place of servers."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def load(self) -> None:
        """LiteLLM stays where it is."""

    def dropped_params(self, _target: Target, _params: dict[str, Any]) -> tuple[str, ...]:
        """A fake takes every setting."""
        return ()

    async def send(self, request: Asked, exchange: Exchange) -> AsyncIterator[str | Reply]:
        """Pieces if it is a stream, then the Reply."""
        exchange.requests += 1
        for delay, part in self._parts(request):
            if delay:
                await asyncio.sleep(delay)
            yield part

    async def aclose(self) -> None:
        """Nothing is open."""

    def _parts(self, request: Asked) -> Iterator[tuple[float, str | Reply]]:
        model, task = request.target.model, request.task
        if isinstance(request, EmbedRequest):
            call = FakeCall(task=task, model=model.alias, texts=request.texts)
            said = self._rules.answer(call, wrapped=False)
            yield _ended(said, _vectors(said, request.texts), len("".join(request.texts)), model.name)
            return
        schema = request.schema
        call = FakeCall(
            task=task,
            model=model.alias,
            messages=request.messages,
            schema=schema.schema if schema else None,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
        )
        said = self._rules.answer(call, wrapped=schema is not None and schema.wrapped)
        if request.stream and isinstance(said, FakeAnswer):
            yield from ((said.delay, piece) for piece in _PIECE.findall(said.text) if piece)
        yield _ended(said, (), sum(len(message.content) for message in request.messages), model.name)


def _ended(said: FakeAnswer | LLMError, vectors: Vectors, asked: int, model: str) -> tuple[float, Reply]:
    if isinstance(said, LLMError):
        return 0.0, Reply(error=said)
    usage = said.usage or Usage(prompt_tokens=_tokens(asked), completion_tokens=_tokens(len(said.text)))
    told = Reply(text=said.text, finish_reason=said.finish_reason, usage=usage, response_model=model, vectors=vectors)
    return said.delay, replace(told, error=None if vectors else _refused(said))


def _refused(said: FakeAnswer) -> LLMError | None:
    """The failures that the gateway sees in a complete response."""
    if failure := failure_of(said.finish_reason):
        return failure
    if said.finish_reason != "length" and not said.text.strip():
        return BadResponseError(f"the answer is empty (finish reason {said.finish_reason})")
    return None


def _tokens(characters: int) -> int:
    return max(1, characters // 4)


def _vectors(said: FakeAnswer | LLMError, texts: tuple[str, ...]) -> Vectors:
    if isinstance(said, FakeAnswer) and said.vectors is not None:
        return said.vectors
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return tuple(tuple(byte / 127.5 - 1 for byte in digest[:_DIMENSIONS]) for digest in digests)


def _one_free_model(tasks: tuple[str, ...]) -> LLMConfig:
    model = {"model": "openai/fake", "price": {"input": 0, "output": 0}, "quality": 10}
    named = {name: {"models": ["fake"]} for name in ("default", *tasks)}
    return LLMConfig.model_validate({"version": 1, "models": {"fake": model}, "tasks": named})
