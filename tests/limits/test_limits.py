"""`limits` in real calls: what a server sees of them, from threads and tasks, and that every way out gives back."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faults
import pytest
import structlog
from fault_server import Exchange
from manager_kit import MODES, Make, ask, config, eventually, looked_up, manager, model

from testronaut_llm import LLMManager, errors
from testronaut_llm.limits import rules
from testronaut_llm.limits.rules import rules_of

pytestmark = pytest.mark.usefixtures("provider_keys")

ONE = {"concurrency": 1}


class Server:
    """A reply that counts how many requests are there at once, and may keep them until it is let go."""

    def __init__(self, *, holds: bool = False, seconds: float = 0.02) -> None:
        self.now = self.most = 0
        self.go = threading.Event()
        self._lock, self._seconds = threading.Lock(), seconds
        if not holds:
            self.go.set()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            while not self.go.is_set():
                exchange.wait(0.005)
            exchange.wait(self._seconds)
        finally:
            with self._lock:
                self.now -= 1
        faults.good()(exchange)


def in_line(llm: LLMManager) -> int:
    return len(llm._caller.services.limiter.line)


def is_free(llm: LLMManager) -> bool:
    """True if nobody holds or wants a slot."""
    return not in_line(llm) and not any(gate.running for gate in llm._caller.services.limiter.gates.values())


@pytest.mark.parametrize(
    ("row", "limits", "expected"),
    [
        ({"model": "openai/x"}, {}, []),
        ({"model": "openai/x", "limits": {"rpm": 5}}, {}, ["models.m.limits (rpm: 5)"]),
        ({"model": "openai/x"}, {"openai": {"tpm": 5000}, "azure": {"rpm": 1}}, ["limits.openai (tpm: 5,000)"]),
        (
            {"model": "openai/x", "limits": ONE},
            {"openai": {"rpm": 1}, "https://api.openai.com/v1": {"rpm": 2}},
            ["models.m.limits (concurrency: 1)", "limits.openai (rpm: 1)", "limits.https://api.openai.com/v1 (rpm: 2)"],
        ),
        ({"model": "openai/x"}, {"https://api.openai.com/": {"rpm": 2}}, ["limits.https://api.openai.com/ (rpm: 2)"]),
        ({"model": "openai/x"}, {"https://api.openai.co": {"rpm": 2}}, []),
        ({"model": "openai/x", "api_base": "http://127.0.0.1:1/v1"}, {"https://api.openai.com": {"rpm": 2}}, []),
        ({"model": "ollama/x"}, {}, ["http://127.0.0.1:11434 (concurrency: 1, by default)"]),
        ({"model": "ollama/x"}, {"ollama": {"concurrency": 2}}, ["limits.ollama (concurrency: 2)"]),
        (
            {"model": "ollama/x"},
            {"http://127.0.0.1:11434/v1": {"rpm": 9}},
            ["limits.http://127.0.0.1:11434/v1 (rpm: 9)", "http://127.0.0.1:11434 (concurrency: 1, by default)"],
        ),
        ({"model": "ollama/x", "api_base": "http://10.0.0.1:11434"}, {}, []),
        ({"model": "ollama/x-cloud"}, {}, []),
        ({"model": "embedded/x"}, {}, ["embedded (concurrency: 1, by default)"]),
    ],
)
def test_which_limits_hold_for_a_model(row: dict[str, Any], limits: dict[str, Any], expected: list[str]) -> None:
    """Its own, its provider's and its endpoint's, all of them; one at a time for a model of this machine."""
    made = config({"m": row}, limits=limits)
    assert [str(rule) for rule in rules_of(made, made.model("m"))] == expected


def test_a_storm_of_threads_and_tasks_stays_within_the_limit(api: Make) -> None:
    """Two models of one provider share its three slots, from every side; nothing fails, and all slots come back."""
    server = Server()
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
        assert is_free(llm)
    assert len(texts) == len(a.asked) + len(b.asked) == 42
    assert server.most == 3


def test_what_does_not_fit_a_minute_waits_for_the_next(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five calls at two a minute: the third and the fifth are sent a minute after those before; the wait is told."""
    monkeypatch.setattr(rules, "MINUTE", 0.3)
    a = api("a", faults.good())
    with manager({"a": model("openai", a, limits={"rpm": 2})}) as llm, structlog.testing.capture_logs() as captured:
        structlog.configure(processors=structlog.get_config()["processors"])
        answers = [llm.complete("t", "hi") for _ in range(5)]
    at = [one.at for one in a.asked]
    assert at[2] - at[0] >= 0.25
    assert at[4] - at[2] >= 0.25
    waited = [answer.attempts[0].waited for answer in answers]
    assert waited[2] > 0.1 > waited[1]
    assert waited[4] > 0.1 > waited[3]
    told = [one["llm.waited_s"] for one in captured if one["event"] == "llm_attempt"]
    assert told == pytest.approx(waited, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
async def test_a_wait_that_does_not_fit_goes_to_the_next_model_at_once(api: Make, mode: str) -> None:
    """Nothing is sent or booked; the attempt says why."""
    a, b = api("a", faults.good()), api("b", faults.good())
    async with manager({"a": model("openai", a, limits={"rpm": 1}), "b": model("openai", b)}) as llm:
        assert (await ask(llm, mode)).model == "a"
        answer = await ask(llm, mode, deadline=20)
        assert answer.model == "b"
        assert answer.latency < 10
        with pytest.raises(errors.AllModelsFailedError) as caught:
            await ask(llm, mode, model="a", deadline=20)
    skipped = answer.attempts[0]
    assert (skipped.model, skipped.cost, skipped.usage) == ("a", 0, None)
    assert isinstance(skipped.error, errors.RateLimitError)
    assert "models.a.limits (rpm: 1) makes it wait at least 6" in str(skipped.error) or "5" in str(skipped.error)
    assert "raise the limit or the call's `deadline`" in str(skipped.error)
    assert answer.attempts[1].reason == "fell back: a failed (rate_limit)"
    assert caught.value.retry_after == pytest.approx(60, abs=20)
    assert (len(a.asked), len(b.asked)) == (1, 1)


def test_a_slot_that_does_not_come_free_ends_with_the_deadline(api: Make) -> None:
    """Nobody knows how long another request takes: one waits as long as one has."""
    server = Server(holds=True)
    a = api("a", server)
    with manager({"a": model("openai", a, limits=ONE)}) as llm, ThreadPoolExecutor(1) as pool:
        first = pool.submit(llm.complete, "t", "hi")
        assert eventually(lambda: server.now == 1)
        with pytest.raises(errors.LLMTimeoutError, match=r"models\.a\.limits \(concurrency: 1\)") as caught:
            llm.complete("t", "hi", deadline=0.2)
        assert caught.value.attempts[0].waited > 0.15  # from its place in line on
        server.go.set()
        assert first.result().text
        assert is_free(llm)
    assert len(a.asked) == 1


def test_waiting_in_line_is_not_part_of_an_attempts_timeout(api: Make) -> None:
    """Of four at one a time the last waits longer than an attempt may take, and is answered (P42)."""
    server = Server(seconds=0.3)
    a = api("a", server)
    with manager({"a": model("ollama", a)}) as llm:
        results = llm.batch("t", ["1", "2", "3", "4"], concurrency=4, timeout=0.8)
    assert all(not isinstance(one, errors.LLMError) for one in results), results
    assert max(one.attempts[0].waited for one in results if not isinstance(one, errors.LLMError)) >= 0.8
    assert (len(a.asked), server.most) == (4, 1)  # a local model is asked one at a time by default


@pytest.mark.parametrize("where", ["in line", "sending"])
def test_ctrl_c_gives_the_place_back(api: Make, where: str) -> None:
    """From the line, and from the slot."""
    server = Server(holds=True)
    a, main = api("a", server), threading.get_ident()
    with manager({"a": model("openai", a, limits=ONE)}) as llm, ThreadPoolExecutor(2) as pool:
        if where == "in line":
            pool.submit(llm.complete, "t", "hi")
            assert eventually(lambda: server.now == 1)

        def interrupt() -> None:
            assert eventually(lambda: server.now == 1 and in_line(llm) == int(where == "in line"))
            time.sleep(0.05)
            signal.pthread_kill(main, signal.SIGINT)

        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.complete("t", "hi")
        assert in_line(llm) == 0
        server.go.set()
        assert llm.complete("t", "hi").text
        assert eventually(lambda: is_free(llm))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["in line", "sending"])
