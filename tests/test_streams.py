"""A stream begins at its first piece, ends once, and has an answer only then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from testronaut_llm.calls.streams import AsyncStream, Stream
from testronaut_llm.errors import LLMError
from testronaut_llm.records import Answer, Usage

ANSWER: Answer[Any] = Answer(
    text="ab", model="m", provider_model="p/m", response_model="m", task="t", usage=Usage(), attempts=()
)


class Source:
    """Two pieces and an answer, or an error after the first; notes when it begins and ends."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.notes: list[str] = []
        self._error = error

    def run(self) -> Generator[str, None, Answer[Any]]:
        self.notes.append("begun")
        try:
            yield "a"
            if self._error is not None:
                raise self._error
            yield "b"
            return ANSWER
        finally:
            self.notes.append("ended")

    async def arun(self) -> AsyncIterator[Any]:
        self.notes.append("begun")
        try:
            yield "a"
            if self._error is not None:
                raise self._error
            yield "b"
            yield ANSWER
        finally:
            self.notes.append("ended")


def test_nothing_is_sent_before_the_first_piece() -> None:
    """Making a stream is free; there is no answer yet, and closing it unread is no request."""
    source = Source()
    with Stream(source.run) as stream, pytest.raises(LLMError, match="read it to its end"):
        _ = stream.answer
    assert list(stream) == []
    assert source.notes == []


def test_a_stream_has_its_answer_at_its_end() -> None:
    """The pieces come once; after them the answer stays."""
    source = Source()
    stream = Stream(source.run)
    assert list(stream) == ["a", "b"]
    assert stream.answer is ANSWER
    assert list(stream) == []
    stream.close()
    assert stream.answer is ANSWER
    assert source.notes == ["begun", "ended"]


def test_leaving_a_stream_ends_its_source() -> None:
    """Closing in the middle ends what runs behind it, and nothing more comes."""
    source = Source()
    with Stream(source.run) as stream:
        assert next(stream) == "a"
    assert source.notes == ["begun", "ended"]
    assert list(stream) == []
    with pytest.raises(LLMError):
        _ = stream.answer


@pytest.mark.parametrize("error", [LLMError("no"), KeyboardInterrupt()])
def test_an_error_ends_a_stream(error: BaseException) -> None:
    """After an error the stream is over; asking on does not ask the provider anew."""
    source = Source(error)
    stream = Stream(source.run)
    assert next(stream) == "a"
    with pytest.raises(type(error)):
        next(stream)
    assert list(stream) == []
    assert source.notes == ["begun", "ended"]


async def test_an_async_stream_does_the_same() -> None:
    """No request before the first piece, one answer at the end, nothing after it."""
    source = Source()
    stream = AsyncStream(source.arun)
    with pytest.raises(LLMError, match="read it to its end"):
        _ = stream.answer
    assert source.notes == []
    assert [piece async for piece in stream] == ["a", "b"]
    assert stream.answer is ANSWER
    assert [piece async for piece in stream] == []
    assert source.notes == ["begun", "ended"]


async def test_leaving_an_async_stream_ends_its_source() -> None:
    """Closing in the middle, or unread, ends what runs behind it."""
    source, unread = Source(), Source()
    async with AsyncStream(source.arun) as stream:
        assert await anext(stream) == "a"
    async with AsyncStream(unread.arun):
        pass
    assert source.notes == ["begun", "ended"]
    assert unread.notes == []
    assert [piece async for piece in stream] == []


async def test_an_error_ends_an_async_stream() -> None:
    """The same as without an event loop."""
    source = Source(LLMError("no"))
    stream = AsyncStream(source.arun)
    assert await anext(stream) == "a"
    with pytest.raises(LLMError):
        await anext(stream)
    assert [piece async for piece in stream] == []
    assert source.notes == ["begun", "ended"]
