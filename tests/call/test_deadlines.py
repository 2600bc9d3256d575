"""A call ends on time and leaves nothing open, whatever the server and the caller do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import Exchange
from manager_kit import KEY, KEYS, Make, apis, ask, at_rest, eventually, manager, model

from testronaut_llm import Answer, LLMManager, errors
from testronaut_llm.gateway.gateway import load_litellm
from testronaut_llm.records import Attempt

pytestmark = pytest.mark.usefixtures("provider_keys")

WIRES = ("openai", "anthropic", "ollama")
SOON = 0.8


def dripping_headers(exchange: Exchange) -> None:
    """A header that never ends: no read times out, and no response arrives."""
    exchange.send(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while True:
        exchange.send(b"x")
        exchange.wait(0.02)


SLOW: dict[str, Any] = {
    "silent": faults.silent,
    "dripping": faults.dripping(0.02, text="x" * 5000),
    "dripping headers": dripping_headers,
    "stalled stream": faults.stalled_stream,
}


CASES = [("openai", slow) for slow in SLOW] + [(wire, "dripping") for wire in ("anthropic", "ollama")]


class Books:
    """A purse that notes what becomes of each slip."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.settled: list[Attempt] = []

    def reserve(self, *_: object, spent: Decimal) -> Books:
        self.notes.append("reserved")
        return self

    def sent(self) -> None:
        self.notes.append("sent")

    def settle(self, attempt: Attempt) -> None:
        self.notes.append("settled")
        self.settled.append(attempt)


@pytest.fixture(scope="module")
def api() -> Iterator[Make]:
    load_litellm()
    with apis() as make:
        warm = make("a", faults.good())
        with manager({wire: model(wire, warm) for wire in WIRES}) as llm, pytest.MonkeyPatch.context() as patch:
            for name in KEYS:
                patch.setenv(name, KEY)
            for wire in WIRES:
                list(llm.stream("t", "hi", model=wire))
        yield make


def _with_books(llm: LLMManager) -> Books:
    books = Books()
    llm._caller.services.budgets.reserve = books.reserve
    return books


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("mode", ["complete", "acomplete", "stream", "astream"])
@pytest.mark.parametrize(("wire", "slow"), CASES)
async def test_a_deadline_is_kept_from_outside(api: Make, wire: str, slow: str, mode: str) -> None:
    """The caller gets a time-out with its attempts, on time; thread and socket end (P18)."""
    a = api("a", SLOW[slow])
    async with manager({"m": model(wire, a)}, timeout=60) as llm:
        books, began = _with_books(llm), time.monotonic()
        with pytest.raises(errors.LLMTimeoutError) as caught:
            await ask(llm, mode, deadline=SOON)
        assert time.monotonic() - began < 10 * SOON  # the server would go on for minutes
        assert len(caught.value.attempts) == len(a.asked) == 1
        assert caught.value.model == "m"
        assert books.notes == ["reserved", "sent", "settled"]
        assert at_rest(llm)


