"""Threads are used again, one attempt at a time in each, and end when nobody needs them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import faults
import pytest
from manager_kit import Api, manager, model

from testronaut_llm.transport import attempt_threads
from testronaut_llm.transport.attempt_threads import AttemptThreads

Make = Callable[..., Api]


@pytest.fixture
def threads() -> Iterator[AttemptThreads]:
    made = AttemptThreads(lambda: None)
    yield made
    made.close()


def names(threads: AttemptThreads, pieces: int) -> list[int]:
    """The threads that did so many pieces of work, one after the other."""
    seen = []
    for _ in range(pieces):
        done = threading.Event()

        def work(done: threading.Event = done) -> None:
            seen.append(threading.get_ident())
            done.set()

        threads.run(work)
        assert done.wait(5)
        while not threads._idle:
            time.sleep(0.001)
    return seen


def test_one_thread_serves_one_after_the_other(threads: AttemptThreads) -> None:
    """What has ended leaves its thread to the next."""
    assert len(set(names(threads, 20))) == 1


def test_two_at_once_have_two_threads(threads: AttemptThreads) -> None:
    """No attempt waits for another's end."""
    together = threading.Barrier(3)
    for _ in range(2):
        threads.run(lambda: together.wait(5) and None)
    together.wait(5)
    assert not together.broken


def test_each_thread_begins_once() -> None:
    """Before its first piece of work."""
    begun: list[int] = []
    made = AttemptThreads(lambda: begun.append(threading.get_ident()))
    assert set(names(made, 5)) == set(begun)
    assert len(begun) == 1
    made.close()


def test_an_idle_thread_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that asks no more keeps no thread; the next attempt gets a new one."""
    monkeypatch.setattr(attempt_threads, "_IDLE", 0.02)
    made, seen = AttemptThreads(lambda: None), []
    for _ in range(2):
        done = threading.Event()

        def work(done: threading.Event = done) -> None:
            seen.append(threading.current_thread())
            done.set()

        made.run(work)
        assert done.wait(5)
        seen[-1].join(5)
        assert not seen[-1].is_alive()
        assert made._idle == []
    assert seen[0] is not seen[1]
    made.close()


def test_no_work_is_lost_while_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is chosen in the moment of its end does the work it was chosen for."""
    monkeypatch.setattr(attempt_threads, "_IDLE", 0.0005)
    made, done = AttemptThreads(lambda: None), []
    for number in range(300):
        made.run(lambda number=number: done.append(number))  # type: ignore[misc]
        time.sleep(0.0005)
    deadline = time.monotonic() + 10
    while len(done) < 300 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(done) == list(range(300))
    made.close()


def test_closing_ends_idle_threads_at_once_and_busy_ones_after_their_work() -> None:
    """Nothing is cut off."""
    made, go, done = AttemptThreads(lambda: None), threading.Event(), threading.Event()
    names(made, 1)
    idle, busy = made._idle[0], []

    def work() -> None:
        busy.append(threading.current_thread())
        go.wait(5)
        done.set()

    made.run(work)
    made.run(lambda: None)
    while not made._idle:
        time.sleep(0.001)
    made.close()
    go.set()
    assert done.wait(5)
    for thread in (idle.thread, *busy):
        thread.join(2)
        assert not thread.is_alive()
    late = threading.Event()
    made.run(late.set)
    assert late.wait(5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_threads_of_its_own(threads: AttemptThreads) -> None:
    """Those of its parent are not there."""
    names(threads, 1)
    child = os.fork()
    if child == 0:
        done = threading.Event()
        threads.run(done.set)
        os._exit(0 if done.wait(5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.usefixtures("provider_keys")
def test_many_calls_take_one_thread(api: Make) -> None:
    """One after the other they share it, and closing the manager ends it."""
    with manager({"m": model("openai", api("a", faults.good()))}) as llm:
        for number in range(10):
            llm.complete("t", f"hi {number}")
            time.sleep(0.01)
        mine = [one for one in threading.enumerate() if one.name == "testronaut-llm-attempt"]
        assert len(mine) <= 2
    assert not any(one in threading.enumerate() for one in mine)
