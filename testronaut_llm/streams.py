"""Answers in pieces: iterators that send at the first piece and know the whole answer at their end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Generic

from testronaut_llm.errors import LLMError
from testronaut_llm.records import Answer, T


class Stream(Generic[T]):
    """Pieces of one answer, to be iterated once. Close it, or use it in `with`, to leave early.

    Pieces may hold reasoning, where a model's template leaves out its opening tag; `answer.text` never does.
    """

    def __init__(self, run: Callable[[], Generator[str, None, Answer[T]]]) -> None:
        self._run = run
        self._pieces: Generator[str, None, Answer[T]] | None = None
        self._answer: Answer[T] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._closed:
            raise StopIteration
        if self._pieces is None:
            self._pieces = self._run()
        try:
            return next(self._pieces)
        except StopIteration as stop:
            self._answer, self._closed = stop.value, True
            raise StopIteration from None
        except BaseException:
            self._closed = True
            raise

    @property
    def answer(self) -> Answer[T]:
        """The whole answer.

        Raises:
            LLMError: the stream has not been read to its end.
        """
        return _whole(self._answer)

    def close(self) -> None:
        """Ends the request; what was sent is settled at its estimate."""
        self._closed = True
        if self._pieces is not None:
            self._pieces.close()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncStream(Generic[T]):
    """The same for `async for` and `async with`."""

    def __init__(self, run: Callable[[], AsyncIterator[Any]]) -> None:
        self._run = run
        self._pieces: AsyncIterator[Any] | None = None
        self._answer: Answer[T] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if self._closed:
            raise StopAsyncIteration
        if self._pieces is None:
            self._pieces = self._run()
        try:
            piece = await anext(self._pieces)
        except BaseException:
            self._closed = True
            raise
        if isinstance(piece, str):
            return piece
        self._answer = piece
        await self.close()
        raise StopAsyncIteration

    @property
    def answer(self) -> Answer[T]:
        """The whole answer.

        Raises:
            LLMError: the stream has not been read to its end.
        """
        return _whole(self._answer)

    async def close(self) -> None:
        """Ends the request; what was sent is settled at its estimate."""
        self._closed = True
        if self._pieces is not None:
            await self._pieces.aclose()  # type: ignore[attr-defined]

    async def __aenter__(self) -> AsyncStream[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _whole(answer: Answer[T] | None) -> Answer[T]:
    if answer is None:
        raise LLMError("the stream has no answer yet: read it to its end first")
    return answer
