"""The event loop of a manager, in its thread."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest
from manager_kit import program

from testronaut_llm.errors import LLMError
from testronaut_llm.loop import Loop
from testronaut_llm.testing.fake import FakeLLM


@pytest.fixture
def loop_threads() -> Callable[[], int]:
    """Counts the loop threads that this test started; managers of other tests may not have been collected yet."""
    before = set(threading.enumerate())
    return lambda: sum(one.name == "testronaut-llm-loop" for one in set(threading.enumerate()) - before)


def test_one_thread_starts_with_the_first_call_and_ends_with_its_manager(loop_threads: Callable[[], int]) -> None:
    """After `close` a call starts another, which ends if its manager is dropped."""
    llm = FakeLLM()
    llm.reply("x")
    counts = [loop_threads()]
    for _ in range(2):
        llm.complete(None, "hi")
        counts.append(loop_threads())
    llm.close()
    counts.append(loop_threads())
    llm.complete(None, "hi")
    counts.append(loop_threads())
    del llm
    gc.collect()
    assert [*counts, loop_threads()] == [0, 1, 1, 0, 1, 0]


def test_system_exit_reaches_the_caller() -> None:

    def leave(_: object) -> bool:
        raise SystemExit(3)

    with FakeLLM() as llm:
        llm.reply("x")
        with pytest.raises(SystemExit):
            llm.complete(None, "hi", accept=leave)
        assert llm.complete(None, "hi").text == "x"


def test_work_cancelled_before_it_starts_ends() -> None:
    """Its caller gets an error."""
    loop, begun, blocked = Loop(), threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        blocked.wait(10)

    loop.start(block())
    assert begun.wait(10)
    running = loop.start(block())
    running.cancel()
    blocked.set()
    with pytest.raises(LLMError, match="closed before the call ended"):
        running.result()
    loop.close()


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
