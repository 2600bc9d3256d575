"""Many calls to failing servers, and killed processes: ledger and files stay correct, and no resource grows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import sys
import threading
from decimal import Decimal
from pathlib import Path

import faults
import psutil
import pytest
from fault_server import Exchange, Reply
from manager_kit import Make, booked, eventually, manager, model, program

from testronaut_llm import Answer, LLMError, LLMManager
from testronaut_llm.routing import retry as fallback_module

pytestmark = pytest.mark.usefixtures("provider_keys")

BAD: tuple[Reply, ...] = (
    *(faults.error(case, headers={"retry-after-ms": "1"}) for case in ("rate_limit", "server_error", "unavailable")),
    *(faults.error(case) for case in ("authentication", "bad_request")),
    *(faults.BROKEN[name] for name in ("closed before headers", "reset after headers", "cut body")),
    *(faults.BAD_BODIES[name] for name in ("empty", "html as json", "wrong shape", "no choices", "not utf-8")),
)


def unreliable(seed: int) -> Reply:
    """Returns a reply that is bad in a fifth of the requests."""
    chance, lock, well = random.Random(seed), threading.Lock(), faults.good("fine", usage=(10, 5))

    def reply(exchange: Exchange) -> None:
        with lock:
            chosen = chance.choice(BAD) if chance.random() < 0.2 else well
        chosen(exchange)

    return reply


def managed(api: Make) -> LLMManager:
    rows = {wire: model(wire, api(wire, unreliable(n))) for n, wire in enumerate(("openai", "anthropic", "azure"))}
    return manager(rows, retries=2, timeout=30, budget={"per_day": 1000})


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback_module, "FIRST_WAIT", 0.002)
    monkeypatch.setattr("testronaut_llm.limits.rules.FIRST_COOLDOWN", 0.005)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_many_calls_to_failing_servers(api: Make) -> None:
    calls = 20_000 if "SOAK_ROUNDS" in os.environ else 100
    with managed(api) as llm:
        results = llm.batch("t", (f"hi {n}" for n in range(calls)), concurrency=16)
        _, unsettled, spent = booked(llm)
    assert len(results) == calls
    assert all(isinstance(one, Answer | LLMError) for one in results)
    assert {one.text for one in results if isinstance(one, Answer)} == {"fine"}
    assert sum(isinstance(one, Answer) for one in results) > 0.8 * calls
    assert unsettled == 0
    assert spent == sum((one.cost or Decimal(0) for result in results for one in result.attempts), Decimal(0))


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors")
@pytest.mark.filterwarnings("error::ResourceWarning")
def test_nothing_piles_up_over_calls_and_event_loops(api: Make) -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        return psutil.Process().num_fds(), threading.active_count()

    async def three() -> list[object]:
        return await asyncio.gather(*(llm.acomplete("t", f"hi {n}") for n in range(3)), return_exceptions=True)

    def ask(calls: int) -> None:
        for number in range(calls):
            with contextlib.suppress(LLMError):
                llm.complete("t", f"hi {number}")
                list(llm.stream("t", f"ho {number}"))
        for _ in range(10):
            assert all(isinstance(one, Answer | LLMError) for one in asyncio.run(three()))

    with managed(api) as llm:
        ask(20)
        most = [count + more for count, more in zip(held(), (5, 2), strict=True)]
        ask(40)
        assert eventually(lambda: all(now <= limit for now, limit in zip(held(), most, strict=True))), (held(), most)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.skipif(os.name != "posix", reason="kill -9 and fork")
def test_a_kill_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    """After kill -9 at random moments, ledger, cache, llm.yaml, events and model index hold what was written."""
    crashes = Path(__file__).parents[1] / "support" / "crash_program.py"
    rounds = int(os.environ.get("SOAK_ROUNDS", "12"))
    done = program(crashes, tmp_path, rounds, random.randrange(1 << 30), timeout=30 + 10 * rounds)
    assert done.returncode == 0, done.stderr[-2000:]
    finished = json.loads(done.stdout)
    assert set(finished) == {"settled", "cached", "edited", "logged"}
    assert min(finished.values()) >= rounds / 2
