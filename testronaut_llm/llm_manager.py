"""The surface: `LLMManager` answers tasks, from Python code with or without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Self, Unpack, cast, overload

from testronaut_llm.batch import Outcome, Progress, Record, arun_each, run_each
from testronaut_llm.engine import Engine
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.options import call_of, embed_call_of, lists_options, takes
from testronaut_llm.prompts import Prompt, Prompts
from testronaut_llm.records import Answer, Embeddings, JsonSchema, Route, T
from testronaut_llm.streams import AsyncStream, Stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from testronaut_llm.classify import Classification
    from testronaut_llm.compare import Comparison
    from testronaut_llm.labels import L
    from testronaut_llm.money.ledger import Session
    from testronaut_llm.money.report import Spend
    from testronaut_llm.options import AllOptions, CallOptions, ClassifyOptions, EmbedOptions


@lists_options
class LLMManager(Engine):
    """Answers the tasks of one `llm.yaml`. Safe for threads and tasks; close it, or use it in `with`.

    Raises ConfigError if the configuration is wrong, with every error and its line. Arguments that the call methods
    share: `task` is a name from the file (None: `default`), `prompt` a text or messages (in OpenAI's form, or
    `Message`), `schema` a pydantic class, a type or a JSON Schema for `.parsed`; for the others see `CallOptions`.

    Args:
        path: the file; found as documented if not given.
        config: made in Python, in place of a file.
        gateway: sends the requests in place of LiteLLM, for tests; see `testronaut_llm.gateway.gateway.Gateway`.
        offline: for tests whose answers come from elsewhere: every model is ready without server and key, nothing is
            cached, nothing waits, and the ledger is in memory.
    """

    @overload
    def complete(
        self, task: str | None, prompt: Prompt, *, schema: TypeForm[T], **options: Unpack[CallOptions]
    ) -> Answer[T]: ...
    @overload
    def complete(
        self, task: str | None, prompt: Prompt, *, schema: JsonSchema[T] | None = None, **options: Unpack[CallOptions]
    ) -> Answer[T]: ...
    def complete(self, task: str | None, prompt: Prompt, **options: Unpack[AllOptions]) -> Answer[Any]:
        """Asks until an answer is accepted. Raises LLMError: see `testronaut_llm.errors` for the tree."""
        return cast("Answer[Any]", self._result(call_of(self.config, task, prompt, options)))

    @overload
    async def acomplete(
        self, task: str | None, prompt: Prompt, *, schema: TypeForm[T], **options: Unpack[CallOptions]
    ) -> Answer[T]: ...
    @overload
    async def acomplete(
        self, task: str | None, prompt: Prompt, *, schema: JsonSchema[T] | None = None, **options: Unpack[CallOptions]
    ) -> Answer[T]: ...
    async def acomplete(self, task: str | None, prompt: Prompt, **options: Unpack[AllOptions]) -> Answer[Any]:
        """`complete` for the caller's event loop."""
        return cast("Answer[Any]", await self._aresult(call_of(self.config, task, prompt, options)))

    @overload
    def stream(
        self, task: str | None, prompt: Prompt, *, schema: TypeForm[T], **options: Unpack[CallOptions]
    ) -> Stream[T]: ...
    @overload
    def stream(
        self, task: str | None, prompt: Prompt, *, schema: JsonSchema[T] | None = None, **options: Unpack[CallOptions]
    ) -> Stream[T]: ...
    def stream(self, task: str | None, prompt: Prompt, **options: Unpack[AllOptions]) -> Stream[Any]:
        """An iterator of pieces of text; `.answer` at its end. Sends at the first piece."""
        return Stream(self._begin(task, prompt, options))

    @overload
    def astream(
        self, task: str | None, prompt: Prompt, *, schema: TypeForm[T], **options: Unpack[CallOptions]
    ) -> AsyncStream[T]: ...
    @overload
    def astream(
        self, task: str | None, prompt: Prompt, *, schema: JsonSchema[T] | None = None, **options: Unpack[CallOptions]
    ) -> AsyncStream[T]: ...
    def astream(self, task: str | None, prompt: Prompt, **options: Unpack[AllOptions]) -> AsyncStream[Any]:
        """The same for `async for`; there is no `await` before it."""
        return AsyncStream(self._begin(task, prompt, options))

    def embed(self, task: str | None, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """One vector a text. Raises LLMError: see `testronaut_llm.errors` for the tree."""
        return cast("Embeddings", self._result(embed_call_of(self.config, task, texts, options)))

    async def aembed(self, task: str | None, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """`embed` for the caller's event loop."""
        return cast("Embeddings", await self._aresult(embed_call_of(self.config, task, texts, options)))

    @overload
    def classify(
        self, task: str | None, prompt: Prompt, labels: TypeForm[L], **options: Unpack[ClassifyOptions]
    ) -> Classification[L]: ...
    @overload
    def classify(
        self,
        task: str | None,
        prompt: Prompt,
        labels: Mapping[str, str] | Sequence[str],
        **options: Unpack[ClassifyOptions],
    ) -> Classification[str]: ...
    def classify(
        self, task: str | None, prompt: Prompt, labels: Any, **options: Unpack[ClassifyOptions]
    ) -> Classification[Any]:
        """Says which label fits, and how sure that is. Labels: texts, text to description, an `Enum` or a `Literal`."""
        running = self._caller.services.loop.start(self.aclassify(task, prompt, labels, **options))
        return cast("Classification[Any]", running.result())

    @overload
    async def aclassify(
        self, task: str | None, prompt: Prompt, labels: TypeForm[L], **options: Unpack[ClassifyOptions]
    ) -> Classification[L]: ...
    @overload
    async def aclassify(
        self,
        task: str | None,
        prompt: Prompt,
        labels: Mapping[str, str] | Sequence[str],
        **options: Unpack[ClassifyOptions],
    ) -> Classification[str]: ...
    async def aclassify(
        self, task: str | None, prompt: Prompt, labels: Any, **options: Unpack[ClassifyOptions]
    ) -> Classification[Any]:
        """`classify` for the caller's event loop."""
        from testronaut_llm.classify import classified

        ask, route = self._aresult, self._caller.services.route
        return await classified(self.config, task, prompt, labels, options, ask, route)

    def batch(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        on_progress: Progress | None = None,
        **options: Unpack[AllOptions],
    ) -> list[Outcome]:
        """Asks many prompts, `concurrency` at once; the results in order, an error in place of a failed one.

        `prompts` may be a generator, which is read as far as the calls have come; `total` of
        `on_progress(done, total, result)` is then None. Raises LLMError: an argument of all calls is wrong.
        """
        record = Record(prompts, on_progress)
        run_each(self._each(task, options), prompts, concurrency=concurrency, finished=record.add)
        return record.results

    async def abatch(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        on_progress: Progress | None = None,
        **options: Unpack[AllOptions],
    ) -> list[Outcome]:
        """`batch` for the caller's event loop."""
        record = Record(prompts, on_progress)
        await arun_each(self._each(task, options), prompts, concurrency=concurrency, finished=record.add)
        return record.results

    def answer_each(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        on_answer: Callable[[int, Outcome], object],
        *,
        concurrency: int = 8,
        options: Mapping[str, Any] | None = None,
        **more: Unpack[AllOptions],
    ) -> None:
        """`batch` that keeps no results: `on_answer` gets each and its place. `options`: more options, as a mapping."""
        if options is not None and not isinstance(options, Mapping):
            raise InvalidRequestError(f"options is {options!r:.60}; expected a mapping of options of a call")
        if not takes(on_answer, 2):
            raise InvalidRequestError(
                f"on_answer is {on_answer!r:.60}; expected a function of two arguments: place, result"
            )
        given = cast("AllOptions", {**(options or {}), **more})
        run_each(self._each(task, given), prompts, concurrency=concurrency, finished=on_answer)

    def compare(
        self,
        task: str | None,
        prompt: Prompts,
        *,
        models: Sequence[str],
        concurrency: int = 4,
        **options: Unpack[AllOptions],
    ) -> Comparison:
        """Asks one prompt, or several, of each model; a model that fails does not stop the others."""
        from testronaut_llm.compare import comparing

        asked = comparing(self._each, task, prompt, models, options)
        run_each(asked.start, asked.jobs, concurrency=concurrency, finished=asked.record.add)
        return asked.result()

    async def acompare(
        self,
        task: str | None,
        prompt: Prompts,
        *,
        models: Sequence[str],
        concurrency: int = 4,
        **options: Unpack[AllOptions],
    ) -> Comparison:
        """`compare` for the caller's event loop."""
        from testronaut_llm.compare import comparing

        asked = comparing(self._each, task, prompt, models, options)
        await arun_each(asked.start, asked.jobs, concurrency=concurrency, finished=asked.record.add)
        return asked.result()

    def route(self, task: str | None, prompt: Prompt = "", **options: Unpack[AllOptions]) -> Route:
        """A dry run: every candidate, its cost, and why. Sends nothing. `dropped_params`: after a call or `warm_up`."""
        return self._caller.services.route(call_of(self.config, task, prompt or "?", options), dry=True)

    def dropped_params(self, model: str) -> tuple[str, ...]:
        """Settings of tasks (`temperature`, `seed`, `stop`) that a model does not take, so is asked without."""
        given = {"temperature": 0.0, "seed": 1, "stop": ["x"]}
        return self._caller.services.dropped_params(self.config.model(model), given)

    def warm_up(self, *models: str) -> None:
        """Does now what the first call would wait for: loads LiteLLM, and these local models into memory."""
        services = self._caller.services
        services.gateway.load()
        for name in models:
            services.local.load(self.config.model(name))

    def spend(self, since: str | date | None = None) -> Spend:
        """What was spent and saved, by day, task and model, and what is left. `since`: a UTC day, or such as `7d`."""
        from testronaut_llm.money.budgets import all_limits, scope_of
        from testronaut_llm.money.report import report

        return report(self._ledger, scope_of(self.config), since=since, limits=all_limits(self.config))

    def prune_history(self, older_than: str | date) -> int:
        """Forgets the single requests before a UTC day, or older than `90d`; sums stay. Returns how many went."""
        from testronaut_llm.money.report import prune

        return prune(self._ledger, older_than)

    @property
    def session(self) -> Session:
        """What this manager's own calls cost and saved so far, in USD."""
        return self._ledger.session

    async def aclose(self) -> None:
        """The same for an event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
