"""From the arguments of a call method to its result: looked up, or asked for, in threads and on event loops alike."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.calls.builder import accept_of, messages_of, metadata_of, texts_to_embed
from testronaut_llm.calls.lookup import Lookup, pieces_of
from testronaut_llm.calls.prepared import Given, Preparing
from testronaut_llm.calls.question import Question
from testronaut_llm.errors import LLMError
from testronaut_llm.records import Answer
from testronaut_llm.support.lazy import lazy

if TYPE_CHECKING:
    from testronaut_llm.calls.answering import Answering
    from testronaut_llm.calls.comparison import Comparison
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.calls.steps import Result


class Asking:
    """Runs the calls of one manager."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lookup = Lookup(engine)
        self._preparing = Preparing(engine.source)

    @lazy
    def _answering(self) -> Answering:
        from testronaut_llm.calls.answering import Answering

        return Answering(self._engine, self._lookup)

    def question(self, given: Given, *, stream: bool = False) -> Question:
        """What is asked, checked; nothing is looked up yet.

        Raises:
            LLMError: as the methods of the manager do.
        """
        texts = texts_to_embed(given["texts"]) if "texts" in given else ()
        prepared = self._preparing.prepare(given, embedding=bool(texts), stream=stream)
        return Question(
            prepared=prepared,
            messages=messages_of("\n".join(texts) if texts else given["prompt"], prepared.system),
            texts=texts,
            accept=accept_of(given.get("accept")),
            metadata=metadata_of(given.get("metadata")),
        )

    def result(self, given: Given) -> Any:
        """The answer, or the embeddings, of one call.

        Raises:
            LLMError: as the methods of the manager do.
        """
        question = self.question(given)
        result = self._look(question)
        if result is not None:
            return result
        pieces = self._driven(question)
        while True:
            try:
                next(pieces)
            except StopIteration as stop:
                return stop.value

    async def aresult(self, given: Given) -> Any:
        """The same on an event loop."""
        question = self.question(given)
        result = await self._alook(question)
        if result is not None:
            return result
        from testronaut_llm.calls.performers import arun

        with self._telling(question):
            return await arun(self._answering.flow(question), self._engine.gateway)

    def pieces(self, given: Given) -> Generator[str, None, Any]:
        """Yields the pieces of a stream, and returns the result.

        Raises:
            LLMError: as the methods of the manager do.
        """
        question = self.question(given, stream=True)
        result = self._look(question)
        if result is not None:
            yield from pieces_of(result)
            return result
        return (yield from self._driven(question))

    async def apieces(self, given: Given) -> AsyncIterator[Any]:
        """The same on an event loop; the result is the last thing it yields."""
        question = self.question(given, stream=True)
        result = await self._alook(question)
        if result is not None:
            for word in pieces_of(result):
                yield word
            yield result
            return
        from testronaut_llm.calls.performers import adrive

        with self._telling(question):
            # Left early, a generator does not close the one it reads from: the call would be settled some time later.
            async with aclosing(adrive(self._answering.flow(question), self._engine.gateway)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        yield piece
                    else:
                        result = piece
        yield result  # where being left is no longer the call's affair

    def each(self, given: Given) -> Callable[[Mapping[str, Any]], Awaitable[Answer[Any]]]:
        """What asks one of many: the arguments that differ go in, an answer comes out.

        Raises:
            LLMError: the arguments that all share are wrong.
        """
        self.question({**given, "prompt": "?"})

        async def ask(differing: Mapping[str, Any]) -> Answer[Any]:
            answer: Answer[Any] = await self.aresult({**given, **differing})
            return answer

        return ask

    def comparison(self, given: Given) -> tuple[Iterator[Mapping[str, Any]], Callable[[Any], Comparison]]:
        """The calls that compare models, and what puts their results side by side.

        Raises:
            LLMError: a model is unknown, or a prompt is none.
        """
        from testronaut_llm.calls.comparison import comparison_jobs, comparison_of, models_of, prompts_of

        asked, names = prompts_of(given["prompt"]), models_of(given["models"])
        for name in names:
            self._engine.source.current().model(name)
        put = partial(comparison_of, given["task"], asked, names, schema=given["schema"] is not None)
        return comparison_jobs(asked, names), put

    def close(self) -> None:
        """Closes what is open."""
        if "_answering" in self.__dict__:
            self._answering.close()

    def _look(self, question: Question) -> Result | None:
        """What is stored for it."""
        try:
            return self._lookup.stored(question)
        except BaseException as error:
            self._tell(question, error)
            raise

    async def _alook(self, question: Question) -> Result | None:
        if self._lookup.is_quick(question):
            return self._look(question)
        import asyncio

        return await asyncio.to_thread(self._look, question)

    def _driven(self, question: Question) -> Generator[str, None, Any]:
        from testronaut_llm.calls.performers import drive

        with self._telling(question):
            return (yield from drive(self._answering.flow(question), self._engine.gateway, self._engine.loop))

    @contextmanager
    def _telling(self, question: Question) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._tell(question, error)
            raise

    def _tell(self, question: Question, error: BaseException) -> None:
        telemetry = self._engine.telemetry
        if isinstance(error, LLMError):
            telemetry.failed(question.call, error, embedding=bool(question.texts))
        elif not isinstance(error, Exception):  # closed early, ctrl-C, cancelled
            telemetry.left(question.call, time.monotonic() - question.started)