async def test_a_cancelled_task_gives_the_place_back(api: Make, where: str, stream: bool) -> None:
    """From the line, and from the slot; the next one gets it."""
    server = Server(holds=True)
    a = api("a", server)
    async with manager({"a": model("openai", a, limits=ONE)}) as llm:
        tasks = [asyncio.create_task(ask(llm, "astream" if stream else "acomplete")) for _ in range(3)]
        await asyncio.to_thread(eventually, lambda: server.now == 1 and in_line(llm) == 2)
        leaver = tasks.pop(where == "in line")
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        server.go.set()
        assert len(await asyncio.gather(*tasks)) == 2
        assert is_free(llm)


def test_a_stream_that_is_left_gives_the_slot_back(api: Make) -> None:
    """It holds the slot until it is closed."""
    a = api("a", faults.stalled_stream, faults.good())
    with manager({"a": model("openai", a, limits=ONE)}) as llm:
        with llm.stream("t", "hi") as pieces:
            assert next(pieces)
            assert not is_free(llm)
        assert is_free(llm)


def test_accept_may_ask_the_same_model(api: Make) -> None:
    """The slot is back before the answer is judged; and if the function fails, too."""
    a = api("a", faults.good())
    with manager({"a": model("openai", a, limits=ONE)}) as llm:
        answer = llm.complete("t", "hi", accept=lambda _: bool(llm.complete("t", "is it good?", deadline=10).text))
        assert answer.text
        with pytest.raises(ZeroDivisionError):
            llm.complete("t", "hi", accept=lambda _: 1 / 0 > 0)
        assert is_free(llm)
    assert len(a.asked) == 3


