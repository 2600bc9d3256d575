"""Identical concurrent calls are one request: in threads, on event loops, and in processes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import Exchange
from manager_kit import Make, ask, eventually, manager, model, under_way

from testronaut_llm import Answer, LLMError, LLMManager, LLMTimeoutError
from testronaut_llm.cache.single_flight import FlightLocks
from testronaut_llm.support.paths import cache_dir

pytestmark = pytest.mark.usefixtures("provider_keys")

CALLS = 100


class Gate:
    """A reply that waits until it is released, so that every call of a test has started by then."""

    def __init__(self, reply: Any = None) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.reply = reply or faults.good("one answer")

    def __call__(self, exchange: Exchange) -> None:
        self.reached.set()
        while not self.open.is_set():
            exchange.wait(0.01)
        self.reply(exchange)

    def when(self, full: Callable[[], bool]) -> None:
        assert eventually(full)
        self.open.set()


@pytest.fixture
def gate() -> Gate:
    return Gate()


def cached(row: dict[str, Any], **task: Any) -> LLMManager:
    return manager({"m": row}, **{"cache": "use", "retries": 0, **task})


def waits_no_longer_than_its_deadline(llm: LLMManager) -> None:
    for mode in ("complete", "acomplete"):
        with pytest.raises(LLMTimeoutError, match=r"an identical call did not end within the deadline of 0\.05 s"):
            asyncio.run(ask(llm, mode, deadline=0.05))


def at_once(llm: LLMManager, gate: Gate, number: int) -> list[Future[Any]]:
    with ThreadPoolExecutor(number) as pool:
        calls = [pool.submit(llm.complete, "t", "hi") for _ in range(number)]
        gate.when(lambda: under_way(llm) == number)
    return calls


def test_a_hundred_identical_calls_are_one_request(api: Make, gate: Gate) -> None:
    a = api("a", gate)

    async def tasks(llm: LLMManager, number: int) -> list[Answer[Any]]:
        return await asyncio.gather(*[llm.acomplete("t", "hi") for _ in range(number)])

    with cached(model("openai", a)) as llm, ThreadPoolExecutor(CALLS) as pool:
        calls = [pool.submit(llm.complete, "t", "hi") for _ in range(CALLS - 48)]
        loops = [pool.submit(lambda n: asyncio.run(tasks(llm, n)), number) for number in (40, 2, 1)]
        batch = pool.submit(llm.batch, "t", ["hi"] * 5, concurrency=5)
        embeddings = [pool.submit(llm.embed, "t", ["a", "b"]) for _ in range(5)]
        gate.when(lambda: under_way(llm) == CALLS + 5)
        answers: list[Any] = [call.result() for call in calls]
        for many in (*loops, batch):
            answers += many.result()
    assert [answer.text for answer in answers] == ["one answer"] * CALLS
    assert sum(not answer.cached for answer in answers) == sum(len(answer.attempts) for answer in answers) == 1
    assert len({one.result().vectors for one in embeddings}) == 1
    assert sorted("input" in body for body in a.bodies) == [False, True]


ASKS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from testronaut_llm import LLMManager
with LLMManager(sys.argv[1]) as llm, ThreadPoolExecutor(25) as pool:
    sys.stdin.readline()
    calls = [pool.submit(llm.complete, "t", "hi") for _ in range(25)]
    print("ready", flush=True)
    print(*("hit" if call.result().cached else "asked" for call in calls))
"""


@contextmanager
def processes(file: Path, number: int) -> Iterator[list[Any]]:
    command, pipe = [sys.executable, "-c", ASKS, str(file)], subprocess.PIPE
    made: list[Any] = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(number)]
    try:
        yield made
    finally:
        for one in made:
            one.kill()
            one.communicate()


