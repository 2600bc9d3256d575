"""The event loop of calls, in a thread that starts with the first cache miss."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import math
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from testronaut_llm.errors import LLMError

_T = TypeVar("_T")
_NAME = "testronaut-llm-loop"
MOST_THREADS = 256
"""Threads of the pool for validators and `accept`; one of those may call the manager, which needs another."""


class LoopTask(Generic[_T]):
    """A coroutine for the loop, with its starter's context variables. Store it, then start it: ctrl-C may come."""

    def __init__(self, loop: Loop, make: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self.done: Future[_T] = Future()
        self._unstarted: Callable[[], None] | None = partial(loop.call_soon, partial(self._begin, make))

    def start(self) -> None:
        """Starts the coroutine, unless it was started."""
        begin, self._unstarted = self._unstarted, None  # a stream that has ended keeps no manager alive
        if begin is not None:
            begin()

    def result(self) -> _T:
        """Starts it and waits in this thread; ctrl-C cancels it and waits for its end. Raises LLMError: closed."""
        try:
            self.start()
            return self.done.result()
        except concurrent.futures.CancelledError:
            raise LLMError("the manager was closed before the call ended; close it when its calls have ended") from None
        except BaseException:
            self.end()
            raise

    async def aresult(self) -> _T:
        """Same on the caller's event loop. Cancelling the caller cancels the coroutine and waits for its end."""
        try:
            self.start()
            await wait_for(self.done)
        except asyncio.CancelledError:
            await self.aend()
            raise
        return self.result()

    def cancel(self) -> None:
        """Cancels the coroutine, unless it has ended; it never runs if it has not begun."""
        if not self.done.cancel() and not self.done.done():
            with suppress(RuntimeError):  # the loop is closed, so nothing runs
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def end(self) -> None:
        """Cancels the coroutine, and waits in this thread until it has ended."""
        self.cancel()
        if not self.done.done():
            concurrent.futures.wait((self.done,))

    async def aend(self) -> None:
        """Cancels the coroutine, and waits on the caller's event loop until it has ended."""
        self.cancel()
        await wait_for(self.done)

    def _begin(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        work = make()
        self._task = asyncio.get_running_loop().create_task(self._run(work))
        self._task.add_done_callback(partial(self._ended, work))
        if not self.done.set_running_or_notify_cancel():
            self._task.cancel()

    async def _run(self, work: Coroutine[Any, Any, _T]) -> None:
        """Stores the result or the error. A `SystemExit` of a validator is raised in the caller, not in the loop."""
        try:
            self.done.set_result(await work)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
            self.done.set_exception(error)

    def _ended(self, work: Coroutine[Any, Any, _T], _: object) -> None:
        work.close()
        with suppress(InvalidStateError):  # it has a result; else it was cancelled, maybe before its first step
            self.done.set_exception(concurrent.futures.CancelledError())


def to_this_loop(function: Callable[[_T], object]) -> Callable[[_T], None]:
    """Returns a function for any thread: it calls `function` on the current event loop, unless that is closed."""
    loop = asyncio.get_running_loop()

    def hand_over(value: _T) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(function, value)

    return hand_over


async def wait_for(future: Future[Any], seconds: float = math.inf) -> None:
    """Waits until the future of a thread is done, or a time-out; does not cancel it."""
    done = asyncio.Event()
    future.add_done_callback(to_this_loop(lambda _: done.set()))
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), None if seconds == math.inf else max(0.0, seconds))


class Loop:
    """One event loop in a thread of its own. Safe for threads; a forked child starts its own.

    `at_end` runs on the loop after all other coroutines, and closes what belongs to it.
    """

    def __init__(self, at_end: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self._at_end = at_end
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: weakref.finalize[Any, Any] | None = None
        self._files: ThreadPoolExecutor | None = None

    def call_soon(self, function: Callable[[], object]) -> None:
        """Calls a function on the loop, with the context variables of the caller."""
        with self._lock_of_this_process():
            loop = self._loop or self._begin()
            loop.call_soon_threadsafe(function, context=contextvars.copy_context())

    async def on_file(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Returns the result of `work`, run in the one thread for files: each other thread would open them again.

        Must be called on the loop.
        """
        done = partial(contextvars.copy_context().run, work, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._files, done)

    def close(self) -> None:
        """Cancels all coroutines, waits until they have ended, and ends the thread. `start` starts it again."""
        with self._lock_of_this_process():
            stop, self._loop, self._stop = self._stop, None, None
        if stop is not None:
            stop()

    def _lock_of_this_process(self) -> threading.Lock:
        if self._pid != os.getpid():  # a fork has no thread, and maybe a locked lock
            self._lock, self._pid, self._loop = threading.Lock(), os.getpid(), None
            if self._stop is not None:
                self._stop.detach()
                self._stop = None
        return self._lock

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(_on_trouble)
        self._files = ThreadPoolExecutor(1, "testronaut-llm-files")
        pools = ThreadPoolExecutor(MOST_THREADS, "testronaut-llm"), self._files
        thread = threading.Thread(target=_live, args=(loop, self._at_end, *pools), name=_NAME, daemon=True)
        try:
            thread.start()
        except BaseException:  # ctrl-C while the thread begins
            loop.call_soon_threadsafe(loop.stop)
            raise
        self._loop, self._stop = loop, weakref.finalize(self, _end, loop, thread)
        return loop


def _on_trouble(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignores the end of tasks that libraries leave on the loop; those of `LoopTask` end in its future.

    LiteLLM's one logging worker, for example, moves to each event loop that asks, and leaves its task on the last one.
    """
    if not isinstance(context.get("task") or context.get("future"), asyncio.Task):
        loop.default_exception_handler(context)


def _live(
    loop: asyncio.AbstractEventLoop,
    at_end: Callable[[], Coroutine[Any, Any, None]] | None,
    pool: ThreadPoolExecutor,
    files: ThreadPoolExecutor,
) -> None:
    asyncio.set_event_loop(loop)
    loop.set_default_executor(pool)
    try:
        loop.run_forever()
        loop.run_until_complete(_cancel_all())
        if at_end is not None:
            loop.run_until_complete(at_end())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(_cancel_all())  # generators that were garbage-collected are closed by tasks
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # `accept` may be what closes the manager
        files.shutdown()
        loop.close()


async def _cancel_all() -> None:
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join()
