"""Do what a call flow asks for: sync callers send on the manager's event loop, async callers on their own.

The limit of an attempt is kept from outside the HTTP client, whose own time-outs start anew with every
byte: an attempt that overruns is cancelled, which closes its connection.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import TYPE_CHECKING, Any

from testronaut_llm.calls.steps import Ask, Await, Flow, More, Pause, Piece, Result, Work
from testronaut_llm.errors import LLMError, LLMTimeoutError
from testronaut_llm.gateway.model_request import Reply

if TYPE_CHECKING:
    from testronaut_llm.gateway.gateway import Gateway
    from testronaut_llm.loop import Loop

_SLACK = 0.25  # seconds that a busy event loop gets to say that an attempt has overrun


def drive(flow: Flow, gateway: Gateway, loop: Loop) -> Generator[str, None, Result]:
    """Runs a flow in this thread; yields the pieces of a stream and returns the result.

    Raises:
        LLMError: as the flow does.
    """
    attempt: _LoopAttempt | None = None
    answer: Any = None
    try:
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            answer = None
            if isinstance(step, Piece):
                yield step.text
            elif isinstance(step, Ask | More):
                if isinstance(step, Ask):
                    attempt = _LoopAttempt(gateway, loop, step)
                answer = attempt.take() if attempt is not None else None
            else:
                answer = _do(step)
    finally:
        if attempt is not None:
            attempt.leave()
        flow.close()


async def adrive(flow: Flow, gateway: Gateway) -> AsyncGenerator[str | Result, None]:
    """The same on an event loop; the result is the last thing it yields.

    Raises:
        LLMError: as the flow does.
    """
    driver = _TaskDriver(flow, gateway)
    try:
        while isinstance(part := await driver.next(), str):
            yield part
        yield part
    finally:
        await driver.leave()


async def arun(flow: Flow, gateway: Gateway) -> Result:
    """The result of a flow that is no stream: a coroutine costs less than a generator of one thing.

    Raises:
        LLMError: as the flow does.
    """
    driver = _TaskDriver(flow, gateway)
    try:
        while isinstance(part := await driver.next(), str):
            pass
        return part
    finally:
        await driver.leave()


class _TaskDriver:
    """Runs a flow inside the caller's task."""

    def __init__(self, flow: Flow, gateway: Gateway) -> None:
        self._flow, self._gateway = flow, gateway
        self._attempt: _TaskAttempt | None = None
        self._answer: Any = None

    async def next(self) -> str | Result:
        """A piece of a stream, or the result."""
        while True:
            try:
                step = self._flow.send(self._answer)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            self._answer = None
            if isinstance(step, Piece):
                return step.text
            if isinstance(step, Ask | More):
                if isinstance(step, Ask):
                    self._attempt = _TaskAttempt(self._gateway, step)
                self._answer = await self._attempt.take() if self._attempt is not None else None
            else:
                self._answer = await _ado(step)

    async def leave(self) -> None:
        """Gives up what has not ended."""
        if self._attempt is not None:
            await self._attempt.leave()
        self._flow.close()


def _do(step: Pause | Work | Await) -> Any:
    if isinstance(step, Work):
        return step.run()
    if isinstance(step, Await):
        concurrent.futures.wait((step.future,), step.seconds)
    else:
        time.sleep(step.seconds)
    return None


async def _ado(step: Pause | Work | Await) -> Any:
    if isinstance(step, Work):
        return await asyncio.to_thread(step.run)
    if isinstance(step, Await):
        waiting = asyncio.wrap_future(step.future)
        try:
            await asyncio.wait((waiting,), timeout=step.seconds)
        finally:
            waiting.cancel()  # of this wait alone: the future itself goes on
    else:
        await asyncio.sleep(step.seconds)
    return None


def _overrun(ask: Ask) -> Reply:
    message = f"no complete answer within {ask.limit:.3g} s; raise `timeout` or `deadline` if it needs longer"
    return Reply(error=LLMTimeoutError(message), sent=ask.exchange.left)


class _LoopAttempt:
    """One attempt on the manager's event loop, for a caller that waits in its own thread."""

    def __init__(self, gateway: Gateway, loop: Loop, ask: Ask) -> None:
        self._ask = ask
        self._until = time.monotonic() + ask.limit
        self._results: queue.SimpleQueue[str | Reply | BaseException] = queue.SimpleQueue()
        self._future = loop.start(self._work(gateway))

    def take(self) -> str | Reply:
        """The next piece, or the Reply. Waits no longer than the attempt may take."""
        try:
            result = self._results.get(timeout=max(0.0, self._until - time.monotonic()) + _SLACK)
        except queue.Empty:
            return _overrun(self._ask)
        if isinstance(result, BaseException):
            raise result
        return result

    def leave(self) -> None:
        """Cancels the attempt, unless it has ended."""
        self._future.cancel()

    async def _work(self, gateway: Gateway) -> None:
        attempt = _TaskAttempt(gateway, self._ask)
        try:
            while True:
                result = await attempt.take()
                self._results.put(result)
                if isinstance(result, Reply):
                    return
        except asyncio.CancelledError:
            self._results.put(Reply(error=LLMTimeoutError("the call was cancelled"), sent=self._ask.exchange.left))
            raise
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._results.put(error)
        finally:
            await attempt.leave()


class _TaskAttempt:
    """One attempt inside the task that runs."""

    def __init__(self, gateway: Gateway, ask: Ask) -> None:
        self._gateway, self._ask = gateway, ask
        self._until = asyncio.get_running_loop().time() + ask.limit
        self._results: AsyncIterator[str | Reply] | None = None

    async def take(self) -> str | Reply:
        """The next piece, or the Reply. Waits no longer than the attempt may take."""
        try:
            async with asyncio.timeout_at(self._until):
                if self._results is None:
                    self._results = await self._begin()
                return await anext(self._results)
        except TimeoutError:
            return _overrun(self._ask)
        except LLMError as error:
            return Reply(error=error, sent=False)

    async def leave(self) -> None:
        """Closes what is still open."""
        if self._results is not None:
            await self._results.aclose()  # type: ignore[attr-defined]

    async def _begin(self) -> AsyncIterator[str | Reply]:
        left = max(0.001, self._until - asyncio.get_running_loop().time())
        make = self._ask.make
        request = await asyncio.to_thread(make, left) if self._ask.slow else make(left)
        return self._gateway.send(request, self._ask.exchange)
