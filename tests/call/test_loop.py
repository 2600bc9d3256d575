"""The event loop of a manager, in its thread."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Iterator

import pytest
from manager_kit import program

from testronaut_llm.errors import LLMError
from testronaut_llm.loop import Loop

BEFORE: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _threads_of_others() -> None:
    """Managers of other tests may not have been collected yet."""
    BEFORE.clear()
    BEFORE.update(threading.enumerate())


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def loop_threads() -> int:
    """Number of loop threads that this test started."""
    return sum(one.name == "testronaut-llm-loop" for one in set(threading.enumerate()) - BEFORE)


async def where() -> int:
    return threading.get_ident()


def test_it_starts_with_its_first_work(loop: Loop) -> None:
    """No thread exists before the first call; one serves all that follow."""
    assert loop_threads() == 0
    idents = {loop.start(where()).result() for _ in range(3)}
    assert len(idents) == loop_threads() == 1
    assert idents != {threading.get_ident()}


def test_closing_ends_what_runs_and_the_thread(loop: Loop) -> None:
    """`close` waits until running work has cleaned up; later work starts a new thread."""
    begun, steps = threading.Event(), []

    async def wait() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("ended")

    loop.start(wait())
    assert begun.wait(10)
    loop.close()
    assert steps == ["ended"]
    assert loop_threads() == 0
    assert loop.start(where()).result()


def test_it_ends_with_its_owner() -> None:
    """A loop that is dropped without `close` leaves no thread."""
    loop = Loop()
    loop.start(where()).result()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    assert loop_threads() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_its_own(loop: Loop) -> None:
    """After a fork the child has its own thread, and closing it does not touch the parent's."""
    loop.start(where()).result()
    reads, writes = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writes, b"answered" if loop.start(where()).result() else b"")
            loop.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reads, 100) == b"answered"
    assert loop.start(where()).result()
    os.close(reads)
    os.close(writes)


def test_system_exit_reaches_the_caller(loop: Loop) -> None:
    """SystemExit in the work is raised to its caller and leaves the event loop running."""

    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        loop.start(leave()).result()
    assert loop.start(where()).result()


def test_work_cancelled_before_it_starts_ends(loop: Loop) -> None:
    """Its caller gets an error."""
    loop.start(where()).result()
    begun, blocked = threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        blocked.wait(10)

    loop.start(block())
    assert begun.wait(10)
    running = loop.start(where())
    running.cancel()
    blocked.set()
    with pytest.raises(LLMError, match="closed before the call ended"):
        running.result()


AT_EXIT = """
import atexit
from testronaut_llm import LLMError
from testronaut_llm.testing.fake import FakeLLM
llm = FakeLLM()
llm.reply("x")
def ask():
    for call in (lambda: llm.complete(None, "hi"), lambda: list(llm.stream(None, "hi"))):
        try:
            call()
        except LLMError as error:
            print(error)
atexit.register(ask)
"""


@pytest.mark.parametrize("before", ["", "llm.complete(None, 'hi')"])
def test_a_call_while_the_program_ends_is_an_error(before: str) -> None:
    """A call from an atexit handler raises an LLMError, since Python starts no thread then."""
    done = program("-c", AT_EXIT + before)
    assert done.stdout.count("the program is ending, so no model can be asked") == 2, done.stderr
    assert "Traceback" not in done.stderr