def test_waiting_is_part_of_the_deadline(api: Make) -> None:
    """A wait that does not fit is not begun: the call ends at once, with what it knows."""
    a = api("a", faults.error("rate_limit", retry_after="30"))
    with manager({"a": model("openai", a)}) as llm, pytest.raises(errors.AllModelsFailedError) as caught:
        llm.complete("t", "hi", deadline=5)
    assert caught.value.retry_after == 30.0
    assert len(a.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_ctrl_c_settles_and_closes(api: Make, stream: bool) -> None:
    """An interrupt comes through at once; the slip is settled and the connection closed."""
    a = api("a", faults.stalled_stream if stream else faults.silent)
    with manager({"m": model("openai", a)}) as llm:
        books = _with_books(llm)
        main = threading.get_ident()

        def interrupt() -> None:
            assert eventually(lambda: bool(a.asked))
            time.sleep(0.1)
            signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            list(llm.stream("t", "hi")) if stream else llm.complete("t", "hi")
        thread.join()
        assert books.notes == ["reserved", "sent", "settled"]
        assert isinstance(books.settled[0].error, errors.LLMTimeoutError)
        assert books.settled[0].cost  # nobody knows what was billed: the worst case
        assert at_rest(llm)


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_settles_and_closes(api: Make, stream: bool) -> None:
    """A cancelled task ends at once, settles, and its connection is closed."""
    hung_up = threading.Event()

    def watched(exchange: Exchange) -> None:
        try:
            (faults.stalled_stream if stream else faults.silent)(exchange)
        except OSError:
            hung_up.set()
            raise

    a = api("a", watched)
    async with manager({"m": model("openai", a)}) as llm:
        books = _with_books(llm)

        task = asyncio.create_task(ask(llm, "astream" if stream else "acomplete"))
        assert await asyncio.to_thread(eventually, lambda: bool(a.asked))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert books.notes == ["reserved", "sent", "settled"]
        assert await asyncio.to_thread(hung_up.wait, 20)


@pytest.mark.parametrize("good", [True, False])
def test_an_answer_is_paid_for_once_and_before_it_is_judged(api: Make, good: bool) -> None:
    """Whatever `accept` takes, and whatever it says: it may spend what the worst case had set aside."""
    a, seen = api("a", faults.good()), []

    def accept(_: Answer[Any]) -> bool:
        seen.append(list(books.notes))
        return good

    with manager({"m": model("openai", a)}) as llm:
        books = _with_books(llm)
        with contextlib.nullcontext() if good else pytest.raises(errors.AllModelsFailedError):
            llm.complete("t", "hi", accept=accept)
    assert seen == [["reserved", "sent", "settled"]]
    assert books.notes == seen[0]


def test_closing_the_manager_ends_the_calls_of_other_threads(api: Make) -> None:
    """They end in an error that says so, and what was sent is settled."""
    a = api("a", faults.silent)
    llm = manager({"m": model("openai", a)}, timeout=60)
    books = _with_books(llm)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(llm.complete, "t", "hi")
        assert eventually(lambda: bool(a.asked))
        llm.close()
        with pytest.raises(errors.LLMError, match="the manager was closed before the call ended"):
            call.result(20)
    assert books.notes == ["reserved", "sent", "settled"]


@pytest.mark.parametrize("wire", WIRES)
def test_leaving_a_stream_early_settles_and_closes(api: Make, wire: str) -> None:
    """`close` after a piece settles at the estimate, ends thread and connection, and is no error."""
    a = api("a", faults.stalled_stream)
    with manager({"m": model(wire, a)}) as llm:
        books = _with_books(llm)
        with llm.stream("t", "hi") as stream:
            assert next(stream)
        assert books.notes == ["reserved", "sent", "settled"]
        assert list(stream) == []
        with pytest.raises(errors.LLMError, match="read it to its end"):
            _ = stream.answer
        assert at_rest(llm)


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_left_when_all_had_come_costs_the_next_call_nothing(api: Make, wire: str) -> None:
    """Its attempt has ended, and its connection may serve another one already: that one is left alone."""
    a = api("a", faults.good("one two three"))
    with manager({"m": model(wire, a)}) as llm:
        for _ in range(3):
            with llm.stream("t", "hi") as stream:
                next(stream)
                assert at_rest(llm)
            assert llm.complete("t", "hi").text


def test_abandoned_calls_leave_no_descriptors(api: Make) -> None:
    """Six calls that time out leave as many open files as one (P23)."""
    a = api("a", faults.silent)
    with manager({"m": model("openai", a)}, retries=0) as llm:
        counts = []
        for _ in range(6):
            with pytest.raises(errors.AllModelsFailedError):
                llm.complete("t", "hi", timeout=0.1)
            assert at_rest(llm)
            time.sleep(0.1)
            counts.append(_descriptors())
    assert counts[-1] <= counts[0] + 2
