"""The public API: `LLMManager` answers tasks, with or without an event loop of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from testronaut_llm.engine import Engine
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.methods.batch import OnProgress, Outcome, Record, arun_each, run_each
from testronaut_llm.methods.streams import AsyncStream, Stream
from testronaut_llm.options import call_of, embed_call_of, lists_options, takes
from testronaut_llm.prompts import Prompt, Prompts
from testronaut_llm.records import Answer, Embeddings, JsonSchema, Route, T

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from testronaut_llm.methods.batch import Estimate
    from testronaut_llm.methods.classify import Classification, L, LabelTexts
    from testronaut_llm.methods.compare import Comparison
    from testronaut_llm.options import AllOptions, CallOptions, ClassifyOptions, EmbedOptions


@lists_options
class LLMManager(Engine):
    """Answers the tasks of one `llm.yaml`. Safe for threads and tasks; close it, or use it in `with`.

    Raises ConfigError if the configuration is wrong; it lists all errors with their lines. In the call methods, `task`
    is a name from the file (None: `default`), `prompt` is a text or messages (in OpenAI's form, or `Message`), and
    `schema` is a pydantic class, another type or a JSON Schema. The other arguments are those of `CallOptions`.

    Args:
        path: the file; if it is not given, that of TESTRONAUT_LLM_CONFIG or the nearest `llm.yaml`.
        config: a configuration written in Python, instead of a file.
        gateway: for tests: sends the requests instead of LiteLLM; see `testronaut_llm.gateway.gateway.Gateway`.
        ledger: for recordings: counts the money instead of the user's ledger. Nothing is cached, and requests do not
            depend on what a local server has loaded.
        offline: for tests with recorded or fake answers: each model is ready without server and key, nothing is
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
        """Returns an accepted answer, after retries and fallbacks. Raises LLMError: see `testronaut_llm.errors`.

        >>> llm.complete("cli_analysis", "What does `ls -l` do?", system="Be brief.").text
        'It lists files.'
        >>> llm.complete("test_generation", "Name the options of ls.", schema=list[str]).parsed
        ['-a', '-l']
        """
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
        """Same as `complete`, on the caller's event loop.

        >>> asyncio.run(llm.acomplete("cli_analysis", "What does `ls` do?")).text
        'It lists files.'
        """
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
        """Returns an iterator over pieces of the answer, with `.answer` at its end. The first `next` sends the request.

        >>> stream = llm.stream("cli_analysis", "What does `ls` do?")
        >>> [piece for piece in stream], stream.answer.model
        (['It ', 'lists ', 'files.'], 'fake')
        """
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
        """Same as `stream`, for `async for`. Do not `await` the call itself.

        >>> async def pieces():
        ...     return [piece async for piece in llm.astream("cli_analysis", "What does `ls` do?")]
        >>> asyncio.run(pieces())
        ['It ', 'lists ', 'files.']
        """
        return AsyncStream(self._begin(task, prompt, options))

    def embed(self, task: str | None, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """Returns one vector for each text. Raises LLMError: see `testronaut_llm.errors`.

        Many texts are several requests. If one fails, the vectors of those before it are in the cache.

        >>> len(llm.embed("embedding", ["ls", "cat"]).vectors)
        2
        """
        return cast("Embeddings", self._result(embed_call_of(self.config, task, texts, options)))

    async def aembed(self, task: str | None, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Embeddings:
        """Same as `embed`, on the caller's event loop.

        >>> asyncio.run(llm.aembed("embedding", "ls")).model
        'fake'
        """
        return cast("Embeddings", await self._aresult(embed_call_of(self.config, task, texts, options)))

    @overload
    def classify(
        self, task: str | None, prompt: Prompt, labels: TypeForm[L], **options: Unpack[ClassifyOptions]
    ) -> Classification[L]: ...
    @overload
    def classify(
        self, task: str | None, prompt: Prompt, labels: LabelTexts[L], **options: Unpack[ClassifyOptions]
    ) -> Classification[L]: ...
    def classify(
        self, task: str | None, prompt: Prompt, labels: Any, **options: Unpack[ClassifyOptions]
    ) -> Classification[Any]:
        """Returns the label that fits, with a confidence. `labels`: texts, label to description, `Enum` or `Literal`.

        >>> verdict = llm.classify("result_verification", "expected 3 files, got 3 files", ["passed", "failed"])
        >>> verdict.label, round(verdict.confidence, 2)
        ('passed', 0.94)
        """
        from testronaut_llm.loop import LoopTask

        return LoopTask(self._caller.services.loop, partial(self.aclassify, task, prompt, labels, **options)).result()

    @overload
    async def aclassify(
        self, task: str | None, prompt: Prompt, labels: TypeForm[L], **options: Unpack[ClassifyOptions]
    ) -> Classification[L]: ...
    @overload
    async def aclassify(
        self, task: str | None, prompt: Prompt, labels: LabelTexts[L], **options: Unpack[ClassifyOptions]
    ) -> Classification[L]: ...
    async def aclassify(
        self, task: str | None, prompt: Prompt, labels: Any, **options: Unpack[ClassifyOptions]
    ) -> Classification[Any]:
        """Same as `classify`, on the caller's event loop.

        >>> asyncio.run(llm.aclassify("result_verification", "2 of 2 passed", ["passed", "failed"])).label
        'passed'
        """
        from testronaut_llm.methods.classify import classified

        return await classified(self.config, task, prompt, labels, options, self._aresult, self._caller.services.route)

    def batch(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
        **options: Unpack[AllOptions],
    ) -> list[Outcome]:
        """Asks many prompts, `concurrency` at a time. Returns answers in order; for a failed call, its error.

        A generator is read while calls run; then `total` of `on_progress(done, total, result)` is None.

        >>> [one.text for one in llm.batch("cli_analysis", ["What is ls?", "What is cp?"], concurrency=2)]
        ['It lists files.', 'It lists files.']
        """
        record = Record(prompts, on_progress)
        run_each(self._each(task, prompts, options), concurrency=concurrency, finished=record.add)
        return record.results

    async def abatch(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
        **options: Unpack[AllOptions],
    ) -> list[Outcome]:
        """Same as `batch`, on the caller's event loop.

        >>> [one.text for one in asyncio.run(llm.abatch("cli_analysis", ["What is ls?"]))]
        ['It lists files.']
        """
        record = Record(prompts, on_progress)
        await arun_each(self._each(task, prompts, options), concurrency=concurrency, finished=record.add)
        return record.results

    def answer_each(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        on_answer: Callable[[int, Outcome], object],
        *,
        concurrency: int = 8,
        **options: Unpack[AllOptions],
    ) -> None:
        """Same as `batch`, but returns no list: `on_answer(index, result)` gets each result.

        >>> llm.answer_each("cli_analysis", ["What is ls?"], lambda index, result: print(index, result.text))
        0 It lists files.
        """
        if not takes(on_answer, 2):
            raise InvalidRequestError(
                f"on_answer is {on_answer!r:.60}; expected a function of two arguments: index, result"
            )
        run_each(self._each(task, prompts, options), concurrency=concurrency, finished=on_answer)

    def compare(
        self,
        task: str | None,
        prompt: Prompts,
        *,
        models: Sequence[str],
        concurrency: int = 4,
        **options: Unpack[AllOptions],
    ) -> Comparison:
        """Asks each model the same prompts, and compares the answers. If a model fails, the others go on.

        >>> found = llm.compare("cli_analysis", "What is ls?", models=["fake", "other"])
        >>> found.exact, found.results["other"].text
        (True, 'It lists files.')
        """
        from testronaut_llm.methods.compare import comparing

        asked = comparing(self._each, task, prompt, models, options)
        run_each(asked.tasks, concurrency=concurrency, finished=asked.record.add)
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
        """Same as `compare`, on the caller's event loop.

        >>> asyncio.run(llm.acompare("cli_analysis", "What is ls?", models=["fake", "other"])).exact
        True
        """
        from testronaut_llm.methods.compare import comparing

        asked = comparing(self._each, task, prompt, models, options)
        await arun_each(asked.tasks, concurrency=concurrency, finished=asked.record.add)
        return asked.result()

    def route(self, task: str | None, prompt: Prompt = "", **options: Unpack[AllOptions]) -> Route:
        """Returns all candidates with cost and reason. Sends nothing. `dropped_params`: only after a call or `warm_up`.

        >>> [(one.alias, one.kept, one.est_cost) for one in llm.route("cli_analysis", "What is ls?").candidates]
        [('fake', True, Decimal('0'))]
        """
        return self._caller.services.route(call_of(self.config, task, prompt or "?", options), dry=True)

    def estimate(self, task: str | None, prompts: Iterable[Prompt], **options: Unpack[AllOptions]) -> Estimate:
        """Returns what `batch` would cost, by model. Reads `prompts` once, and sends nothing.

        >>> found = llm.estimate("cli_analysis", ["What is ls?", "What is cp?"])
        >>> found.prompts, found.route.cost, found.fits
        (2, Decimal('0'), True)
        """
        from testronaut_llm.methods.batch import estimate_of

        services = self._caller.services
        return estimate_of(lambda one: call_of(self.config, task, one, options), prompts, self._lookup, services)

    async def aestimate(self, task: str | None, prompts: Iterable[Prompt], **options: Unpack[AllOptions]) -> Estimate:
        """Same as `estimate`, run in a thread, which also reads the prompts.

        >>> asyncio.run(llm.aestimate("cli_analysis", ["What is ls?"])).prompts
        1
        """
        from asyncio import to_thread

        return await to_thread(lambda: self.estimate(task, prompts, **options))
