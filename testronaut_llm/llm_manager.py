"""The surface: `LLMManager` answers tasks, from Python code with or without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from testronaut_llm.batch import Outcome, Progress, Record, arun_each, run_each
from testronaut_llm.cache.answer_cache import AnswerCache
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.errors import ConfigError, InvalidRequestError
from testronaut_llm.lookup import Lookup
from testronaut_llm.money.ledger import Ledger, Session
from testronaut_llm.options import call_of, embed_call_of, lists_options
from testronaut_llm.prompts import Prompt
from testronaut_llm.providers.provider_registry import Probes
from testronaut_llm.records import Answer, Call, Embeddings, Result, Route, Schema, T
from testronaut_llm.streams import AsyncStream, Begin, Stream
from testronaut_llm.support.paths import data_dir
from testronaut_llm.telemetry.redaction import Redactor
from testronaut_llm.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from testronaut_llm.call import Caller
    from testronaut_llm.classify import Classification
    from testronaut_llm.compare import Comparison
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.estimate import Estimate
    from testronaut_llm.loop import Running
    from testronaut_llm.money.report import Spend
    from testronaut_llm.options import AllOptions, CallOptions, ClassifyOptions, EmbedOptions


@lists_options
class LLMManager:
    """Answers the tasks of one `llm.yaml`. Safe for threads and tasks; close it, or use it in `with`.

    Raises ConfigError if the configuration is wrong, with every error and its line. Arguments that the call methods
    share: `task` is a name from the file (None: `default`), `prompt` a text or messages in OpenAI's form, `schema` a
    pydantic class, a type or a JSON Schema for `.parsed`; for the others see `CallOptions`.

    Args:
        path: the file; found as documented if not given.
        config: made in Python, in place of a file.
        gateway: sends the requests in place of LiteLLM, for tests; see `testronaut_llm.gateway.gateway.Gateway`.
        offline: for tests whose answers come from elsewhere: every model is ready without server and key, nothing is
            cached, nothing waits, and the ledger is in memory.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        config: LLMConfig | None = None,
        gateway: Any = None,
        offline: bool = False,
    ) -> None:
        if path is not None and config is not None:
            raise ConfigError("both a path and config= were given; expected one of them")
        self._source = source = ConfigSource.of(config) if config is not None else ConfigSource.find(path)
        self._redactor, self._probes = Redactor(), Probes()
        self._telemetry = Telemetry(self._redactor.redact, lambda: source.last)
        books = None if offline else data_dir() / "ledger.sqlite3"
        self._ledger = Ledger(books, scope=lambda: source.current().budget_scope() or "")
        cache = None if offline else AnswerCache()
        self._lookup = Lookup(cache, self._probes, self._ledger, self._telemetry, self._redactor)
        self._gateway, self._offline, self._making = gateway, offline, threading.Lock()
        self._made: Caller | None = None

    @property
    def config(self) -> LLMConfig:
        """The configuration as it is now; edits of the file show up here."""
        return self._source.current()

    def complete(
        self, task: str | None, prompt: Prompt, *, schema: Schema[T] = None, **options: Unpack[CallOptions]
    ) -> Answer[T]:
        """Asks until an answer is accepted. Raises LLMError: see `testronaut_llm.errors` for the tree."""
        return cast("Answer[T]", self._result(call_of(self.config, task, prompt, {**options, "schema": schema})))

    async def acomplete(
        self, task: str | None, prompt: Prompt, *, schema: Schema[T] = None, **options: Unpack[CallOptions]
    ) -> Answer[T]:
        """`complete` for the caller's event loop."""
        call = call_of(self.config, task, prompt, {**options, "schema": schema})
        return cast("Answer[T]", await self._aresult(call))

    def stream(
        self, task: str | None, prompt: Prompt, *, schema: Schema[T] = None, **options: Unpack[CallOptions]
    ) -> Stream[T]:
        """An iterator of pieces of text; `.answer` at its end. Sends at the first piece."""
        return Stream(self._begin(task, prompt, {**options, "schema": schema}))

    def astream(
        self, task: str | None, prompt: Prompt, *, schema: Schema[T] = None, **options: Unpack[CallOptions]
    ) -> AsyncStream[T]:
        """The same for `async for`; there is no `await` before it."""
        return AsyncStream(self._begin(task, prompt, {**options, "schema": schema}))

    def embed(self, task: str | None, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """One vector a text. Raises LLMError: see `testronaut_llm.errors` for the tree."""
        return cast("Embeddings", self._result(embed_call_of(self.config, task, texts, options)))

    async def aembed(self, task: str | None, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """`embed` for the caller's event loop."""
        return cast("Embeddings", await self._aresult(embed_call_of(self.config, task, texts, options)))

    def classify(
        self, task: str | None, prompt: Prompt, labels: Any, **options: Unpack[ClassifyOptions]
    ) -> Classification[Any]:
        """Says which label fits, and how sure that is. Labels: texts, text to description, an `Enum` or a `Literal`."""
        return self._caller.services.loop.start(self.aclassify(task, prompt, labels, **options)).result()

    async def aclassify(
        self, task: str | None, prompt: Prompt, labels: Any, **options: Unpack[ClassifyOptions]
    ) -> Classification[Any]:
        """`classify` for the caller's event loop."""
        from testronaut_llm.classify import classified

        return await classified(self.config, task, prompt, labels, options, self._aresult, self._caller.services.route)

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
        given = cast("AllOptions", {**(options or {}), **more})
        run_each(self._each(task, given), prompts, concurrency=concurrency, finished=on_answer)

    def compare(
        self,
        task: str | None,
        prompt: Prompt | Sequence[Prompt],
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
        prompt: Prompt | Sequence[Prompt],
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

    def estimate(self, task: str | None, prompts: Iterable[Prompt], **options: Unpack[AllOptions]) -> Estimate:
        """What `batch` would cost, by model; reads `prompts` once. Sends nothing, so it has no async twin."""
        from testronaut_llm.estimate import estimate_of

        services = self._caller.services
        return estimate_of(lambda one: call_of(self.config, task, one, options), prompts, self._lookup, services)

    def dropped_params(self, model: str) -> tuple[str, ...]:
        """Settings of tasks (`temperature`, `seed`, `stop`) that a model does not take, so is asked without."""
        given = {"temperature": 0.0, "seed": 1, "stop": ["x"]}
        return self._caller.services.dropped_params(self.config.model(model), given)

    def warm_up(self, *models: str) -> None:
        """Does now what the first call would wait for: loads LiteLLM, and these local models into memory."""
        self._caller.services.gateway.load()
        for name in models:
            self._caller.services.local.load(self.config.model(name))

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
        return self._telemetry.counted(self._ledger.session)

    def close(self) -> None:
        """Closes connections and ends embedded models."""
        if self._made is not None:
            self._made.close()
        self._ledger.close()
        self._lookup.close()

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

    @property
    def _caller(self) -> Caller:
        """Asks models. Made at the first cache miss, since it loads much."""
        with self._making:
            if self._made is None:
                from testronaut_llm.call import Caller
                from testronaut_llm.services import Services

                rooms = self._redactor, self._telemetry, self._probes, self._ledger
                services = Services(self._source.current, *rooms, self._gateway, offline=self._offline)
                self._made = Caller(services, self._lookup)
            return self._made

    def _result(self, call: Call) -> Result:
        """Looks into the cache in this thread; on a miss, the call runs on the manager's event loop."""
        with self._telemetry.watch(call):
            return self._lookup.find(call) or self._caller.start_missed(call).result()

    async def _aresult(self, call: Call) -> Result:
        find = self._lookup.find
        with self._telemetry.watch(call):
            found = find(call) if self._lookup.is_quick(call) else await asyncio.to_thread(find, call)
            return found if found is not None else await self._caller.start_missed(call).aresult()

    def _begin(self, task: str | None, prompt: Prompt, options: AllOptions) -> Begin:
        return lambda emit: self._caller.start(call_of(self.config, task, prompt, options, stream=True), emit)

    def _each(self, task: str | None, options: AllOptions) -> Callable[[Prompt], Running[Outcome]]:
        """Checks what many calls share, and returns what starts one of them."""
        call_of(self.config, task, "?", options)
        caller = self._caller
        return lambda prompt: caller.start_outcome(lambda: call_of(self.config, task, prompt, options))
