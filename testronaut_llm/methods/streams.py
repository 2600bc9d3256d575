"""Streams: iterators over pieces of an answer. They send at the first piece, and have `.answer` at their end."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self

from testronaut_llm.errors import LLMError
from testronaut_llm.records import Answer, T

if TYPE_CHECKING:  # a process that finds its answers in the cache needs no event loop
    from testronaut_llm.loop import LoopTask

MakeTask = Callable[[Callable[[str], None]], "LoopTask[Any]"]
"""Returns the task of a call, which passes each piece to the function."""


class _Pieces(Generic[T]):
    """The part that both kinds of streams share."""

    def __init__(self, make: MakeTask) -> None:
        self._make = make
        self._running: LoopTask[Any] | None = None
        self._answer: Answer[T] | None = None
        self._closed = False

    @property
    def answer(self) -> Answer[T]:
        """The complete answer. Raises LLMError before the stream was read to its end."""
        if self._answer is None:
            raise LLMError("the stream has no answer yet: read it to its end first")
        return self._answer

    def _start(self, put: Callable[[str | None], None]) -> LoopTask[Any]:
        """Starts the call; it puts each piece, and None at its end."""
        self._running = self._make(put)
        self._running.done.add_done_callback(lambda _: put(None))
        self._running.start()
        return self._running

    def __del__(self) -> None:
        if self._running is not None:
            self._running.cancel()  # it has no reader any more


class Stream(_Pieces[T]):
    """Pieces of one answer, to be iterated once. Close it, or use it in `with`, to leave early.

    Pieces may hold reasoning if the opening tag is missing in the model's template; `answer.text` never does.

    >>> with llm.stream("cli_analysis", "What is ls?") as stream:
    ...     next(stream)
    'It '
    """

    def __init__(self, make: MakeTask) -> None:
        super().__init__(make)
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._closed:
            raise StopIteration
        try:
            running = self._running or self._start(self._queue.put)
            piece = self._queue.get()
            if piece is None:
                self._closed = True
                self._answer = running.result()
                raise StopIteration
        except BaseException:
            self.close()
            raise
        return piece

    def close(self) -> None:
        """Ends the request; what was sent is settled at its worst case."""
        self._closed = True
        if self._running is not None:
            self._running.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(_Pieces[T]):
    """Same as `Stream`, for `async for` and `async with`.

    >>> async def first():
    ...     async with llm.astream("cli_analysis", "What is ls?") as stream:
    ...         return await anext(stream)
    >>> asyncio.run(first())
    'It '
    """

    def __init__(self, make: MakeTask) -> None:
        super().__init__(make)
        from asyncio import Queue

        self._queue: Queue[str | None] = Queue()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._closed:
            raise StopAsyncIteration
        from testronaut_llm.loop import to_this_loop

        try:
            running = self._running or self._start(to_this_loop(self._queue.put_nowait))
            piece = await self._queue.get()
            if piece is None:
                self._closed = True
                self._answer = await running.aresult()
                raise StopAsyncIteration
        except BaseException:
            await self.close()
            raise
        return piece

    async def close(self) -> None:
        """Ends the request; what was sent is settled at its worst case."""
        self._closed = True
        if self._running is not None:
            await self._running.aend()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
