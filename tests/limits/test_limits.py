"""Limits and cooldowns in real calls: a server gets no more requests than `limits` allow, and few while it fails."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import pytest
import structlog
from fault_server import Exchange, Reply
from manager_kit import MODES, Make, Run, ask, config, eventually, is_idle, looked_up, manager, model, used_slots
from rate_kit import Still

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
def one_slot(api: Make) -> Iterator[tuple[LLMManager, Server]]:
    """A manager of a model with one slot, which is free again after the test, and the server of this model."""
    held = Server()
    with manager({"a": model("openai", api("a", held), limits=ONE)}) as llm:
        yield llm, held
        assert is_idle(llm)


@pytest.mark.parametrize(
    ("name", "row", "limits", "expected"),
    [
        ("openai/x", {}, {"openai": {"tpm": 5000}, "azure": {"rpm": 1}}, ["limits.openai (tpm: 5,000)"]),
        (
            *("openai/x", {"limits": ONE}, {"openai": {"rpm": 1}, "https://api.openai.com/": {"rpm": 2}}),
            ["models.m.limits (concurrency: 1)", "limits.openai (rpm: 1)", "limits.https://api.openai.com/ (rpm: 2)"],
        ),
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

    def text(number: int) -> str:
        return asyncio.run(ask(llm, MODES[number % 4], model="ab"[number // 4 % 2])).text

    with llm, ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(text, range(40)))
        assert used_slots(llm) == 0
    assert len(texts) == len(a.asked) + len(b.asked) == 40
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
    assert re.search(r"models\.a\.limits \(rpm: 1\) makes it wait at least (60|[3-5]\d(\.\d)?) s", str(skipped.error))
    assert "raise the limit or the call's `deadline`" in str(skipped.error)
    assert answer.attempts[1].reason == "fell back: a failed (rate_limit)"
    assert caught.value.retry_after == pytest.approx(60, abs=20)
    assert (len(a.asked), len(b.asked)) == (1, 1)


def test_a_slot_that_does_not_come_free_ends_with_the_deadline(one_slot: tuple[LLMManager, Server]) -> None:
    llm, held = one_slot
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(llm.complete, "t", "hi")
        assert eventually(lambda: held.now == 1)
        with pytest.raises(errors.LLMTimeoutError, match=r"models\.a\.limits \(concurrency: 1\)") as caught:
            llm.complete("t", "hi", deadline=0.2)
        assert caught.value.attempts[0].waited > 0.15  # from its place in line on
        held.go.set()
        assert first.result().text
    assert held.most == 1


def test_the_time_in_line_is_no_part_of_the_timeout(api: Make) -> None:
    server = Server(seconds=0.4)
    server.go.set()
    a = api("a", server)
    with manager({"a": model("ollama", a)}) as llm:
        results = llm.batch("t", ["1", "2", "3", "4"], concurrency=4, timeout=1)
    assert all(not isinstance(one, errors.LLMError) for one in results), results
    assert max(one.attempts[0].waited for one in results if not isinstance(one, errors.LLMError)) >= 1
    assert (len(a.asked), server.most) == (4, 1)  # a local model is asked one at a time by default


@pytest.mark.parametrize("place", ["in line", "sending"])
async def test_a_cancelled_task_gives_its_place_to_the_next(one_slot: tuple[LLMManager, Server], place: str) -> None:
    llm, held = one_slot
    tasks = [asyncio.create_task(ask(llm, "acomplete")) for _ in range(3)]
    line = llm._caller.services.limiter.line
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
        assert llm.complete("t", "hi", accept=lambda _: bool(llm.complete("t", "is it good?", deadline=10).text)).text
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


def fail(llm: LLMManager, alias: str = "a", times: int = 5) -> None:
    for _ in range(times):
        with pytest.raises(errors.AllModelsFailedError):
            llm.complete("t", "hi", model=alias)


@pytest.mark.parametrize("mode", ["complete", "astream"])
async def test_cooldown_probe_and_recovery(api: Make, mode: str) -> None:
    """Five failures start a cooldown; after it one call probes the model, whose result ends or doubles it."""
    a, b = api("a", faults.error("server_error")), api("b", faults.good())
    async with manager({"a": model("openai", a), "b": model("openai", b)}, retries=0) as llm:
        still, hits = Still(), []
        llm._caller.services.limiter = still.limiter
        for seconds in (0, 0, 0, 0, 0, 0, 4.9, 0.1, 5, 4.9, 0.1, 0):
            still.now += seconds
            if seconds == 0.1 and len(hits) > 8:
                a.plan(faults.good())
            before = len(a.asked)
            answer = await ask(llm, mode)
            hits.append(f"{'a' if len(a.asked) > before else ''}>{answer.model}")
            if hits[-1] == ">b":
                skipped = answer.attempts[0]
                assert "not tried: its cooldown after " in str(skipped.error)
                assert "failures in a row (last: server_error) takes at least" in str(skipped.error)
                assert (skipped.cost, answer.attempts[1].reason) == (0, "fell back: a failed (overloaded)")
    assert hits == [*["a>b"] * 5, ">b", ">b", "a>b", ">b", ">b", "a>a", "a>a"]


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        (faults.error("rate_limit"), True),
        (faults.reset_before_headers, True),
        (faults.error("server_error", headers={"x-should-retry": "false"}), True),
        (faults.error("authentication"), False),
        (faults.raw(200, b"<html>", "text/html"), False),
    ],
)
def test_what_counts_as_a_failure(api: Make, reply: Reply, counts: bool) -> None:
    with manager({"a": model("openai", api("a", reply))}, retries=0) as llm:
        fail(llm)
        assert llm._caller.services.limiter.cooldown("a (openai/gpt-4o-mini)")[0] is counts


def test_a_call_that_its_caller_ends_is_no_failure(api: Make) -> None:
    a = api("a", faults.silent)
    with manager({"a": model("openai", a)}, retries=0) as llm:
        for _ in range(5):
            with pytest.raises(errors.LLMTimeoutError):
                llm.complete("t", "hi", deadline=0.05)
        a.plan(faults.stalled_stream)
        for _ in range(5):
            with llm.stream("t", "hi") as pieces:
                assert next(pieces)
        assert llm._caller.services.limiter.cooldown("a (openai/gpt-4o-mini)") == (False, 0.0)


def test_the_only_model_is_waited_for_once(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a server is down, a batch does not wait for a cooldown for each of its calls."""
    monkeypatch.setattr(rules, "FIRST_COOLDOWN", 0.2)
    a = api("a", faults.error("server_error"))
    with manager({"a": model("openai", a)}, retries=0) as llm:
        fail(llm)
        results = llm.batch("t", ["1", "2", "3", "4", "5", "6"], concurrency=6, deadline=30)
        assert all(isinstance(one, errors.AllModelsFailedError) for one in results), results
        assert len(a.asked) == 6
        a.plan(faults.good())
        first, second = (llm.complete("t", "hi").attempts for _ in range(2))
    assert (len(first), first[0].waited > 0.2, second[0].waited < 0.2) == (1, True, True)


