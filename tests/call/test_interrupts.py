"""Ctrl-C and cancelling at each step of a call: money settles, slots and flights are given back, threads end."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import faults
import pytest
from manager_kit import Make, at_rest, manager, model

from testronaut_llm import LLMManager, call
from testronaut_llm.gateway.gateway import Gateway

pytestmark = pytest.mark.usefixtures("provider_keys")

STEPS = range(13)


@pytest.fixture
def llm(api: Make) -> Iterator[LLMManager]:
    """One failure that passes, then an answer: waiting in line, sending, pausing, sending again, storing."""
    retried = faults.error("rate_limit", headers={"retry-after-ms": "1"})
    a = api("a", retried, faults.good("fine"))
    row = model("openai", a, limits={"concurrency": 1, "rpm": 1000})
    with manager({"m": row}, cache="use", retries=2, timeout=20) as made:
        yield made


class Halt:
    """Stops a call at one of its steps, counting from the first, until it is cancelled."""

    STEPS = ("_turn", "_reply", "_judged")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, interrupt: Callable[[], object]) -> None:
        self.left, self.interrupt, self.happened = at, interrupt, False
        for name in self.STEPS:
            monkeypatch.setattr(call._Attempts, name, self._before(getattr(call._Attempts, name)))
        monkeypatch.setattr(call, "when_free", self._before(call.when_free))
        send = Gateway.send

        async def halted(*arguments: Any) -> AsyncIterator[Any]:
            await self._pass()
            async for part in send(*arguments):
                yield part

        monkeypatch.setattr(Gateway, "send", halted)

    def _before(self, step: Callable[..., Any]) -> Callable[..., Any]:
        async def do(*arguments: Any) -> Any:
            await self._pass()
            return await step(*arguments)

        return do

    async def _pass(self) -> None:
        self.left -= 1
        if self.left == -1:
            self.happened = True
            self.interrupt()
            await asyncio.sleep(60)


def check(llm: LLMManager) -> None:
    """Nothing is reserved, in line, in flight or running; the next call goes through at once."""
    unsettled = llm._ledger.file.run(
        lambda db: db.execute("SELECT count(*) FROM attempts WHERE state < 2").fetchone()[0]
    )
    assert unsettled == 0
    limiter = llm._caller.services.limiter
    assert not limiter.line
    assert not any(gate.running for gate in limiter.gates.values())
    began = time.monotonic()
    assert llm.complete("t", "hi", deadline=10).text == "fine"
    assert time.monotonic() - began < 9
    assert at_rest(llm)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_at_each_step(llm: LLMManager, monkeypatch: pytest.MonkeyPatch, step: int, stream: bool) -> None:
    """A sync call; past its last step it is simply answered."""
    main = threading.get_ident()
    with monkeypatch.context() as patch:
        halt = Halt(patch, step, lambda: signal.pthread_kill(main, signal.SIGINT))
        try:
            list(llm.stream("t", "hi")) if stream else llm.complete("t", "hi")
        except KeyboardInterrupt:
            assert halt.happened
        else:
            assert not halt.happened
    check(llm)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_cancelling_at_each_step(llm: LLMManager, monkeypatch: pytest.MonkeyPatch, step: int, stream: bool) -> None:
    """A task on an event loop of the caller's."""

    async def ask() -> None:
        if not stream:
            await llm.acomplete("t", "hi")
            return
        async with llm.astream("t", "hi") as pieces:
            async for _ in pieces:
                pass

    async def cancelled() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.create_task(ask())
        halt = Halt(patch, step, lambda: loop.call_soon_threadsafe(task.cancel))
        try:
            await task
        except asyncio.CancelledError:
            assert halt.happened
        else:
            assert not halt.happened

    with monkeypatch.context() as patch:
        asyncio.run(cancelled())
    check(llm)


def test_some_steps_are_met(llm: LLMManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests above would prove nothing."""
    with monkeypatch.context() as patch:
        halt = Halt(patch, 10_000, lambda: None)
        llm.complete("t", "hi")
    assert 10_000 - halt.left == len(STEPS) - 1
