"""What a manager is besides its calls: configuration, what it knows of models, its end, how arguments get an answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from testronaut_llm.calls.answering import Answering, Question, pieces_of
from testronaut_llm.calls.builder import Prompt, build_call, texts_to_embed
from testronaut_llm.calls.engine import Engine
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.records import Answer, Call, Route
from testronaut_llm.task_router import select

if TYPE_CHECKING:
    from testronaut_llm.accounting.report import Spend
    from testronaut_llm.calls.comparison import Comparison
    from testronaut_llm.calls.steps import Result
    from testronaut_llm.ledger import Session
    from testronaut_llm.model_config import LLMConfig

_NO_OPTIONS = frozenset(("self", "task", "prompt", "prompts", "texts", "models", "concurrency", "on_progress"))


class ManagerBase:
    """Holds the configuration and the engine, and runs single calls whose arguments are given as a mapping.

    Args:
        path: the file; found as documented if not given.
        config: made in Python, in place of a file.

    Raises:
        ConfigError: the configuration is wrong; with every fault, and its line.
    """

    def __init__(self, path: str | Path | None = None, *, config: LLMConfig | None = None) -> None:
        if path is not None and config is not None:
            raise ConfigError("both a path and config= were given; expected one of them")
        if config is not None and _has_budget(config) and config.budget_scope() is None:
            raise ConfigError(
                "config= has a budget without `scope`; say whose money it is: budget={'scope': 'my-app', ...}"
            )
        self._engine = Engine(ConfigSource.of(config) if config is not None else ConfigSource.find(path))

    @cached_property
    def _answering(self) -> Answering:
        return Answering(self._engine)

    @property
    def config(self) -> LLMConfig:
        """The configuration as it is now; edits of the file show up here."""
        return self._engine.source.current()

    def route(self, task: str | None, prompt: Prompt = "", *, model: str | None = None, schema: Any = None) -> Route:
        """A dry run: every candidate with tokens, cost, kept or dropped, and why. Sends nothing.

        Raises:
            ConfigError: the task or the model is unknown.
        """
        from testronaut_llm.calls.plan import route_of

        config = self.config
        settings = config.task(task)
        call = build_call(settings, prompt or "?", model=model, schema=schema)
        return route_of(self._engine, config, settings, call, select(config, model, settings), dry=True)

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

    def warm_up(self, *models: str) -> None:
        """Does now what the first call would wait for: loads LiteLLM, and these local models into memory.

        Args:
            models: names of `llm.yaml`, or `provider/name`; a model of the cloud needs no warming.

        Raises:
            ConfigError: a model is unknown.
            LocalModelError: it is not here, or cannot be loaded.
        """
        config = self.config
        rows = [config.model(name) for name in models]
        self._engine.gateway.load()
        for row in rows:
            self._engine.load_local(row, trusted=config.trusted)

    def spend(self, since: str | date | None = None) -> Spend:
        """What was spent and saved with this file's money, by day, task and model, and what its limits leave.

        Args:
            since: the first UTC day to count, or a time that has passed, such as `7d`; all if not given.

        Raises:
            ConfigError: `since` is no such thing, or the ledger cannot be used.
        """
        from testronaut_llm.accounting.report import first_day, report
        from testronaut_llm.calls.budgets import all_limits, scope_of

        config, ledger = self.config, self._engine.ledger
        first = first_day(since, ledger.clock())
        return report(ledger, scope_of(config), since=first, limits=all_limits(config))

    def prune_history(self, older_than: str | date) -> int:
        """Forgets the single requests before a UTC day, or older than a time such as `90d`; every sum stays.

        Returns how many went, of all scopes.

        Raises:
            ConfigError: `older_than` is no such thing, or the ledger cannot be used.
        """
        from testronaut_llm.accounting.report import first_day, prune

        ledger = self._engine.ledger
        return prune(ledger, first_day(older_than, ledger.clock()) or "")

    def answer_each(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        on_answer: Callable[[int, Answer[Any] | LLMError], object],
        *,
        concurrency: int = 8,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`batch` for more prompts than fit into memory: no result is kept.

        Args:
            task: as in `complete`.
            prompts: read as far as the calls have come.
            on_answer: is given the place of a prompt and its result, in this thread, as soon as it is there.
            concurrency: calls at once.
            options: further arguments of `complete`, which all calls share.

        Raises:
            LLMError: an argument that all calls share is wrong.
        """
        from testronaut_llm.calls.batch import prompt_jobs, run_each

        jobs, _ = prompt_jobs(prompts)
        run_each(self._each({"task": task, **(options or {})}), jobs, concurrency=concurrency, finished=on_answer)

    @property
    def session(self) -> Session:
        """What this manager's own calls cost and saved so far, in USD."""
        return self._engine.ledger.session

    def close(self) -> None:
        """Closes connections and ends embedded models."""
        self._answering.close()
        self._engine.close()

    async def aclose(self) -> None:
        """The same from an event loop, with its connections."""
        self._answering.close()
        await self._engine.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def _look(
        self, given: dict[str, Any], *, stream: bool
    ) -> tuple[Call, Callable[[], tuple[Question, Result | None]]]:
        """The call, and what looks whether its answer is stored."""
        options = {name: value for name, value in given.items() if name not in _NO_OPTIONS}
        config = self.config
        settings = config.task(given["task"])
        texts = texts_to_embed(given["texts"]) if "texts" in given else ()
        call = build_call(settings, "\n".join(texts) or given["prompt"], stream=stream, **options)

        def look() -> tuple[Question, Result | None]:
            with self._told(call, given):
                question = self._answering.question(config, settings, call, texts)
                return question, self._answering.stored(question)

        return call, look

    def _pieces(self, given: dict[str, Any], *, stream: bool) -> Generator[str, None, Any]:
        question, result = self._look(given, stream=stream)[1]()
        if result is not None:
            if stream:
                yield from pieces_of(result)
            return result
        from testronaut_llm.calls.performers import drive

        with self._told(question.call, given):
            return (yield from drive(self._answering.flow(question), self._engine.gateway))

    async def _apieces(self, given: dict[str, Any], *, stream: bool) -> AsyncIterator[Any]:
        import asyncio

        call, look = self._look(given, stream=stream)
        question, result = look() if self._answering.is_quick(call) else await asyncio.to_thread(look)
        if result is not None:
            for word in pieces_of(result) if stream else ():
                yield word
            yield result
            return
        from testronaut_llm.calls.performers import adrive

        with self._told(question.call, given):
            # Left early, a generator does not close the one it reads from: the call would be settled some time later.
            async with aclosing(adrive(self._answering.flow(question), self._engine.gateway)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        yield piece
                    else:
                        result = piece
        yield result

    @contextmanager
    def _told(self, call: Call, given: Mapping[str, Any]) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except LLMError as error:
            self._engine.telemetry.failed(call, error, embedding="texts" in given)
            raise
        except BaseException as error:  # closed early, ctrl-C, cancelled
            if not isinstance(error, Exception):
                self._engine.telemetry.left(call, time.monotonic() - began)
            raise

    async def _last(self, pieces: AsyncIterator[Any]) -> Any:
        result: Any = None
        async for piece in pieces:
            result = piece
        return result

    def _each(self, given: dict[str, Any]) -> Callable[[Mapping[str, Any]], Awaitable[Answer[Any]]]:
        """What asks one of many: the arguments that differ go in, an answer comes out.

        Raises:
            LLMError: the arguments that all share are wrong.
        """
        options = {name: value for name, value in given.items() if name not in _NO_OPTIONS}
        build_call(self.config.task(given["task"]), "?", **options)

        async def ask(differing: Mapping[str, Any]) -> Answer[Any]:
            answer: Answer[Any] = await self._last(self._apieces({**given, **differing}, stream=False))
            return answer

        return ask

    def _comparison(self, given: dict[str, Any]) -> tuple[Iterator[Mapping[str, Any]], Callable[[Any], Comparison]]:
        """The calls that compare models, and what puts their results side by side.

        Raises:
            LLMError: a model is unknown, or a prompt is none.
        """
        from testronaut_llm.calls.comparison import comparison_jobs, comparison_of, models_of, prompts_of

        asked, names = prompts_of(given["prompt"]), models_of(given["models"])
        for name in names:
            self.config.model(name)
        put = partial(comparison_of, given["task"], asked, names, schema=given["schema"] is not None)
        return comparison_jobs(asked, names), put


def _has_budget(config: LLMConfig) -> bool:
    from testronaut_llm.calls.budgets import limits_of

    return config.budget is not None or any(limits_of(config, task) for task in config.tasks.values())


def result_of(pieces: Generator[str, None, Any]) -> Any:
    """What a generator returns, whatever it yields."""
    while True:
        try:
            next(pieces)
        except StopIteration as stop:
            return stop.value
