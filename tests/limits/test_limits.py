"""`limits` in real calls, from threads and tasks: the server never gets more requests than they allow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faults
import pytest
import structlog
from fault_server import Exchange
from manager_kit import MODES, Make, ask, config, eventually, is_idle, looked_up, manager, model, used_slots

from testronaut_llm import LLMManager, errors
from testronaut_llm.limits import rules
from testronaut_llm.limits.rules import rules_of

pytestmark = pytest.mark.usefixtures("provider_keys")

ONE = {"concurrency": 1}


class Server:
    """A reply that counts the requests at the server, and holds them until `go` is set."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.now = self.most = 0
        self.go, self._lock, self._seconds = threading.Event(), threading.Lock(), seconds

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        while not self.go.is_set():
            exchange.wait(0.005)
        exchange.wait(self._seconds)
        with self._lock:
            self.now -= 1
        faults.good()(exchange)


@pytest.fixture
def held() -> Server:
    """The server of the model of `one_slot`."""
    return Server()


@pytest.fixture
def one_slot(api: Make, held: Server) -> Iterator[LLMManager]:
    """A manager of a model with one slot, which is free again after the test."""
    with manager({"a": model("openai", api("a", held), limits=ONE)}) as llm:
        yield llm
        assert is_idle(llm)


@pytest.mark.parametrize(
    ("name", "row", "limits", "expected"),
    [
        ("openai/x", {}, {"openai": {"tpm": 5000}, "azure": {"rpm": 1}}, ["limits.openai (tpm: 5,000)"]),
        (
            *("openai/x", {"limits": ONE}, {"openai": {"rpm": 1}, "https://api.openai.com/v1": {"rpm": 2}}),
            ["models.m.limits (concurrency: 1)", "limits.openai (rpm: 1)", "limits.https://api.openai.com/v1 (rpm: 2)"],
        ),
        ("openai/x", {}, {"https://api.openai.com/": {"rpm": 2}}, ["limits.https://api.openai.com/ (rpm: 2)"]),
        ("openai/x", {"api_base": "http://127.0.0.1:1/v1"}, {"https://api.openai.com": {"rpm": 2}}, []),
        (
            *("ollama/x", {}, {"http://127.0.0.1:11434/v1": {"rpm": 9}}),
            ["limits.http://127.0.0.1:11434/v1 (rpm: 9)", "http://127.0.0.1:11434 (concurrency: 1, by default)"],
        ),
        ("ollama/x", {"api_base": "http://10.0.0.1:11434"}, {}, []),
        ("ollama/x-cloud", {}, {}, []),
        ("embedded/x", {}, {}, ["embedded (concurrency: 1, by default)"]),
    ],
)
def test_which_limits_hold_for_a_model(name: str, row: dict[str, Any], limits: Any, expected: list[str]) -> None:
    made = config({"m": {"model": name, **row}}, limits=limits)
    assert [str(rule) for rule in rules_of(made, made.model("m"))] == expected


def test_threads_and_tasks_stay_within_a_limit(api: Make) -> None:
    """Two models of one provider share its three slots, and every call is answered."""
    server = Server()
    server.go.set()
    a, b = api("a", server), api("b", server)
    llm = manager({"a": model("openai", a), "b": model("openai", b)}, limits={"openai": {"concurrency": 3}})

    async def tasks() -> list[str]:
        found = await asyncio.gather(*(ask(llm, MODES[1 + 2 * (n % 2)], model="ab"[n % 2]) for n in range(20)))
        return [one.text for one in found]

    def thread(number: int) -> list[str]:
        if number == 0:
            return asyncio.run(tasks())
        return [llm.complete("t", "hi", model="ab"[number % 2]).text for _ in range(2)]

    with llm, ThreadPoolExecutor(12) as pool:
        texts = [text for found in pool.map(thread, range(12)) for text in found]
        assert used_slots(llm) == 0
    assert len(texts) == len(a.asked) + len(b.asked) == 42
    assert server.most == 3


