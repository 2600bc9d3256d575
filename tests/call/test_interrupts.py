"""Ctrl-C and cancelling at each step of a call: money settles, slots and flights are given back, threads end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import faults
import pytest
from manager_kit import Api, at_rest, manager, model

from testronaut_llm import LLMManager
from testronaut_llm.calls import performers

pytestmark = pytest.mark.usefixtures("provider_keys")

Make = Callable[..., Api]
STEPS = range(7)


@pytest.fixture
def llm(api: Make) -> Iterator[LLMManager]:
    """One failure that passes, then an answer: waiting in line, sending, pausing, sending again, storing."""
    retried = faults.error("rate_limit", headers={"retry-after-ms": "1"})
    a = api("a", retried, faults.good("fine"))
    row = model("openai", a, limits={"concurrency": 1, "rpm": 1000})
    with manager({"m": row}, cache="use", retries=2, timeout=20) as made:
        yield made


class Broken:
    """Raises at one step, counting from the first."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.left, self.error, self.happened = at, error, False

    def __call__(self) -> None:
        if self.left == 0:
            self.happened = True
            self.left = -1
            raise self.error
        self.left -= 1


def interrupted(monkeypatch: pytest.MonkeyPatch, broken: Broken) -> None:
    """Every step that a sync caller takes may be the one."""

    def before(done: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any) -> Any:
            broken()
            return done(*arguments)

        return do

    monkeypatch.setattr(performers, "_do", before(performers._do))
    monkeypatch.setattr(performers._LoopAttempt, "take", before(performers._LoopAttempt.take))


def cancelled(monkeypatch: pytest.MonkeyPatch, broken: Broken) -> None:
    """The same for a task."""

    def before(done: Callable[..., Any]) -> Callable[..., Any]:
        async def do(*arguments: Any) -> Any:
            broken()
            return await done(*arguments)

        return do

    monkeypatch.setattr(performers, "_ado", before(performers._ado))
    monkeypatch.setattr(performers._TaskAttempt, "take", before(performers._TaskAttempt.take))


def check(llm: LLMManager) -> None:
    """Nothing is reserved, in line, in flight or running; the next call goes through at once."""
    unsettled = llm._engine.ledger.file.run(
        lambda db: db.execute("SELECT count(*) FROM attempts WHERE state < 2").fetchone()[0]
    )
    assert unsettled == 0
    limiter = llm._engine.limiter
    assert not limiter._line
    assert not any(gate.running for gate in limiter._gates.values())
    began = time.monotonic()
    assert llm.complete("t", "hi", deadline=10).text == "fine"
    assert time.monotonic() - began < 9
    assert at_rest(llm)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_at_each_step(llm: LLMManager, monkeypatch: pytest.MonkeyPatch, step: int, stream: bool) -> None:
    """A sync call; past its last step it is simply answered."""
    broken = Broken(step, KeyboardInterrupt)
    with monkeypatch.context() as patch:
        interrupted(patch, broken)
        try:
            list(llm.stream("t", "hi")) if stream else llm.complete("t", "hi")
        except KeyboardInterrupt:
            assert broken.happened
        else:
            assert not broken.happened
    check(llm)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_cancelling_at_each_step(llm: LLMManager, monkeypatch: pytest.MonkeyPatch, step: int, stream: bool) -> None:
    """A task on an event loop."""
    broken = Broken(step, asyncio.CancelledError)

    async def ask() -> None:
        try:
            if stream:
                async with llm.astream("t", "hi") as pieces:
                    async for _ in pieces:
                        pass
            else:
                await llm.acomplete("t", "hi")
        except asyncio.CancelledError:
            assert broken.happened
        else:
            assert not broken.happened

    with monkeypatch.context() as patch:
        cancelled(patch, broken)
        asyncio.run(ask())
    check(llm)


def test_some_steps_are_met(llm: LLMManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests above would prove nothing."""
    broken = Broken(10_000, KeyboardInterrupt)
    with monkeypatch.context() as patch:
        interrupted(patch, broken)
        llm.complete("t", "hi")
    assert 10_000 - broken.left >= 4
