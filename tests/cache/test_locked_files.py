"""If another program locks the ledger or the store, deadlines and the event loop work, and no answer is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import faults
import pytest
from manager_kit import Api, Make, ask, manager, model

from testronaut_llm import LLMManager, errors
from testronaut_llm.cache import disk
from testronaut_llm.cache.answer_cache import default_folder
from testronaut_llm.support.paths import data_dir

pytestmark = [pytest.mark.usefixtures("provider_keys"), pytest.mark.asyncio]

each_mode = pytest.mark.parametrize("mode", ["complete", "astream"])
HOLD = """import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""
BEAT = 0.01
LONGEST = 1.0
"""Seconds between two beats of a loop that nobody stops; the machine itself may be busy for a while."""


def hold(file: Path) -> subprocess.Popen[str]:
    """Starts a process that locks a file until its `with` block ends, or `communicate` is called."""
    command = [sys.executable, "-c", HOLD, str(file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def _llm(api: Api, budget: dict[str, Any] | None = None, cache: str = "off") -> LLMManager:
    return manager({"a": model("openai", api)}, cache=cache, retries=0, max_tokens=100, budget=budget)


@contextmanager
def _beating() -> Iterator[list[float]]:
    """Yields a function that returns the longest pause of the event loop."""
    longest, last = [0.0], time.monotonic()

    async def beat() -> None:
        nonlocal last
        while True:
            await asyncio.sleep(BEAT)
            longest[0], last = max(longest[0], time.monotonic() - last), time.monotonic()

    heart = asyncio.create_task(beat())
    try:
        yield longest
    finally:
        longest[0] = max(longest[0], time.monotonic() - last)
        heart.cancel()


def _rows() -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(data_dir() / "ledger.sqlite3")) as db:
        return db.execute("SELECT state, outcome FROM attempts").fetchall()


BUDGET = {"per_day": "1", "scope": "locked"}


@each_mode
async def test_a_budget_that_cannot_be_asked_stops_the_call_within_its_deadline(api: Make, mode: str) -> None:
    """Nothing is sent, the error comes at the deadline, and the event loop keeps running."""
    a = api("a", faults.good())
    with _llm(a, BUDGET) as llm:
        await ask(llm, mode)
        with hold(data_dir() / "ledger.sqlite3") as holder, _beating() as longest:
            began = time.monotonic()
            calls = [ask(llm, mode, deadline=1) for _ in range(4 if mode.startswith("a") else 1)]
            failed = await asyncio.gather(*calls, return_exceptions=True)
            took = time.monotonic() - began
            holder.communicate()
        assert all(isinstance(error, errors.LLMError) for error in failed)
        assert "fuser" in str(failed[0])
        assert 0.9 < took < 4
        assert not mode.startswith("a") or longest[0] < LONGEST
        assert len(a.asked) == 1
        assert (await ask(llm, mode)).text  # it is free again


@each_mode
async def test_a_budget_that_is_free_in_time_is_waited_for(api: Make, mode: str) -> None:
    """The call continues as soon as the other process releases the lock."""
    a = api("a", faults.good())
    with _llm(a, BUDGET) as llm:
        await ask(llm, mode)
        with hold(data_dir() / "ledger.sqlite3") as holder:
            free = asyncio.get_running_loop().run_in_executor(None, lambda: (time.sleep(0.3), holder.communicate()))
            assert (await ask(llm, mode)).text
            await free
        assert llm.spend().total.calls == 2


@pytest.mark.parametrize("budget", [None, BUDGET], ids=["no budget", "budget"])
@each_mode
async def test_a_paid_answer_is_handed_out_at_once_and_settled_later(
    api: Make, mode: str, budget: dict[str, Any] | None
) -> None:
    """The file is locked while the model answers; once it is free, the ledger is correct."""
    a = api("a", faults.good())
    holders: list[subprocess.Popen[str]] = []
    with _llm(a, budget) as llm:
        await ask(llm, mode)
        a.plan(lambda exchange: (holders.append(hold(data_dir() / "ledger.sqlite3")), faults.good()(exchange))[1])
        with _beating() as longest:
            began = time.monotonic()
            answer = await ask(llm, mode)
            took = time.monotonic() - began
        assert answer.text
        assert answer.cost
        assert took < 3
        assert not mode.startswith("a") or longest[0] < LONGEST
        assert llm.session.cost == 2 * answer.cost
        holders[0].communicate()
        assert llm.spend().total.cost == 2 * answer.cost
        assert llm.spend().total.calls == 2


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_was_not_settled_is_settled_at_the_end(api: Make, asynchronous: bool) -> None:
    """Closing writes the pending settlements, and an event loop keeps running meanwhile."""
    a = api("a", faults.good())
    llm = _llm(a)
    llm.complete("t", "hi")
    with hold(data_dir() / "ledger.sqlite3") as holder:
        for _ in range(3):
            llm.complete("t", "hi")
        free = asyncio.get_running_loop().run_in_executor(None, lambda: (time.sleep(1.5), holder.communicate()))
        with _beating() as longest:
            await llm.aclose() if asynchronous else llm.close()
        assert not asynchronous or longest[0] < LONGEST
        await free
    assert _rows() == [(2, "answer")] * 4


@each_mode
async def test_a_store_that_is_held_stops_no_loop(api: Make, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is returned even if it cannot be stored."""
    monkeypatch.setattr(disk, "_TIMEOUT", 2.0)
    with _llm(api("a", faults.good()), cache="use") as llm:
        await ask(llm, mode, "first")
        with hold(default_folder() / disk.FILE), _beating() as longest:
            calls = [ask(llm, mode, f"number {n}") for n in range(4 if mode.startswith("a") else 1)]
            answers = await asyncio.gather(*calls)
        assert all(answer.text for answer in answers)
        assert not mode.startswith("a") or longest[0] < LONGEST