def test_a_call_beyond_the_minute_waits(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MINUTE", 1.0)
    a = api("a", faults.good())
    with manager({"a": model("openai", a, limits={"rpm": 1})}) as llm, structlog.testing.capture_logs() as captured:
        structlog.configure(processors=structlog.get_config()["processors"])
        waited = [llm.complete("t", "hi").attempts[0].waited for _ in range(2)]
    assert [seconds > 0.05 for seconds in waited] == [False, True]
    reported = [one["llm.waited_s"] for one in captured if one["event"] == "llm_attempt"]
    assert reported == pytest.approx(waited, abs=1e-3)


@pytest.mark.parametrize("mode", ["complete", "astream"])
async def test_a_wait_beyond_the_deadline_goes_to_the_next_model(api: Make, mode: str) -> None:
    """Nothing is sent or booked for the first model, and its attempt says why."""
    a, b = api("a", faults.good()), api("b", faults.good())
    async with manager({"a": model("openai", a, limits={"rpm": 1}), "b": model("openai", b)}) as llm:
        assert (await ask(llm, mode)).model == "a"
        answer = await ask(llm, mode, deadline=20)
        with pytest.raises(errors.AllModelsFailedError) as caught:
            await ask(llm, mode, model="a", deadline=20)
    skipped = answer.attempts[0]
    assert (answer.model, skipped.model, skipped.cost, skipped.usage) == ("b", "a", 0, None)
    assert isinstance(skipped.error, errors.RateLimitError)
    assert "models.a.limits (rpm: 1) makes it wait at least 6" in str(skipped.error) or "5" in str(skipped.error)
    assert "raise the limit or the call's `deadline`" in str(skipped.error)
    assert answer.attempts[1].reason == "fell back: a failed (rate_limit)"
    assert caught.value.retry_after == pytest.approx(60, abs=20)
    assert (len(a.asked), len(b.asked)) == (1, 1)


def test_a_slot_that_does_not_come_free_ends_with_the_deadline(one_slot: LLMManager, held: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(one_slot.complete, "t", "hi")
        assert eventually(lambda: held.now == 1)
        with pytest.raises(errors.LLMTimeoutError, match=r"models\.a\.limits \(concurrency: 1\)") as caught:
            one_slot.complete("t", "hi", deadline=0.2)
        assert caught.value.attempts[0].waited > 0.15  # from its place in line on
        held.go.set()
        assert first.result().text
    assert held.most == 1


def test_the_time_in_line_is_no_part_of_the_timeout(api: Make) -> None:
    server = Server(seconds=0.2)
    server.go.set()
    a = api("a", server)
    with manager({"a": model("ollama", a)}) as llm:
        results = llm.batch("t", ["1", "2", "3", "4"], concurrency=4, timeout=0.5)
    assert all(not isinstance(one, errors.LLMError) for one in results), results
    assert max(one.attempts[0].waited for one in results if not isinstance(one, errors.LLMError)) >= 0.5
    assert (len(a.asked), server.most) == (4, 1)  # a local model is asked one at a time by default


@pytest.mark.parametrize("place", ["in line", "sending"])
async def test_a_cancelled_task_gives_its_place_to_the_next(one_slot: LLMManager, held: Server, place: str) -> None:
    """Tasks behind a cancelled one are answered, whether it was in line or had the slot."""
    tasks = [asyncio.create_task(ask(one_slot, "acomplete")) for _ in range(3)]
    line = one_slot._caller.services.limiter.line
    assert await asyncio.to_thread(eventually, lambda: (held.now, len(line)) == (1, 2))
    cancelled = tasks.pop(place == "in line")
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    held.go.set()
    assert len(await asyncio.gather(*tasks)) == 2


def test_accept_may_ask_the_same_model(api: Make) -> None:
    """The slot is free before `accept` runs, and after it raises."""
    a = api("a", faults.good())
    with manager({"a": model("openai", a, limits=ONE)}) as llm:
        answer = llm.complete("t", "hi", accept=lambda _: bool(llm.complete("t", "is it good?", deadline=10).text))
        assert answer.text
        with pytest.raises(ZeroDivisionError):
            llm.complete("t", "hi", accept=lambda _: 1 / 0 > 0)
        assert used_slots(llm) == 0
    assert len(a.asked) == 3


async def test_headers_of_a_good_answer_hold_back_the_next_call(api: Make) -> None:
    headers = {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "0.3"}
    a = api("a", faults.good(headers=headers), faults.good())
    async with manager({"a": model("anthropic", a)}) as llm:
        await ask(llm, "astream")
        answer = await ask(llm, "complete")
    assert a.asked[1].at - a.asked[0].at >= 0.3
    assert answer.attempts[0].waited > 0.2


def test_a_cassette_is_replayed_without_limits(api: Make) -> None:
    """A replay waits neither for `limits` nor for a recorded retry-after."""
    made = config({"a": model("openai", api("a"), limits={"rpm": 1})})
    with LLMManager(config=made, offline=True) as llm:
        call, services = looked_up(llm), llm._caller.services
        candidate = services.route(call).kept[0]
        for _ in range(3):
            ticket = services.ticket(call, candidate, 1)
            assert ticket.turn()
            ticket.leave(sent=True, error=errors.RateLimitError("slow", retry_after=50.0))
            assert not ticket.in_cooldown
