"""Many calls at once, in a window: results in order, and one failure stops none of the others.

The sync form runs its calls on an event loop in a thread of its own, so that ctrl-C can end those that are under
way: a cancelled call closes its connection and settles its cost, which a blocked thread could not.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from testronaut_llm.errors import InvalidRequestError, LLMError
from testronaut_llm.records import Answer

Result = Answer[Any] | LLMError
Progress = Callable[[int, int | None, Result], object]
Job = TypeVar("Job")
"""What differs between the calls: a prompt, or a prompt and a model."""


class _Record:
    """The results so far, in the order of the jobs."""

    def __init__(self, jobs: Any, on_progress: Progress | None) -> None:
        self.results: list[Any] = []
        self._done, self._on_progress = 0, on_progress
        self._total = len(jobs) if isinstance(jobs, Sized) else None

    def finished(self, place: int, result: Result) -> None:
        self.results += [None] * (place + 1 - len(self.results))
        self.results[place] = result
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total, result)


def run_all(
    ask: Callable[[Job], Awaitable[Answer[Any]]],
    jobs: Iterable[Job],
    *,
    concurrency: int,
    on_progress: Progress | None = None,
) -> list[Result]:
    """Asks every job, at most `concurrency` at once; jobs and progress stay in the caller's thread.

    Raises:
        InvalidRequestError: `jobs` is one prompt or cannot be iterated, or `concurrency` is no whole number above 0.
    """
    record = _Record(jobs, on_progress)
    run_each(ask, jobs, concurrency=concurrency, finished=record.finished)
    return record.results


def run_each(
    ask: Callable[[Job], Awaitable[Answer[Any]]],
    jobs: Iterable[Job],
    *,
    concurrency: int,
    finished: Callable[[int, Result], object],
) -> None:
    """Hands over each result with the place of its job, as soon as it is there, and keeps none.

    Raises:
        InvalidRequestError: as `run_all` does.
    """
    _check(jobs, concurrency)
    pending = dict[Future[Result], int]()

    def collect() -> None:
        for done in wait(pending, return_when=FIRST_COMPLETED).done:
            finished(pending.pop(done), done.result())

    with _event_loop() as loop:
        for place, job in enumerate(jobs):
            pending[asyncio.run_coroutine_threadsafe(_outcome(ask, job), loop)] = place
            if len(pending) >= concurrency:
                collect()
        while pending:
            collect()


async def arun_all(
    ask: Callable[[Job], Awaitable[Answer[Any]]],
    jobs: Iterable[Job],
    *,
    concurrency: int,
    on_progress: Progress | None = None,
) -> list[Result]:
    """`run_all` on the caller's event loop.

    Raises:
        InvalidRequestError: as `run_all` does.
    """
    _check(jobs, concurrency)
    record, pending = _Record(jobs, on_progress), dict[asyncio.Task[Result], int]()

    async def collect() -> None:
        finished, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for done in finished:
            record.finished(pending.pop(done), done.result())

    try:
        for place, job in enumerate(jobs):
            pending[asyncio.create_task(_outcome(ask, job))] = place
            if len(pending) >= concurrency:
                await collect()
        while pending:
            await collect()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return record.results


async def _outcome(ask: Callable[[Job], Awaitable[Answer[Any]]], job: Job) -> Result:
    try:
        return await ask(job)
    except LLMError as error:
        return error.with_traceback(None)  # its frames would keep every call of the batch alive


def _check(jobs: Any, concurrency: Any) -> None:
    if isinstance(jobs, str | bytes | Mapping) or not isinstance(jobs, Iterable):
        raise InvalidRequestError(f"prompts is {jobs!r:.40}; expected a list or another iterable of prompts")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InvalidRequestError(f"concurrency is {concurrency!r:.40}; expected a whole number of at least 1")


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread. Leaving the block cancels what still runs there, and waits until it has ended."""
    made: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        leave = asyncio.Event()
        made.set_result((asyncio.get_running_loop(), leave))
        await leave.wait()

    thread = threading.Thread(target=_run, args=(live(),), name="testronaut-llm-batch", daemon=True)
    thread.start()
    loop, leave = made.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join()


def _run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)
