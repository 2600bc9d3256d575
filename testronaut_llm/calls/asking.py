"""From the arguments of a call method to its result: looked up, or asked for, in threads and on event loops alike."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.calls.answering import Answering, Question, pieces_of
from testronaut_llm.calls.builder import build_call, texts_to_embed
from testronaut_llm.errors import LLMError
from testronaut_llm.records import Answer, Call

if TYPE_CHECKING:
    from testronaut_llm.calls.comparison import Comparison
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.calls.steps import Result

Given = Mapping[str, Any]
"""The arguments of a call method of `LLMManager`, by their names."""

_NO_OPTIONS = frozenset(("self", "task", "prompt", "prompts", "texts", "models", "concurrency", "on_progress"))


class Asking:
    """Runs the calls of one manager."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._answering = Answering(engine)

    def result(self, given: Given) -> Any:
        """The answer, or the embeddings, of one call.

        Raises:
            LLMError: as the methods of the manager do.
        """
        pieces = self.pieces(given, stream=False)
        while True:
            try:
                next(pieces)
            except StopIteration as stop:
                return stop.value

    async def aresult(self, given: Given) -> Any:
        """The same on an event loop."""
        result: Any = None
        async for piece in self.apieces(given, stream=False):
            result = piece
        return result

    def pieces(self, given: Given, *, stream: bool) -> Generator[str, None, Any]:
        """Yields the pieces of a stream, and returns the result.

        Raises:
            LLMError: as the methods of the manager do.
        """
        question, result = self._look(given, stream=stream)[1]()
        if result is not None:
            yield from pieces_of(result) if stream else ()
            return result
        from testronaut_llm.calls.performers import drive

        with self._told(question.call, given):
            return (yield from drive(self._answering.flow(question), self._engine.gateway))

    async def apieces(self, given: Given, *, stream: bool) -> AsyncIterator[Any]:
        """The same on an event loop; the result is the last thing it yields."""
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

    def each(self, given: Given) -> Callable[[Mapping[str, Any]], Awaitable[Answer[Any]]]:
        """What asks one of many: the arguments that differ go in, an answer comes out.

        Raises:
            LLMError: the arguments that all share are wrong.
        """
        options = {name: value for name, value in given.items() if name not in _NO_OPTIONS}
        build_call(self._engine.source.current().task(given["task"]), "?", **options)

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
        self._answering.close()

    def _look(self, given: Given, *, stream: bool) -> tuple[Call, Callable[[], tuple[Question, Result | None]]]:
        """The call, and what looks whether its answer is stored."""
        options = {name: value for name, value in given.items() if name not in _NO_OPTIONS}
        config = self._engine.source.current()
        settings = config.task(given["task"])
        texts = texts_to_embed(given["texts"]) if "texts" in given else ()
        call = build_call(settings, "\n".join(texts) or given["prompt"], stream=stream, **options)

        def look() -> tuple[Question, Result | None]:
            with self._told(call, given):
                question = self._answering.question(config, settings, call, texts)
                return question, self._answering.stored(question)

        return call, look

    @contextmanager
    def _told(self, call: Call, given: Given) -> Iterator[None]:
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