def test_route_shows_cooldowns_waits_and_limits(api: Make) -> None:
    a, b = api("a", faults.error("server_error")), api("b", faults.good())
    rows = {"a": model("openai", a), "b": model("anthropic", b, limits={"rpm": 1})}
    with manager(rows, limits={"openai": {"concurrency": 9}}, retries=0) as llm:
        llm._caller.services.limiter = Still().limiter
        assert [one.kept for one in llm.route("t", "hi").candidates] == [True, True]
        fail(llm)
        llm.complete("t", "hi", model="b")
        b_row, a_row = llm.route("t", "hi").candidates
        (only,) = llm.route("t", "hi", model="a").candidates
    assert (a_row.alias, a_row.kept, a_row.problem) == ("a", False, "no_ready_model")
    assert "would wait 5 s for its cooldown after 5 failures in a row (last: server_error)" in a_row.reason
    assert a_row.limits == ("limits.openai (concurrency: 9)",)
    assert (b_row.alias, b_row.kept, b_row.limits) == ("b", True, ("models.b.limits (rpm: 1)",))
    assert b_row.reason.endswith("; would wait 60 s for models.b.limits (rpm: 1)")
    assert only.kept


def test_the_command_line_names_the_limits(run: Run, tmp_path: Path) -> None:
    limited = "version: 1\ntasks: {t: {models: [openai/gpt-4o-mini]}}\nlimits: {openai: {rpm: 500, concurrency: 16}}\n"
    (tmp_path / "llm.yaml").write_text(limited)
    for form in ([], ["--json"]):
        out = run("route", "t", "hi", "--config", str(tmp_path / "llm.yaml"), *form)[1]
        assert "limits.openai (rpm: 500, concurrency: 16)" in out