def start(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"


def test_processes_share_one_request_and_outlive_the_one_that_asks(api: Make, gate: Gate, tmp_path: Path) -> None:
    file, row = tmp_path / "llm.yaml", model("openai", api("a", gate, faults.good("second")))
    file.write_text(json.dumps({"models": {"m": row}, "tasks": {"t": {"models": "m", "retries": 0}}}))
    with processes(file, 3) as (leader, *others), LLMManager(file) as llm, ThreadPoolExecutor(25) as pool:
        start(leader)
        assert gate.reached.wait(60)
        waits_no_longer_than_its_deadline(llm)
        for other in others:
            start(other)
        followers = [pool.submit(llm.complete, "t", "hi") for _ in range(25)]
        assert eventually(lambda: under_way(llm) == 25)
        assert not wait(followers, timeout=0.1).done
        leader.kill()
        answers = [follower.result(60) for follower in followers]
        words = ["hit" if answer.cached else "asked" for answer in answers]
        for other in others:
            words += other.communicate(timeout=60)[0].split()
    assert {answer.text for answer in answers} == {"second"}
    assert sorted(words) == ["asked"] + ["hit"] * 74


def test_a_waiting_call_keeps_its_deadline_and_calls_that_differ_do_not_wait(api: Make, gate: Gate) -> None:
    a = api("a", gate, faults.good("another"))
    with cached(model("openai", a)) as llm, ThreadPoolExecutor(1) as pool:
        leader = pool.submit(llm.complete, "t", "hi")
        assert gate.reached.wait(60)
        waits_no_longer_than_its_deadline(llm)
        for given in ({"sample": 1}, {"cache": "off"}, {"cache": "refresh"}):
            assert llm.complete("t", "hi", **given).text == "another"
        gate.open.set()
        assert leader.result().text == "one answer"
    assert len(a.asked) == 4


def test_when_the_leader_fails_one_at_a_time_tries(api: Make) -> None:
    gate = Gate(faults.error("server_error"))
    busy, overlaps = threading.Lock(), list[bool]()

    def second(exchange: Exchange) -> None:
        overlaps.append(busy.locked())
        with busy:
            exchange.wait(0.02)
        (faults.error("server_error") if len(a.asked) < 4 else faults.good("at last"))(exchange)

    a = api("a", gate, second)
    with cached(model("openai", a)) as llm:
        failed = [call for call in at_once(llm, gate, 10) if call.exception()]
    assert (len(a.asked), len(failed), any(overlaps)) == (4, 3, False)


@pytest.mark.parametrize("cancelled", [0, 1], ids=["leader", "follower"])
async def test_a_cancelled_call_leaves_the_rest_alone(api: Make, gate: Gate, cancelled: int) -> None:
    a = api("a", gate, faults.good("second"))
    async with cached(model("openai", a)) as llm:
        calls = [asyncio.create_task(llm.acomplete("t", "hi"))]
        await asyncio.to_thread(gate.reached.wait)
        calls += [asyncio.create_task(llm.acomplete("t", "hi")) for _ in range(2)]
        await asyncio.to_thread(eventually, lambda: under_way(llm) == 3)
        calls[cancelled].cancel()
        await asyncio.wait(calls[cancelled : cancelled + 1])
        gate.open.set()
        results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results.pop(cancelled), asyncio.CancelledError)
    assert {one.text for one in results} == {"one answer" if cancelled else "second"}
    assert len(a.asked) == (1 if cancelled else 2)


@pytest.mark.parametrize("fails", [False, True])
def test_a_stream_waits_for_an_answer_that_is_under_way(api: Make, fails: bool) -> None:
    gate = Gate(faults.error("server_error") if fails else None)
    a = api("a", gate, faults.good("for itself"))
    with cached(model("openai", a)) as llm, ThreadPoolExecutor(3) as pool:
        leader = pool.submit(llm.complete, "t", "hi")
        assert gate.reached.wait(60)
        streams = [pool.submit(lambda: list(llm.stream("t", "hi"))) for _ in range(2)]
        gate.when(lambda: under_way(llm) == 3)
        pieces = [stream.result() for stream in streams]
        assert {"".join(one) for one in pieces} == {"for itself" if fails else "one answer"}
        assert fails or pieces == [["one ", "answer"]] * 2
        assert isinstance(leader.exception(), LLMError) is fails
    assert len(a.asked) == (3 if fails else 1)


def test_no_call_waits_for_a_stream(api: Make) -> None:
    a = api("a", faults.good("one two three"))
    with cached(model("openai", a)) as llm, llm.stream("t", "hi") as paused:
        next(paused)
        assert llm.complete("t", "hi", deadline=20).text == "one two three"
    assert len(a.asked) == 2


def test_a_broken_store_delays_no_call(api: Make, gate: Gate) -> None:
    cache_dir().mkdir(parents=True)
    (cache_dir() / "answers").write_text("in the way")
    with cached(model("openai", api("a", gate, faults.good("for itself")))) as llm:
        calls = at_once(llm, gate, 5)
    assert sorted(call.result().text for call in calls) == ["for itself"] * 4 + ["one answer"]


@pytest.fixture
def new_locks(tmp_path: Path) -> Iterator[Callable[[], FlightLocks]]:
    """Makes the locks of another manager on the same file."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(FlightLocks(tmp_path / "flights.lock")))


def test_without_locks_no_call_waits(new_locks: Callable[[], FlightLocks], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = new_locks(), new_locks()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "platform", "darwin")
        assert [each.acquire("ab" * 32) for each in (one, other)] == [True, True]
        one.release("ab" * 32)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert one.acquire("ab" * 32)


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="the process holds the locks here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_only_the_manager_that_has_a_lock_frees_it(new_locks: Callable[[], FlightLocks]) -> None:
    """Neither another one of the process that is closed, nor a forked child, which shares the open file."""
    mine, other, third = new_locks(), new_locks(), new_locks()
    assert mine.acquire("a" * 64)
    assert not other.acquire("a" * 64)
    assert other.acquire("b" * 64)
    other.close()
    if (child := os.fork()) == 0:
        mine.release("a" * 64)
        os._exit(1 if mine.acquire("a" * 64) else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not third.acquire("a" * 64)
    assert third.acquire("b" * 64)
    mine.release("a" * 64)
    assert third.acquire("a" * 64)
