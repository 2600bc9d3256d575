"""Rate limits in whole calls: everyone waits their turn, whoever leaves makes room, and no wait is begun in vain."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faults
import pytest
from fault_server import Exchange
from manager_kit import Api, ask, manager, model

from testronaut_llm import AllModelsFailedError, LLMManager
from testronaut_llm.limits.circuit_breaker import FAILURES

pytestmark = pytest.mark.usefixtures("provider_keys")
Make = Callable[..., Api]
MODES = ("complete", "acomplete", "stream", "astream")


class Crowd:
    """A reply that takes a moment, and knows how many were answered at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self.most = 0
        self._answer = faults.late(0.05, faults.good("fine"))

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self._answer(exchange)
        finally:
            with self._lock:
                self._now -= 1


def limited(api: Api, **limits: int) -> LLMManager:
    """A manager of one model with these limits of its own."""
    return manager({"m": model("openai", api, limits=limits)}, retries=0)


def test_threads_and_tasks_share_the_slots(api: Make) -> None:
    """Never more than two requests at once, and everyone is answered."""
    crowd = Crowd()

    async def tasks(llm: LLMManager) -> list[str]:
        async with asyncio.timeout(60):
            return [one.text for one in await asyncio.gather(*(llm.acomplete("t", f"a{n}") for n in range(8)))]

    with limited(api("crowd", crowd), concurrency=2) as llm, ThreadPoolExecutor(9) as pool:
        loop = pool.submit(asyncio.run, tasks(llm))
        texts = [one.text for one in pool.map(lambda n: llm.complete("t", f"t{n}"), range(8))]
        assert texts + loop.result() == ["fine"] * 16
    assert crowd.most == 2


@pytest.mark.parametrize("mode", MODES)
async def test_a_wait_that_cannot_fit_goes_to_the_next_model_at_once(api: Make, mode: str) -> None:
    """One request a minute: the second call sends nothing there, and says why."""
    first, second = api("first", faults.good("first")), api("second", faults.good("second"))
    rows = {"a": model("openai", first, limits={"rpm": 1}), "b": model("openai", second)}
    async with manager(rows, retries=0, deadline=20) as llm:
        assert (await ask(llm, mode, "one")).text == "first"
        answer = await ask(llm, mode, "two")
    assert (answer.text, len(first.asked), len(second.asked)) == ("second", 1, 1)
    refused = answer.attempts[0]
    assert (refused.model, refused.cost, refused.error.code if refused.error else "") == ("a", None, "rate_limit") or (
        refused.error is not None and "nothing was sent" in str(refused.error)
    )


async def test_alone_it_is_an_error_that_names_the_limit(api: Make) -> None:
    """No other model: the error says which limit, and what mends it."""
    a = api("alone", faults.good())
    async with manager({"a": model("openai", a, limits={"rpm": 1})}, retries=0, deadline=10) as llm:
        await ask(llm, "complete", "one")
        with pytest.raises(AllModelsFailedError, match=r"models\.a\.limits") as caught:
            await ask(llm, "complete", "two")
    assert "deadline" in str(caught.value)
    assert len(a.asked) == 1


@pytest.mark.parametrize("where", ["provider", "endpoint"])
async def test_limits_of_a_provider_or_an_endpoint_hold_for_all_its_models(api: Make, where: str) -> None:
    """Two models, one request a minute together."""
    a = api(f"all {where}", faults.good())
    rows = {"a": model("openai", a), "b": model("openai", a)}
    llm = manager(rows, retries=0, deadline=10)
    name = "openai" if where == "provider" else f"{a.url}/v1"
    config = llm.config.model_copy(update={"limits": {name: _limit(rpm=1)}})
    llm._source._config = config
    async with llm:
        await ask(llm, "complete", "one", model="a")
        with pytest.raises(AllModelsFailedError, match="limits"):
            await ask(llm, "complete", "two", model="b")
    assert len(a.asked) == 1


@pytest.mark.parametrize("how", ["cancelled", "closed", "failed"])
async def test_whoever_leaves_gives_the_slot_back(api: Make, how: str) -> None:
    """A cancelled task, a stream that was closed, an attempt that failed: the next call goes."""
    a = api(f"left {how}", faults.stalled_stream if how == "closed" else faults.silent)
    async with limited(a, concurrency=1) as llm:
        if how == "cancelled":
            task = asyncio.create_task(llm.acomplete("t", "one"))
            await asyncio.to_thread(_arrived, a)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "closed":
            with llm.stream("t", "one") as pieces:
                next(iter(pieces))
        else:
            with pytest.raises(AllModelsFailedError):
                llm.complete("t", "one", timeout=0.2)
        a.plan(faults.good("two"))
        assert (await ask(llm, "complete", "two", deadline=20)).text == "two"


async def test_whoever_is_cancelled_in_line_leaves_it(api: Make) -> None:
    """The place of a task that gave up while it waited keeps nobody back."""
    a = api("in line", faults.late(1.0, faults.good("fine")))
    async with limited(a, concurrency=1) as llm:
        first = asyncio.create_task(llm.acomplete("t", "one"))
        await asyncio.to_thread(_arrived, a)
        second = asyncio.create_task(llm.acomplete("t", "two"))
        await asyncio.sleep(0.2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (await first).text == "fine"
        assert (await llm.acomplete("t", "three", deadline=20)).text == "fine"
    assert len(a.asked) == 2


async def test_a_call_inside_a_local_stream_does_not_wait_for_itself(api: Make) -> None:
    """One request at a time is what nobody wrote for a local model: its own stream is no reason to wait."""
    a = api("inside", faults.good("one two three"))
    async with manager({"m": model("ollama", a)}, retries=0, deadline=20) as llm:
        with llm.stream("t", "outer") as pieces:
            heard = [(piece, llm.complete("t", "inner").text) for piece in pieces]
    assert {inner for _, inner in heard} == {"one two three"}


async def test_local_models_are_asked_one_at_a_time(api: Make) -> None:
    """Where no limit is written."""
    crowd = Crowd()
    async with manager({"m": model("ollama", api("local", crowd))}, retries=0) as llm:
        await asyncio.gather(*(llm.acomplete("t", f"{n}") for n in range(5)))
    assert crowd.most == 1


async def test_a_model_that_fails_again_and_again_is_passed_over(api: Make) -> None:
    """After some failures in a row the next model is asked at once; `route` says so."""
    bad, well = api("bad", faults.error("server_error")), api("well", faults.good("well"))
    async with manager({"a": model("openai", bad), "b": model("openai", well)}, retries=0) as llm:
        for number in range(FAILURES + 3):
            assert (await ask(llm, "complete", f"{number}")).text == "well"
        route: Any = llm.route("t", "?")
    assert len(bad.asked) == FAILURES
    assert [one.alias for one in route.kept] == ["b"]


def _arrived(api: Api) -> None:
    while not api.asked:
        time.sleep(0.01)


def _limit(**limits: int) -> Any:
    from testronaut_llm.config.sections import LimitConfig

    return LimitConfig(**limits)
