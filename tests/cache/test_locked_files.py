"""If another program locks the ledger or the store, deadlines and the event loop work, and no answer is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import faults
import pytest
from manager_kit import Api, Make, ask, manager, model

from testronaut_llm import LLMManager, errors
from testronaut_llm.cache import disk
from testronaut_llm.cache.answer_cache import default_folder
from testronaut_llm.support.paths import data_dir

pytestmark = pytest.mark.usefixtures("provider_keys")

each_mode = pytest.mark.parametrize("mode", ["complete", "astream"])
BUDGET = {"per_day": "1", "scope": "locked"}
LONGEST = 1.0
"""Seconds between two beats of a loop that nobody stops; the machine itself may be busy for a while."""


def ledger() -> Path:
    return data_dir() / "ledger.sqlite3"


def hold(file: Path) -> sqlite3.Connection:
    """Locks a file as another program does, until the connection is closed."""
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    db.execute("BEGIN EXCLUSIVE")
    return db


async def release(holder: sqlite3.Connection, after: float) -> None:
    await asyncio.sleep(after)
    holder.close()


def _llm(api: Api, budget: dict[str, Any] | None = None, cache: str = "off") -> LLMManager:
    return manager({"a": model("openai", api)}, cache=cache, retries=0, max_tokens=100, budget=budget)


@asynccontextmanager
async def _beating(mode: str) -> AsyncIterator[None]:
    """Asserts that the event loop is never stopped for long, unless the mode is of the sync kind."""
    beats = [time.monotonic()]

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.01)
            beats.append(time.monotonic())

    heart = asyncio.create_task(beat())
    yield
    await asyncio.sleep(0.02)
    heart.cancel()
    assert not mode.startswith("a") or max(later - one for one, later in pairwise(beats)) < LONGEST


@each_mode
async def test_a_budget_that_is_locked_is_waited_for_until_the_deadline(api: Make, mode: str) -> None:
    a = api("a", faults.good())
    with _llm(a, BUDGET) as llm:
        await ask(llm, mode)
        with closing(hold(ledger())) as holder:
            async with _beating(mode):
                began = time.monotonic()
                calls = [ask(llm, mode, deadline=1) for _ in range(4 if mode.startswith("a") else 1)]
                failed = await asyncio.gather(*calls, return_exceptions=True)
                took = time.monotonic() - began
            assert all(isinstance(error, errors.LLMError) for error in failed)
            assert "fuser" in str(failed[0])
            assert 0.9 < took < 4
            assert len(a.asked) == 1
            answer = asyncio.to_thread(lambda: asyncio.run(ask(llm, mode)))
            assert (await asyncio.gather(answer, release(holder, after=0.3)))[0].text
        assert llm.spend().total.calls == 2


@pytest.mark.parametrize("budget", [None, BUDGET], ids=["no budget", "budget"])
@each_mode
async def test_a_paid_answer_is_handed_out_at_once_and_settled_later(
    api: Make, mode: str, budget: dict[str, Any] | None
) -> None:
    a = api("a", faults.good())
    holders: list[sqlite3.Connection] = []

    def answer_and_hold(exchange: Any) -> None:
        holders.append(hold(ledger()))
        faults.good()(exchange)

    with _llm(a, budget) as llm:
        await ask(llm, mode)
        a.plan(answer_and_hold)
        async with _beating(mode):
            began = time.monotonic()
            answer = await ask(llm, mode)
            assert time.monotonic() - began < 3
        assert answer.text
        assert answer.cost
        assert llm.session.cost == 2 * answer.cost
        holders[0].close()
        assert (llm.spend().total.cost, llm.spend().total.calls) == (2 * answer.cost, 2)


@pytest.mark.parametrize(("mode", "held"), [("close", 0.3), ("aclose", 1.2 * LONGEST)])
async def test_what_was_not_settled_is_settled_at_the_end(api: Make, mode: str, held: float) -> None:
    llm = _llm(api("a", faults.good()))
    llm.complete("t", "hi")
    with closing(hold(ledger())) as holder:
        for _ in range(3):
            llm.complete("t", "hi")
        async with _beating(mode):
            closing_ = llm.aclose() if mode == "aclose" else asyncio.to_thread(llm.close)
            await asyncio.gather(closing_, release(holder, held))
    with closing(sqlite3.connect(ledger())) as db:
        assert db.execute("SELECT state, outcome FROM attempts").fetchall() == [(2, "answer")] * 4


@each_mode
async def test_a_store_that_is_held_stops_no_loop(api: Make, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_TIMEOUT", 1.5 * LONGEST)
    with _llm(api("a", faults.good()), cache="use") as llm:
        await ask(llm, mode, "first")
        with closing(hold(default_folder() / disk.FILE)):
            async with _beating(mode):
                calls = [ask(llm, mode, f"number {n}") for n in range(4 if mode.startswith("a") else 1)]
                answers = await asyncio.gather(*calls)
        assert all(answer.text for answer in answers)
