"""A call that ends early (deadline, Ctrl-C, cancellation, close) settles its money and leaves nothing open."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import Exchange
from gateway_kit import CLIENTS
from manager_kit import MODES, Make, ask, booked, eventually, is_idle, manager, model

from testronaut_llm import Answer, LLMManager, call, errors
from testronaut_llm.gateway.gateway import Gateway
from testronaut_llm.loop import Loop

pytestmark = pytest.mark.usefixtures("provider_keys")

SOON = 0.4


def dripping_headers(exchange: Exchange) -> None:
    """Sends a header that never ends: no read times out, and no response arrives."""
    exchange.send(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while True:
        exchange.send(b"x")
        exchange.wait(0.02)


def managed(api: Any, wire: str = "openai", **task: Any) -> LLMManager:
    return manager({"m": model(wire, api, limits={"concurrency": 1})}, budget={"per_day": 1}, **task)


def check(llm: LLMManager, *, attempts: int = 1) -> None:
    """Asserts the number of booked attempts, that all are settled, and that no call, place in line or slot remains."""
    assert is_idle(llm)
    count, unsettled, _ = booked(llm)
    assert (count, unsettled) == (attempts, 0)


@pytest.mark.parametrize(("wire", "slow", "mode"), [
    *(("openai", faults.silent, mode) for mode in MODES),
    ("openai", dripping_headers, "complete"),
    ("openai", faults.stalled_stream, "stream"),
    *((wire, faults.dripping(0.02, text="x" * 5000), "stream") for wire in CLIENTS),
])  # fmt: skip
async def test_a_deadline_ends_a_call_with_any_server(api: Make, wire: str, slow: Any, mode: str) -> None:
    a = api("a", slow)
    async with managed(a, wire, timeout=60) as llm:
        began = time.monotonic()
        with pytest.raises(errors.LLMTimeoutError) as caught:
            await ask(llm, mode, deadline=SOON)
        assert time.monotonic() - began < 10 * SOON
        assert len(caught.value.attempts) == len(a.asked) == 1
        assert caught.value.model == "m"
        check(llm)


def test_a_wait_longer_than_the_deadline_is_not_begun(api: Make) -> None:
    a = api("a", faults.error("rate_limit", retry_after="30"))
    with managed(a) as llm, pytest.raises(errors.AllModelsFailedError) as caught:
        llm.complete("t", "hi", deadline=5)
    assert caught.value.retry_after == 30.0
    assert len(a.asked) == 1


def interrupted(llm: LLMManager, mode: str, begin: Callable[[Callable[[], object]], object]) -> bool:
    """True if Ctrl-C or cancellation, for which `begin` gets a function, ended a call."""

    async def cancelled() -> bool:
        loop, task = asyncio.get_running_loop(), asyncio.create_task(ask(llm, mode))
        begin(lambda: loop.call_soon_threadsafe(task.cancel))
        await asyncio.wait([task])
        return task.cancelled()

    if mode.startswith("a"):
        return asyncio.run(cancelled())
    main = threading.get_ident()
    begin(lambda: signal.pthread_kill(main, signal.SIGINT))
    try:
        list(llm.stream("t", "hi")) if mode == "stream" else llm.complete("t", "hi")
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_request_is_settled_at_its_worst_case_and_its_connection_is_closed(api: Make, mode: str) -> None:
    hung_up = threading.Event()

    def watched(exchange: Exchange) -> None:
        try:
            (faults.stalled_stream if "stream" in mode else faults.silent)(exchange)
        except OSError:
            hung_up.set()
            raise

    def soon(interrupt: Callable[[], object]) -> None:
        assert eventually(lambda: bool(a.asked))
        time.sleep(0.05)
        interrupt()

    a = api("a", watched)
    with managed(a) as llm, ThreadPoolExecutor(1) as pool:
        assert interrupted(llm, mode, lambda interrupt: pool.submit(soon, interrupt))
        check(llm)
        assert booked(llm)[2] > 0
        assert hung_up.wait(20)


@pytest.mark.parametrize("ask", [
    lambda llm: llm.complete("t", "hi"),
    lambda llm: list(llm.stream("t", "hi")),
    lambda llm: llm.batch("t", ["hi", "ho"]),
    lambda llm: llm.classify("t", "hi", ["yes", "no"]),
    lambda llm: llm.compare("t", "hi", models=["m"]),
])  # fmt: skip
def test_an_interrupt_while_a_call_is_handed_to_its_loop_ends_it(
    api: Make, monkeypatch: pytest.MonkeyPatch, ask: Callable[[LLMManager], object]
) -> None:
    begin = Loop.call_soon

    def interrupted_after(loop: Loop, function: Callable[[], object]) -> None:
        begin(loop, function)
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)

    with managed(api("a", faults.silent), timeout=60) as llm:
        monkeypatch.setattr(Loop, "call_soon", interrupted_after)
        with pytest.raises(KeyboardInterrupt):
            ask(llm)
        assert is_idle(llm)
        assert booked(llm)[1] == 0


def test_an_answer_is_settled_before_accept_sees_it(api: Make) -> None:
    """`accept` may spend what the worst case had reserved, and an answer is paid once, with any result."""
    seen: list[Any] = []

    def accept(_: Answer[Any]) -> bool:
        seen.append(booked(llm))
        return len(seen) == 1

    with managed(api("a", faults.good())) as llm:
        assert llm.complete("t", "hi", accept=accept).text
        assert seen == [booked(llm)]
        with pytest.raises(errors.AllModelsFailedError):
            llm.complete("t", "hi", accept=accept)
        assert seen[1:] == [booked(llm)]
        check(llm, attempts=2)


def test_closing_the_manager_ends_the_calls_of_other_threads(api: Make) -> None:
    a = api("a", faults.silent)
    llm = managed(a, timeout=60)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(llm.complete, "t", "hi")
        assert eventually(lambda: bool(a.asked))
        llm.close()
        with pytest.raises(errors.LLMError, match="the manager was closed before the call ended"):
            running.result(20)
    check(llm)


@pytest.mark.parametrize("wire", CLIENTS)
def test_a_stream_that_is_closed_early_is_settled(api: Make, wire: str) -> None:
    a = api("a", faults.stalled_stream)
    with managed(a, wire) as llm:
        with llm.stream("t", "hi") as stream:
            assert next(stream)
        check(llm)
        assert list(stream) == []
        with pytest.raises(errors.LLMError, match="read it to its end"):
            _ = stream.answer


@pytest.mark.parametrize("wire", CLIENTS)
def test_closing_a_stream_that_has_arrived_harms_no_other_call(api: Make, wire: str) -> None:
    """Another call may use the connection of a complete stream already; it continues."""
    with managed(api("a", faults.good("one two three")), wire) as llm:
        for _ in range(3):
            with llm.stream("t", "hi") as stream:
                next(stream)
                assert is_idle(llm)
            assert llm.complete("t", "hi").text


def test_calls_that_time_out_leave_no_descriptors(api: Make) -> None:
    counts: list[int] = []
    with managed(api("a", faults.silent), retries=0) as llm:
        for number in range(4):  # a fifth failure would start a cooldown
            with pytest.raises(errors.AllModelsFailedError):
                llm.complete("t", "hi", timeout=0.05)
            check(llm, attempts=number + 1)
            counts.append(len(list(Path("/proc/self/fd").iterdir())))
            assert eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= counts[0] + 2)


STEPS = range(13)


class Halt:
    """Stops a call at one of its steps, counting from the first, until it is cancelled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, interrupt: Callable[[], object]) -> None:
        self.left, self.interrupt = at, interrupt
        for name in ("_turn", "_reply", "_judged"):
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
            self.interrupt()
            await asyncio.sleep(60)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_at_each_step(api: Make, monkeypatch: pytest.MonkeyPatch, step: int, mode: str) -> None:
    """The call waits in line, sends, fails, pauses, sends again and stores."""
    a = api("a", faults.error("rate_limit", headers={"retry-after-ms": "1"}), faults.good("fine"))
    row = model("openai", a, limits={"concurrency": 1, "rpm": 1000})
    with manager({"m": row}, cache="use", retries=2, timeout=20) as llm:
        with monkeypatch.context() as patch:
            ended = interrupted(llm, mode, lambda interrupt: Halt(patch, step, interrupt))
        assert ended is (step < STEPS[-1])  # at the last number, no step is left
        assert is_idle(llm)
        assert booked(llm)[1] == 0
        assert llm.complete("t", "hi", deadline=9).text == "fine"
