"""The surface: `LLMManager` answers tasks, from Python code with or without an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from testronaut_llm.calls.asking import Asking
from testronaut_llm.calls.engine import Engine
from testronaut_llm.calls.options import AllOptions, CallOptions, EmbedOptions, options_of, takes
from testronaut_llm.calls.question import Prompt, embedding_of, question_of
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.records import Answer, Embeddings, Route, Schema, T
from testronaut_llm.routing.task_router import select
from testronaut_llm.streams import AsyncStream, Stream
from testronaut_llm.support.lazy import lazy

if TYPE_CHECKING:
    from testronaut_llm.batch import Progress
    from testronaut_llm.compare import Comparison
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.money.ledger import Session
    from testronaut_llm.money.report import Spend


class LLMManager:
    """Answers the tasks of one `llm.yaml`. Safe for threads and tasks; close it, or use it in `with`.

    Arguments that the call methods share: `task` is a name from the file (None: `default`), `prompt` a text or
    messages in OpenAI's form, `schema` a pydantic class, a type or a JSON Schema for `.parsed`; for the others see
    `CallOptions`.

    Args:
        path: the file; found as documented if not given.
        config: made in Python, in place of a file.

    Raises:
        ConfigError: the configuration is wrong; with every fault, and its line.
    """

    def __init__(self, path: str | Path | None = None, *, config: LLMConfig | None = None) -> None:
        if path is not None and config is not None:
            raise ConfigError("both a path and config= were given; expected one of them")
        self._engine = Engine(ConfigSource.of(config) if config is not None else ConfigSource.find(path))

    @lazy
    def _asking(self) -> Asking:
        return Asking(self._engine)

    @property
    def config(self) -> LLMConfig:
        """The configuration as it is now; edits of the file show up here."""
        return self._engine.source.current()

    @takes(CallOptions)
    def complete(
        self, task: str | None, prompt: Prompt, *, schema: Schema[T] = None, **options: Unpack[CallOptions]
    ) -> Answer[T]:
        """Asks until an answer is accepted. Raises LLMError: see `testronaut_llm.errors` for the tree."""
        question = question_of(self.config, task, prompt, {**options, "schema": schema})
        answer: Answer[T] = self._asking.result(question)
        return answer

    @takes(CallOptions)
    async def acomplete(
        self, task: str | None, prompt: Prompt, *, schema: Schema[T] = None, **options: Unpack[CallOptions]
    ) -> Answer[T]:
        """`complete` on the caller's event loop."""
        question = question_of(self.config, task, prompt, {**options, "schema": schema})
        answer: Answer[T] = await self._asking.aresult(question)
        return answer

    @takes(CallOptions)
    def stream(
        self, task: str | None, prompt: Prompt, *, schema: Schema[T] = None, **options: Unpack[CallOptions]
    ) -> Stream[T]:
        """An iterator of pieces of text; `.answer` at its end. Sends at the first piece."""
        given: AllOptions = {**options, "schema": schema}
        return Stream(lambda: self._asking.pieces(question_of(self.config, task, prompt, given, stream=True)))

    @takes(CallOptions)
    def astream(
        self, task: str | None, prompt: Prompt, *, schema: Schema[T] = None, **options: Unpack[CallOptions]
    ) -> AsyncStream[T]:
        """The same for `async for`; there is no `await` before it."""
        given: AllOptions = {**options, "schema": schema}
        return AsyncStream(lambda: self._asking.apieces(question_of(self.config, task, prompt, given, stream=True)))

    @takes(EmbedOptions)
    def embed(self, task: str | None, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """One vector a text. Raises LLMError: see `testronaut_llm.errors` for the tree."""
        embeddings: Embeddings = self._asking.result(embedding_of(self.config, task, texts, options))
        return embeddings

    @takes(EmbedOptions)
    async def aembed(self, task: str | None, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """`embed` on the caller's event loop."""
        embeddings: Embeddings = await self._asking.aresult(embedding_of(self.config, task, texts, options))
        return embeddings

    @takes(CallOptions)
    def batch(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        on_progress: Progress | None = None,
        schema: Schema[T] = None,
        **options: Unpack[CallOptions],
    ) -> list[Answer[T] | LLMError]:
        """Asks many prompts, `concurrency` at once; the results in order, an error in place of a failed one.

        `prompts` may be a generator: it is read as far as the calls have come. `on_progress(done, total, result)`
        is called in this thread; `total` is None where `prompts` has no length.

        Raises LLMError: an argument that all calls share is wrong.
        """
        from testronaut_llm.batch import run_all

        ask = self._each(task, {**options, "schema": schema})
        return run_all(ask, prompts, concurrency=concurrency, on_progress=on_progress)

    @takes(CallOptions)
    async def abatch(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        on_progress: Progress | None = None,
        schema: Schema[T] = None,
        **options: Unpack[CallOptions],
    ) -> list[Answer[T] | LLMError]:
        """`batch` on the caller's event loop."""
        from testronaut_llm.batch import arun_all

        ask = self._each(task, {**options, "schema": schema})
        return await arun_all(ask, prompts, concurrency=concurrency, on_progress=on_progress)

    @takes(AllOptions)
    def answer_each(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        on_answer: Callable[[int, Answer[Any] | LLMError], object],
        *,
        concurrency: int = 8,
        options: Mapping[str, Any] | None = None,
        **more: Unpack[AllOptions],
    ) -> None:
        """`batch` for more prompts than fit into memory: no result is kept.

        `on_answer` is given the place of a prompt and its result, in this thread, as soon as it is there. `options`
        may hold arguments of `complete` as a mapping.

        Raises LLMError: an argument that all calls share is wrong.
        """
        from testronaut_llm.batch import run_each

        ask = self._each(task, {**options_of(options), **more})
        run_each(ask, prompts, concurrency=concurrency, finished=on_answer)

    @takes(AllOptions)
    def compare(
        self,
        task: str | None,
        prompt: Prompt | Sequence[Prompt],
        *,
        models: Sequence[str],
        concurrency: int = 4,
        **options: Unpack[AllOptions],
    ) -> Comparison:
        """Asks one prompt, or several, of each model; a model that fails does not stop the others.

        Raises LLMError: a model is unknown, or another argument is wrong.
        """
        from testronaut_llm.batch import run_all
        from testronaut_llm.compare import comparing

        ask, jobs, compared = comparing(self._each, task, prompt, models, options)
        return compared(run_all(ask, jobs, concurrency=concurrency))

    @takes(AllOptions)
    async def acompare(
        self,
        task: str | None,
        prompt: Prompt | Sequence[Prompt],
        *,
        models: Sequence[str],
        concurrency: int = 4,
        **options: Unpack[AllOptions],
    ) -> Comparison:
        """`compare` on the caller's event loop."""
        from testronaut_llm.batch import arun_all
        from testronaut_llm.compare import comparing

        ask, jobs, compared = comparing(self._each, task, prompt, models, options)
        return compared(await arun_all(ask, jobs, concurrency=concurrency))

    def _each(self, task: str | None, options: AllOptions) -> Callable[[Prompt], Awaitable[Answer[Any]]]:
        """Checks what many calls share, and returns what asks one prompt."""
        question_of(self.config, task, "?", options)

        async def ask(prompt: Prompt) -> Answer[Any]:
            answer: Answer[Any] = await self._asking.aresult(question_of(self.config, task, prompt, options))
            return answer

        return ask

    @takes(AllOptions)
    def route(self, task: str | None, prompt: Prompt = "", **options: Unpack[AllOptions]) -> Route:
        """A dry run: every candidate with tokens, cost, kept or dropped, and why. Sends nothing.

        Raises LLMError: the task or the model is unknown, or another argument is wrong.
        """
        from testronaut_llm.calls.plan import route_of

        asked = question_of(self.config, task, prompt or "?", options)
        selected = select(asked.config, asked.call.model, asked.task)
        return route_of(self._engine, asked.config, asked.task, asked.call, selected, dry=True)

    def dropped_params(self, model: str) -> tuple[str, ...]:
        """Settings of tasks (`temperature`, `seed`, `stop`) that a model is asked without, since it does not take them.

        Raises ConfigError: the model is unknown.
        """
        return self._engine.not_taken(self.config.model(model))

    def is_embedding(self, model: str) -> bool:
        """True if the model makes vectors, as far as the tables know. Raises ConfigError: it is unknown."""
        return self._engine.prices.facts(self.config.model(model)).mode == "embedding"

    def warm_up(self, *models: str) -> None:
        """Does now what the first call would wait for: loads LiteLLM, and these local models into memory.

        `models` are names of `llm.yaml`, or `provider/name`; a model of the cloud needs no warming.
        Raises ConfigError: a model is unknown. Raises LocalModelError: it is not here, or cannot be loaded.
        """
        rows = [self.config.model(name) for name in models]
        self._engine.gateway.load()
        for row in rows:
            self._engine.local.load(row)

    def spend(self, since: str | date | None = None) -> Spend:
        """What was spent and saved with this file's money, by day, task and model, and what its limits leave.

        `since` is the first UTC day to count, or a time that has passed, such as `7d`; all if not given.
        Raises ConfigError: it is no such thing, or the ledger cannot be used.
        """
        from testronaut_llm.money.budgets import all_limits, scope_of
        from testronaut_llm.money.report import first_day, report

        config, ledger = self.config, self._engine.ledger
        first = first_day(since, ledger.clock())
        return report(ledger, scope_of(config), since=first, limits=all_limits(config))

    def prune_history(self, older_than: str | date) -> int:
        """Forgets the single requests before a UTC day, or older than a time such as `90d`; every sum stays.

        Returns how many went, of all scopes. Raises ConfigError: it is no such thing, or the ledger cannot be used.
        """
        from testronaut_llm.money.report import first_day, prune

        ledger = self._engine.ledger
        return prune(ledger, first_day(older_than, ledger.clock()) or "")

    @property
    def session(self) -> Session:
        """What this manager's own calls cost and saved so far, in USD."""
        return self._engine.ledger.session

    def close(self) -> None:
        """Closes connections and ends embedded models."""
        self._asking.close()
        self._engine.close()

    async def aclose(self) -> None:
        """The same from an event loop, with its connections."""
        self._asking.close()
        await self._engine.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