@pytest.mark.parametrize(
    ("wire", "headers"),
    [
        ("openai", {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}),
        ("openai", {"x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "0.3s"}),
        ("anthropic", {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "0.3"}),
    ],
)
@pytest.mark.parametrize("mode", MODES)
async def test_a_good_answer_may_ask_to_slow_down(api: Make, wire: str, headers: dict[str, str], mode: str) -> None:
    """The next request waits for the reset, before the provider has to say 429."""
    a = api("a", faults.good(headers=headers), faults.good())
    async with manager({"a": model(wire, a)}) as llm:
        await ask(llm, mode)
        answer = await ask(llm, mode)
    assert a.asked[1].at - a.asked[0].at >= 0.3
    assert answer.attempts[0].waited > 0.2


def test_a_long_pause_is_not_waited_for_where_another_model_is_there(api: Make) -> None:
    """As with a retry: half a minute at most; the only model is waited for as long as the call has time."""
    a, b = api("a", faults.error("rate_limit", retry_after="90")), api("b", faults.good())
    with manager({"a": model("openai", a), "b": model("openai", b)}) as llm:
        assert [llm.complete("t", "hi").model for _ in range(3)] == ["b", "b", "b"]
        answer = llm.complete("t", "hi")
        with pytest.raises(errors.AllModelsFailedError, match="the pause that its provider asks for takes at least"):
            llm.complete("t", "hi", model="a", deadline=30)
    assert len(a.asked) == 1
    assert "not tried" in str(answer.attempts[0].error)


def test_a_cassette_is_replayed_without_limits(api: Make) -> None:
    """Nothing is sent, so nothing waits: neither for `limits` nor for what a recorded answer asks."""
    made = config({"a": model("openai", api("a"), limits={"rpm": 1})})
    with LLMManager(config=made, offline=True) as llm:
        call, services = looked_up(llm), llm._caller.services
        candidate = services.route(call).kept[0]
        for _ in range(3):
            ticket = services.ticket(call, candidate, 1)
            assert ticket.turn()
            ticket.leave(sent=True, error=errors.RateLimitError("slow", retry_after=50.0))
            assert not ticket.in_cooldown
