"""The event loop on which sync calls send, in one thread that starts with the first of them."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class Loop:
    """One event loop in a thread of its own. Safe for threads; a forked child starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: weakref.finalize[Any, Any] | None = None

    @property
    def is_running(self) -> bool:
        """True between the first `start` and `close`."""
        return self._loop is not None and self._pid == os.getpid()

    def start(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Returns the future of a coroutine that runs on the loop, with the caller's context variables.

        Cancelling the future cancels the coroutine.
        """
        return asyncio.run_coroutine_threadsafe(work, self._running())

    def close(self) -> None:
        """Cancels what runs, waits until it has ended, and ends the thread. The next `start` begins anew."""
        with self._lock:
            stop, self._loop, self._stop = self._stop, None, None
        if stop is not None and self._pid == os.getpid():
            stop()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():  # a fork has left the thread behind, and maybe a lock that is held
            self._lock, self._pid, self._loop = threading.Lock(), os.getpid(), None
            if self._stop is not None:
                self._stop.detach()
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_live, args=(self._loop,), name="testronaut-llm-loop", daemon=True)
                thread.start()
                self._stop = weakref.finalize(self, _end, self._loop, thread)
            return self._loop


def _live(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join()
