"""From a question to its result: looked up, or asked for, in threads and on event loops alike."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from testronaut_llm.calls.lookup import Lookup, pieces_of
from testronaut_llm.errors import LLMError
from testronaut_llm.support.lazy import lazy

if TYPE_CHECKING:
    from testronaut_llm.calls.answering import Answering
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.calls.question import Question
    from testronaut_llm.calls.steps import Result


class Asking:
    """Runs the calls of one manager. Its methods raise what those of the manager raise."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lookup = Lookup(engine)

    @lazy
    def _answering(self) -> Answering:
        from testronaut_llm.calls.answering import Answering

        return Answering(self._engine, self._lookup)

    def result(self, question: Question) -> Any:
        """Returns the answer, or the embeddings, of one call."""
        with self._started(question):
            result = self._look(question)
            if result is not None:
                return result
            pieces = self._driven(question)
            while True:
                try:
                    next(pieces)
                except StopIteration as stop:
                    return stop.value

    async def aresult(self, question: Question) -> Any:
        """The same on an event loop."""
        with self._started(question):
            result = await self._alook(question)
            if result is not None:
                return result
            from testronaut_llm.calls.performers import arun

            with self._telling(question):
                return await arun(self._answering.flow(question), self._engine.gateway)

    def pieces(self, question: Question) -> Generator[str, None, Any]:
        """Yields the pieces of a stream, and returns the result."""
        with self._started(question):
            result = self._look(question)
            if result is not None:
                yield from pieces_of(result)
                return result
            return (yield from self._driven(question))

    async def apieces(self, question: Question) -> AsyncIterator[Any]:
        """The same on an event loop; the result is the last thing it yields."""
        with self._started(question):
            result = await self._alook(question)
            if result is not None:
                for word in pieces_of(result):
                    yield word
            else:
                from testronaut_llm.calls.performers import adrive

                with self._telling(question):
                    # Left early, a generator does not close the one it reads from: it would be settled later.
                    async with aclosing(adrive(self._answering.flow(question), self._engine.gateway)) as pieces:
                        async for piece in pieces:
                            if isinstance(piece, str):
                                yield piece
                            else:
                                result = piece
        yield result  # where being left is no longer the call's affair

    def close(self) -> None:
        """Closes what is open."""
        if "_answering" in self.__dict__:
            self._answering.close()

    def _look(self, question: Question) -> Result | None:
        """Returns what is stored for it."""
        with self._telling(question):
            return self._lookup.stored(question)

    async def _alook(self, question: Question) -> Result | None:
        if self._lookup.is_quick(question):
            return self._look(question)
        import asyncio

        return await asyncio.to_thread(self._look, question)

    def _driven(self, question: Question) -> Generator[str, None, Any]:
        from testronaut_llm.calls.performers import drive

        with self._telling(question):
            return (yield from drive(self._answering.flow(question), self._engine.gateway, self._engine.loop))

    def _started(self, question: Question) -> AbstractContextManager[None]:
        return self._engine.telemetry.started(question.call, embedding=bool(question.texts))

    @contextmanager
    def _telling(self, question: Question) -> Iterator[None]:
        """Tells telemetry of a call that does not end in a result."""
        try:
            yield
        except LLMError as error:
            self._engine.telemetry.failed(question.call, error)
            raise
        except Exception:
            raise
        except BaseException:  # closed early, ctrl-C, cancelled
            self._engine.telemetry.left(question.call, time.monotonic() - question.started)
            raise
