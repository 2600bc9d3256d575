"""The event loop of a manager, in its thread."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest
from manager_kit import program

from testronaut_llm.errors import LLMError
from testronaut_llm.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def loop_threads() -> Callable[[], int]:
    """Counts the loop threads that this test started; managers of other tests may not have been collected yet."""
    before = set(threading.enumerate())
    return lambda: sum(one.name == "testronaut-llm-loop" for one in set(threading.enumerate()) - before)


async def where() -> int:
    return threading.get_ident()


def test_it_starts_with_its_first_work_and_ends_with_close(loop: Loop, loop_threads: Callable[[], int]) -> None:
    """No thread exists before the first work; one serves all that follows, also after a `close`."""
    assert loop_threads() == 0
    idents = {loop.start(where()).result() for _ in range(3)}
    assert len(idents) == loop_threads() == 1
    assert idents != {threading.get_ident()}
    loop.close()
    assert loop_threads() == 0
    assert loop.start(where()).result()


def test_it_ends_with_its_owner(loop_threads: Callable[[], int]) -> None:
    """If a loop is dropped without `close`, its thread ends."""
    loop = Loop()
    loop.start(where()).result()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    assert loop_threads() == 0


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
