"""Examples of the public API for type checkers. They read this file; nothing runs it.

An `ignore` that hides no error is an error itself, so each line with one is a call that must not pass.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, TypeVar, assert_type

from pydantic import BaseModel

from testronaut_llm import Answer, AsyncStream, Classification, LLMError, LLMManager, Message, Stream

T = TypeVar("T")


class Plan(BaseModel):
    steps: list[str]


class Mood(Enum):
    GOOD = "good"


llm = LLMManager()
json_schema: dict[str, Any] = {"type": "object"}


def given(schema: type[T] | None, sure: type[T]) -> Answer[T]:
    assert_type(llm.complete("t", "p", schema=schema).parsed, T | None)
    return llm.complete("t", "p", schema=sure)


def schemas() -> None:
    assert_type(llm.complete("t", "p"), Answer[None])
    assert_type(llm.complete("t", "p", schema=None).parsed, None)
    assert_type(llm.complete("t", "p", schema=Plan, temperature=0).parsed, Plan)
    assert_type(llm.complete("t", "p", schema=int | None).parsed, int | None)
    assert_type(llm.complete("t", "p", schema=Literal["yes", "no"]).parsed, Literal["yes", "no"])
    assert_type(llm.complete("t", "p", schema={"type": "object", "properties": {"a": {"type": "null"}}}).parsed, Any)
    assert_type(llm.complete("t", "p", schema=json_schema).parsed, Any)
    llm.complete("t", "p", schema=3)  # type: ignore[call-overload]
    llm.complete("t", "p", shema=Plan)  # type: ignore[call-overload]


async def streams_and_coroutines() -> None:
    assert_type(llm.stream("t", "p"), Stream[None])
    assert_type(llm.stream("t", "p", schema=int | None).answer.parsed, int | None)
    assert_type(llm.astream("t", "p", schema=list[Plan]), AsyncStream[list[Plan]])
    assert_type(llm.astream("t", "p").answer.parsed, None)
    assert_type(await llm.acomplete("t", "p"), Answer[None])
    assert_type((await llm.acomplete("t", "p", schema=Literal[1, 2])).parsed, Literal[1, 2])
    assert_type(await llm.aclassify("t", "p", Mood), Classification[Mood])
    assert_type(await llm.aclassify("t", "p", ["a", "b"]), Classification[str])


def labels() -> None:
    assert_type(llm.classify("t", "p", Mood).label, Mood)
    assert_type(llm.classify("t", "p", list(Mood)).label, Mood)
    assert_type(llm.classify("t", "p", ("a", "b"), votes=5), Classification[str])
    assert_type(llm.classify("t", "p", {"a": "the first", "b": ""}).label, str)
    assert_type(llm.classify("t", "p", Literal["a", "b"]).label, Literal["a", "b"])
    llm.classify("t", "p", 3)  # type: ignore[call-overload]


def messages() -> None:
    mine = [Message(role="system", content="s"), Message(role="user", content="p")]
    openai = [{"role": "user", "content": "p"}]
    llm.complete("t", mine)
    llm.complete("t", [*mine, *openai])
    llm.route("t", mine)
    llm.batch("t", [mine, openai, "p"])
    llm.batch("t", iter([mine]))
    llm.compare("t", [mine, openai, "p"], models=["a", "b"])
    llm.complete("t", [3])  # type: ignore[list-item]


def short(answer: Answer[Any]) -> bool:
    return len(answer.text) < 80


def report(done: int, total: int | None, result: Answer[Any] | LLMError) -> None: ...


def functions() -> None:
    llm.complete("t", "p", accept=short)
    llm.complete("t", "p", schema=Plan, accept=lambda answer: len(answer.parsed.steps) > 1)
    llm.batch("t", ["p"], on_progress=report)
    llm.complete("t", "p", accept=lambda: True)  # type: ignore[arg-type, misc]
    llm.batch("t", ["p"], on_progress=short)  # type: ignore[arg-type]
    llm.batch("t", ["p"], on_progress=lambda done: None)  # type: ignore[arg-type, misc]
