"""Many calls on a bad day: each ends in an answer or one of our errors, the books are right, and nothing piles up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import sys
import threading
import time
import warnings
from decimal import Decimal

import faults
import psutil
import pytest
from fault_server import Exchange, Reply
from manager_kit import Make, manager, model

from testronaut_llm import Answer, LLMError, LLMManager
from testronaut_llm.routing import retry as fallback_module

pytestmark = pytest.mark.usefixtures("provider_keys")

SOAK_CALLS = 20_000
BAD: tuple[Reply, ...] = (
    *(faults.error(case, headers={"retry-after-ms": "1"}) for case in ("rate_limit", "server_error", "unavailable")),
    *(faults.error(case) for case in ("authentication", "bad_request")),
    *(faults.BROKEN[name] for name in ("closed before headers", "reset after headers", "cut body")),
    *(faults.BAD_BODIES[name] for name in ("empty", "html as json", "wrong shape", "no choices", "not utf-8")),
)


def moody(share: float, seed: int) -> Reply:
    """Good answers, and so often a bad one of some kind."""
    chance, lock, well = random.Random(seed), threading.Lock(), faults.good("fine", usage=(10, 5))

    def reply(exchange: Exchange) -> None:
        with lock:
            chosen = chance.choice(BAD) if chance.random() < share else well
        chosen(exchange)

    return reply


def managed(api: Make, share: float = 0.2) -> LLMManager:
    """Three wires behind moody servers, a budget, no cache."""
    rows = {wire: model(wire, api(wire, moody(share, n))) for n, wire in enumerate(("openai", "anthropic", "azure"))}
    return manager(rows, retries=2, timeout=30, budget={"per_day": 1000})


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback_module, "FIRST_WAIT", 0.002)
    monkeypatch.setattr("testronaut_llm.limits.rules.FIRST_COOLDOWN", 0.005)


def spent(results: list[Answer | LLMError]) -> Decimal:
    return sum((one.cost or Decimal(0) for result in results for one in result.attempts), Decimal(0))


def check(llm: LLMManager, results: list[Answer | LLMError], calls: int) -> None:
    assert len(results) == calls
    assert {type(one) for one in results} <= {Answer, *_errors(LLMError)}
    assert all(isinstance(one, LLMError) or one.text == "fine" for one in results)
    assert sum(isinstance(one, Answer) for one in results) > 0.8 * calls
    unsettled, booked = llm._ledger.file.run(
        lambda db: db.execute("SELECT total(state < 2), total(amount) FROM attempts").fetchone()
    )
    assert unsettled == 0
    assert Decimal(booked).scaleb(-12) == spent(results)


def _errors(kind: type[LLMError]) -> set[type[LLMError]]:
    return {kind} | {one for child in kind.__subclasses__() for one in _errors(child)}


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_many_bad_days(api: Make) -> None:
    """A fifth of all requests fails. `make soak`: 20,000 calls; without SOAK_ROUNDS, a few."""
    calls = SOAK_CALLS if "SOAK_ROUNDS" in os.environ else 100
    with managed(api) as llm:
        check(llm, llm.batch("t", (f"hi {n}" for n in range(calls)), concurrency=16), calls)


def held() -> tuple[int, int]:
    """Descriptors and threads of this process, once threads that wait for another attempt have ended."""
    time.sleep(1.5)
    gc.collect()
    return psutil.Process().num_fds(), threading.active_count()


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors")
def test_nothing_piles_up_over_calls_and_event_loops(api: Make) -> None:
    """100 sync calls and 20 event loops, good and bad, with one manager: descriptors and threads as before (P23)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with managed(api, share=0.1) as llm:
            _ask(llm, 20, loops=20)
            before = held()
            _ask(llm, 100, loops=20)
            after = held()
    assert after[0] <= before[0] + 5, (before, after)
    assert after[1] <= before[1] + 2, (before, after)


def _ask(llm: LLMManager, calls: int, *, loops: int) -> None:
    for number in range(calls):
        with contextlib.suppress(LLMError):
            llm.complete("t", f"hi {number}")
            list(llm.stream("t", f"ho {number}"))
    for number in range(loops):
        answers = asyncio.run(_three(llm, number))
        assert all(isinstance(one, Answer | LLMError) for one in answers)


async def _three(llm: LLMManager, number: int) -> list[object]:
    asked = (llm.acomplete("t", f"hi {number} {n}") for n in range(3))
    return await asyncio.gather(*asked, return_exceptions=True)
