"""Threads for the attempts of sync calls: one whose attempt has ended waits for another.

To start a thread takes about as long as all that a call looks up, counts and books.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

Work = Callable[[], None]

_IDLE = 1.0  # seconds after which a thread that nobody needed ends


class _Worker:
    """One thread. `inbox` holds its next piece of work, or None: it shall end."""

    def __init__(self, pool: AttemptThreads, work: Work) -> None:
        self._pool = pool
        self.inbox: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self.inbox.put(work)
        self.thread = threading.Thread(target=self._live, name="testronaut-llm-attempt", daemon=True)
        self.thread.start()

    def _live(self) -> None:
        self._pool.begin()
        work = self.inbox.get()
        while work is not None:
            work()
            del work  # what it holds may be large
            if not self._pool.rest(self):
                return
            try:
                work = self.inbox.get(timeout=_IDLE)
            except queue.Empty:
                if self._pool.forget(self):
                    return
                work = self.inbox.get()  # somebody has just chosen this thread


class AttemptThreads:
    """The threads of one gateway. Safe for threads and after a fork.

    Args:
        begin: is called first in each thread.
    """

    def __init__(self, begin: Work) -> None:
        self.begin = begin
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._pid = os.getpid()
        self._closed = False

    def run(self, work: Work) -> None:
        """Does some work, which must not raise, in a thread of its own while it lasts."""
        if self._pid != os.getpid():  # a fork has left the threads behind, and maybe a lock that is held
            self._pid, self._idle, self._lock = os.getpid(), [], threading.Lock()
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            _Worker(self, work)
        else:
            worker.inbox.put(work)

    def rest(self, worker: _Worker) -> bool:
        """Takes a thread that has nothing to do; False: it is to end."""
        with self._lock:
            if not self._closed:
                self._idle.append(worker)
            return not self._closed

    def forget(self, worker: _Worker) -> bool:
        """Lets a thread end, unless it was chosen for some work meanwhile."""
        with self._lock:
            idle = worker in self._idle
            if idle:
                self._idle.remove(worker)
            return idle

    def close(self) -> None:
        """Ends the idle threads; the others end after their work."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for worker in idle:
            worker.inbox.put(None)
        for worker in idle:
            worker.thread.join(1.0)
