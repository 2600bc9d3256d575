"""The surface: `LLMManager` answers tasks, from Python code with or without an event loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from testronaut_llm.calls.builder import Prompt
from testronaut_llm.calls.streams import AsyncStream, Stream
from testronaut_llm.errors import LLMError
from testronaut_llm.llm_manager_base import ManagerBase
from testronaut_llm.records import Accept, Answer, CacheMode, Embeddings, T

if TYPE_CHECKING:
    from testronaut_llm.calls.batch import Progress
    from testronaut_llm.calls.comparison import Comparison


class LLMManager(ManagerBase):
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
        answer: Answer[T] = self._asking.result(given)
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
        answer: Answer[T] = await self._asking.aresult(given)
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
        return Stream(lambda: self._asking.pieces(given))

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
        return AsyncStream(lambda: self._asking.apieces(given))

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
        embeddings: Embeddings = self._asking.result(given)
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
        embeddings: Embeddings = await self._asking.aresult(given)
        return embeddings

    def batch(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        on_progress: Progress | None = None,
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
    ) -> list[Answer[T] | LLMError]:
        """Asks many prompts, `concurrency` at once; the results in order, an error in place of a failed one.

        `prompts` may be a generator: it is read as far as the calls have come. `on_progress(done, total, result)`
        is called in this thread; `total` is None where `prompts` has no length.

        Raises:
            LLMError: an argument that all calls share is wrong.
        """
        given = dict(locals())
        from testronaut_llm.calls.batch import prompt_jobs, run_all

        ask, (jobs, total) = self._asking.each(given), prompt_jobs(prompts)
        return run_all(ask, jobs, concurrency=concurrency, total=total, on_progress=on_progress)

    async def abatch(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        on_progress: Progress | None = None,
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
    ) -> list[Answer[T] | LLMError]:
        """`batch` on the caller's event loop."""
        given = dict(locals())
        from testronaut_llm.calls.batch import arun_all, prompt_jobs

        ask, (jobs, total) = self._asking.each(given), prompt_jobs(prompts)
        return await arun_all(ask, jobs, concurrency=concurrency, total=total, on_progress=on_progress)

    def compare(
        self,
        task: str | None,
        prompt: Prompt | Sequence[Prompt],
        *,
        models: Sequence[str],
        concurrency: int = 4,
        system: str | None = None,
        schema: type[T] | Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        cache: CacheMode | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> Comparison:
        """Asks one prompt, or several, of each model; a model that fails does not stop the others.

        Raises:
            LLMError: a model is unknown, or another argument is wrong.
        """
        given = dict(locals())
        from testronaut_llm.calls.batch import run_all

        jobs, compared = self._asking.comparison(given)
        return compared(run_all(self._asking.each(given), jobs, concurrency=concurrency))

    async def acompare(
        self,
        task: str | None,
        prompt: Prompt | Sequence[Prompt],
        *,
        models: Sequence[str],
        concurrency: int = 4,
        system: str | None = None,
        schema: type[T] | Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        cache: CacheMode | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> Comparison:
        """`compare` on the caller's event loop."""
        given = dict(locals())
        from testronaut_llm.calls.batch import arun_all

        jobs, compared = self._asking.comparison(given)
        return compared(await arun_all(self._asking.each(given), jobs, concurrency=concurrency))
