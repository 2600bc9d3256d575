"""Runs many calls concurrently: results in order, and one failure does not stop the others."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any, TypeVar

from testronaut_llm.errors import InvalidRequestError, LLMError
from testronaut_llm.options import takes
from testronaut_llm.records import Answer

if TYPE_CHECKING:  # a process that finds its answers in the cache needs no event loop
    from concurrent.futures import Future

    from testronaut_llm.loop import Running

Outcome = Answer[Any] | LLMError
OnProgress = Callable[[int, int | None, Outcome], object]
"""Called after each call with how many have ended, how many there are (None if unknown), and the result."""
Job = TypeVar("Job")
"""The part in which calls differ: a prompt, or a prompt and a model."""
Start = Callable[[Job], "Running[Outcome]"]
"""Starts one call, whose result is its answer or its error."""


class Record:
    """The results so far, in the order of the jobs; `on_progress` is called for each."""

    def __init__(self, jobs: Any = (), on_progress: OnProgress | None = None) -> None:
        if on_progress is not None and not takes(on_progress, 3):
            raise InvalidRequestError(
                f"on_progress is {on_progress!r:.60}; expected a function of three arguments: done, total, result"
            )
        self.results: list[Any] = []
        self._done, self._on_progress = 0, on_progress
        self._total = len(jobs) if isinstance(jobs, Sized) else None

    def add(self, place: int, result: Outcome) -> None:
        """Stores the result of the job at an index."""
        self.results += [None] * (place + 1 - len(self.results))
        self.results[place] = result
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total, result)


def listed(jobs: Any) -> Iterable[Any]:
    """Returns the jobs. Raises InvalidRequestError: it is one prompt, or cannot be iterated."""
    if isinstance(jobs, str | bytes | Mapping) or not isinstance(jobs, Iterable):
        raise InvalidRequestError(f"prompts is {jobs!r:.40}; expected a list or another iterable of prompts")
    return jobs


class _Window:
    """The running calls, each with the index of its job. `ended` is called for each that ends, in any thread."""

    def __init__(
        self, start: Start[Any], jobs: Any, concurrency: Any, ended: Callable[[Future[Outcome]], object]
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidRequestError(f"concurrency is {concurrency!r:.40}; expected a whole number of at least 1")
        self.running: dict[Future[Outcome], tuple[int, Running[Outcome]]] = {}
        self._start, self._jobs, self._concurrency, self._ended = start, enumerate(listed(jobs)), concurrency, ended

    def fill(self) -> bool:
        """Starts calls until the window is full; False if none is left."""
        while len(self.running) < self._concurrency and (job := next(self._jobs, None)) is not None:
            running = self._start(job[1])
            self.running[running.done] = job[0], running
            running.done.add_done_callback(self._ended)
        return bool(self.running)

    def take(self, done: Future[Outcome]) -> tuple[int, Outcome]:
        """Returns the index and the result of a call that has ended."""
        place, running = self.running.pop(done)
        return place, running.result()

    def cancel(self) -> None:
        """Cancels the calls that still run."""
        for _, running in self.running.values():
            running.cancel()


def run_each(
    start: Start[Job], jobs: Iterable[Job], *, concurrency: int, finished: Callable[[int, Outcome], object]
) -> None:
    """Passes on each result with the index of its job as soon as it is there, and keeps none.

    Jobs are read, and results passed on, in the caller's thread.

    Raises:
        InvalidRequestError: `jobs` is one prompt or cannot be iterated, or `concurrency` is not a whole number above 0.
    """
    from concurrent.futures import wait

    ended: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()
    window = _Window(start, jobs, concurrency, ended.put)
    try:
        while window.fill():
            finished(*window.take(ended.get()))
    finally:
        window.cancel()
        wait(window.running)


async def arun_each(
    start: Start[Job], jobs: Iterable[Job], *, concurrency: int, finished: Callable[[int, Outcome], object]
) -> None:
    """Same as `run_each`, on the caller's event loop."""
    from asyncio import Queue

    from testronaut_llm.loop import to_this_loop, wait_for

    ended: Queue[Future[Outcome]] = Queue()
    window = _Window(start, jobs, concurrency, to_this_loop(ended.put_nowait))
    try:
        while window.fill():
            finished(*window.take(await ended.get()))
    finally:
        window.cancel()
        for done in window.running:
            await wait_for(done)
