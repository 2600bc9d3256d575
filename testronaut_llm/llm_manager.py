"""The surface: `LLMManager` answers tasks, from Python code with or without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from testronaut_llm.call_builder import Prompt, build_call, texts_to_embed
from testronaut_llm.config_source import ConfigSource
from testronaut_llm.engine import Engine
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.records import Answer, CacheMode, Call, Embeddings, Route, T
from testronaut_llm.streams import AsyncStream, Stream

if TYPE_CHECKING:
    from testronaut_llm.call_flow import Flow
    from testronaut_llm.model_config import LLMConfig

Accept = Callable[[Answer[Any]], bool]


class LLMManager:
    """Answers the tasks of one `llm.yaml`. Safe for threads and tasks; close it, or use it in `with`.

    Arguments that the call methods share: `task` is a name from the file (None: `default`), `prompt` a text
    or messages in OpenAI's form, `schema` a pydantic class, a type or a JSON Schema for `.parsed`, `accept` a
    function that says whether the answer is good enough, `model` an alias that overrides the route, `cache`
    one of `use`, `refresh`, `off` and `only`, `sample` asks again for another, still cached, answer,
    `max_cost` is USD for all attempts together, `timeout` seconds for one attempt, `deadline` seconds for
    everything, `extra` fields that the provider gets untouched, `metadata` goes to telemetry. What is not
    given comes from the task.

    Args:
        path: the file; found as documented if not given.
        config: made in Python, in place of a file.

    Raises:
        ConfigError: the configuration is wrong; with every fault, and its line.
    """

    def __init__(self, path: str | Path | None = None, *, config: LLMConfig | None = None) -> None:
        if path is not None and config is not None:
            raise ConfigError("both a path and config= were given; expected one of them")
        if config is not None and config.budget is not None and config.budget_scope() is None:
            raise ConfigError(
                "config= has a budget without `scope`; say whose money it is: budget={'scope': 'my-app', ...}"
            )
        self._engine = Engine(ConfigSource.of(config) if config is not None else ConfigSource.find(path))

    @property
    def config(self) -> LLMConfig:
        """The configuration as it is now; edits of the file show up here."""
        return self._engine.source.current()

    def complete(
        self,
        task: str | None,
        prompt: Prompt,
        *,
        system: str | None = None,
        schema: type[T] | Mapping[str, Any] | None = None,
        accept: Accept | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        cache: CacheMode | None = None,
        sample: int = 0,
        max_cost: Decimal | float | str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        extra: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Answer[T]:
        """Asks until an answer is accepted.

        Raises:
            LLMError: see `testronaut_llm.errors` for the tree.
        """
        given = dict(locals())
        answer: Answer[T] = _result(self._pieces(given, stream=False))
        return answer

    async def acomplete(
        self,
        task: str | None,
        prompt: Prompt,
        *,
        system: str | None = None,
        schema: type[T] | Mapping[str, Any] | None = None,
        accept: Accept | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        cache: CacheMode | None = None,
        sample: int = 0,
        max_cost: Decimal | float | str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        extra: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Answer[T]:
        """`complete` on the caller's event loop."""
        given = dict(locals())
        answer: Answer[T] = await self._last(self._apieces(given, stream=False))
        return answer

    def stream(
        self,
        task: str | None,
        prompt: Prompt,
        *,
        system: str | None = None,
        schema: type[T] | Mapping[str, Any] | None = None,
        accept: Accept | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        cache: CacheMode | None = None,
        sample: int = 0,
        max_cost: Decimal | float | str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        extra: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Stream[T]:
        """An iterator of pieces of text; `.answer` at its end. Sends at the first piece."""
        given = dict(locals())
        return Stream(lambda: self._pieces(given, stream=True))

    def astream(
        self,
        task: str | None,
        prompt: Prompt,
        *,
        system: str | None = None,
        schema: type[T] | Mapping[str, Any] | None = None,
        accept: Accept | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        cache: CacheMode | None = None,
        sample: int = 0,
        max_cost: Decimal | float | str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        extra: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncStream[T]:
        """The same for `async for`; there is no `await` before it."""
        given = dict(locals())
        return AsyncStream(lambda: self._apieces(given, stream=True))

    def embed(
        self,
        task: str | None,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        max_cost: Decimal | float | str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        cache: CacheMode | None = None,
        extra: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Embeddings:
        """One vector a text.

        Raises:
            LLMError: see `testronaut_llm.errors` for the tree.
        """
        given = dict(locals())
        embeddings: Embeddings = _result(self._pieces(given, stream=False))
        return embeddings

    async def aembed(
        self,
        task: str | None,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        max_cost: Decimal | float | str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        cache: CacheMode | None = None,
        extra: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Embeddings:
        """`embed` on the caller's event loop."""
        given = dict(locals())
        embeddings: Embeddings = await self._last(self._apieces(given, stream=False))
        return embeddings

    def route(self, task: str | None, prompt: Prompt = "", *, model: str | None = None, schema: Any = None) -> Route:
        """A dry run: every candidate with tokens, cost, kept or dropped, and why. Sends nothing.

        Raises:
            ConfigError: the task or the model is unknown.
        """
        config = self.config
        settings = config.task(task)
        call = build_call(settings, prompt or "?", model=model, schema=schema)
        return self._engine.route(config, settings, call, self._engine.selected(config, settings, model), dry=True)

    def dropped_params(self, model: str) -> tuple[str, ...]:
        """Settings of tasks (`temperature`, `seed`, `stop`) that a model does not take and is asked without.

        Raises:
            ConfigError: the model is unknown.
        """
        return self._engine.not_taken(self.config.model(model))

    def is_embedding(self, model: str) -> bool:
        """Does the model make vectors instead of text, as far as the tables know?

        Raises:
            ConfigError: the model is unknown.
        """
        return self._engine.prices.facts(self.config.model(model)).mode == "embedding"

    def close(self) -> None:
        """Closes connections and ends embedded models."""
        self._engine.close()

    async def aclose(self) -> None:
        """The same from an event loop, with its connections."""
        await self._engine.aclose()

    def __enter__(self) -> LLMManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> LLMManager:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def _flow(self, given: dict[str, Any], *, stream: bool) -> tuple[Call, Route, Flow]:
        options = {name: value for name, value in given.items() if name not in ("self", "task", "prompt", "texts")}
        config = self.config
        settings = config.task(given["task"])
        texts = texts_to_embed(given["texts"]) if "texts" in given else ()
        call = build_call(settings, "\n".join(texts) or given["prompt"], stream=stream, **options)
        try:
            return call, *self._engine.flow(config, settings, call, texts)
        except LLMError as error:
            self._engine.telemetry.failed(call, error)
            raise

    def _pieces(self, given: dict[str, Any], *, stream: bool) -> Generator[str, None, Any]:
        call, route, flow = self._flow(given, stream=stream)
        from testronaut_llm.performers import drive

        try:
            result = yield from drive(flow, self._engine.gateway)
        except LLMError as error:
            self._engine.telemetry.failed(call, error)
            raise
        return self._engine.accepted(call, result, route)

    async def _apieces(self, given: dict[str, Any], *, stream: bool) -> AsyncIterator[Any]:
        call, route, flow = await asyncio.to_thread(self._flow, given, stream=stream)
        from testronaut_llm.performers import adrive

        try:
            async for piece in adrive(flow, self._engine.gateway):
                yield piece if isinstance(piece, str) else self._engine.accepted(call, piece, route)
        except LLMError as error:
            self._engine.telemetry.failed(call, error)
            raise

    async def _last(self, pieces: AsyncIterator[Any]) -> Any:
        result: Any = None
        async for piece in pieces:
            result = piece
        return result


def _result(pieces: Generator[str, None, Any]) -> Any:
    while True:
        try:
            next(pieces)
        except StopIteration as stop:
            return stop.value
