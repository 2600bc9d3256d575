"""A model that fails again and again is left alone for a while, then asked once; another one is asked meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
from manager_kit import MODES, Make, ask, manager, model
from typer.testing import CliRunner

from testronaut_llm import LLMManager, errors
from testronaut_llm.cli.app import app
from testronaut_llm.limits import rules
from testronaut_llm.limits.rate_limiter import RateLimiter

pytestmark = pytest.mark.usefixtures("provider_keys")


class Clock:
    """Stands still until it is moved; seconds."""

    def __init__(self, llm: LLMManager) -> None:
        self.now = 1000.0
        llm._caller.services.limiter = RateLimiter(lambda: self.now)


def fail(llm: LLMManager, alias: str = "a", times: int = 5) -> None:
    for _ in range(times):
        with pytest.raises(errors.AllModelsFailedError):
            llm.complete("t", "hi", model=alias)


@pytest.mark.parametrize("mode", MODES)
async def test_its_whole_life(api: Make, mode: str) -> None:
    """Closed, open (nobody asks it), half-open (one does, and it fails), open for longer, half-open, closed."""
    a, b = api("a", faults.error("server_error")), api("b", faults.good())
    async with manager({"a": model("openai", a), "b": model("openai", b)}, retries=0) as llm:
        clock, hits = Clock(llm), []
        for seconds in (0, 0, 0, 0, 0, 0, 4.9, 0.1, 5, 4.9, 0.1, 0):
            clock.now += seconds
            if seconds == 0.1 and len(hits) > 8:
                a.plan(faults.good())
            before = len(a.asked)
            answer = await ask(llm, mode)
            hits.append(f"{'a' if len(a.asked) > before else ''}>{answer.model}")
            if hits[-1] == ">b":
                skipped = answer.attempts[0]
                assert isinstance(skipped.error, errors.OverloadedError)
                assert "not tried: its cooldown after " in str(skipped.error)
                assert "failures in a row (last: server_error) takes at least" in str(skipped.error)
                assert (skipped.cost, answer.attempts[1].reason) == (0, "fell back: a failed (overloaded)")
    assert hits == [*["a>b"] * 5, ">b", ">b", "a>b", ">b", ">b", "a>a", "a>a"]


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        (faults.error("server_error"), True),
        (faults.error("unavailable"), True),
        (faults.error("overloaded"), True),
        (faults.error("rate_limit"), True),
        (faults.reset_before_headers, True),
        (faults.silent, True),
        ("nobody listens", True),
        (faults.error("server_error", headers={"x-should-retry": "false"}), True),
        (faults.error("authentication"), False),
        (faults.error("quota"), False),
        (faults.raw(200, b"<html>", "text/html"), False),
    ],
)
def test_what_counts_as_a_failure(api: Make, reply: Callable[..., None] | str, counts: bool) -> None:
    """What may pass by itself; a server that refuses this request, or talks nonsense, is there."""
    a = "http://127.0.0.1:9" if isinstance(reply, str) else api("a", reply)
    timeout = 0.5 if reply is faults.silent else 30
    with manager({"a": model("openai", a)}, retries=0, timeout=timeout) as llm:
        fail(llm)
        assert llm._caller.services.limiter.cooldown("a (openai/gpt-4o-mini)")[0] is counts


def test_a_deadline_that_is_too_short_says_nothing_of_the_model(api: Make) -> None:
    """A hurried caller does not take a model away from the others."""
    a = api("a", faults.silent)
    with manager({"a": model("openai", a)}, retries=0) as llm:
        for _ in range(5):
            with pytest.raises(errors.LLMTimeoutError):
                llm.complete("t", "hi", deadline=0.05)
        assert llm._caller.services.limiter.cooldown("a (openai/gpt-4o-mini)") == (False, 0.0)


def test_a_caller_who_leaves_says_nothing_of_the_model(api: Make) -> None:
    """Streams that are closed early are no failures of their model."""
    a = api("a", faults.stalled_stream)
    with manager({"a": model("openai", a)}, retries=0) as llm:
        for _ in range(5):
            with llm.stream("t", "hi") as pieces:
                assert next(pieces)
        assert llm._caller.services.limiter.cooldown("a (openai/gpt-4o-mini)") == (False, 0.0)


def test_the_only_model_is_waited_for(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can answer: the call waits for the end of the rest, and asks."""
    monkeypatch.setattr(rules, "FIRST_COOLDOWN", 0.3)
    a = api("a", faults.error("server_error"))
    with manager({"a": model("openai", a)}, retries=0) as llm:
        fail(llm)
        a.plan(faults.good())
        answer = llm.complete("t", "hi")
        assert (answer.model, len(answer.attempts)) == ("a", 1)
        assert answer.attempts[0].waited > 0.2
        assert llm.complete("t", "hi").attempts[0].waited < 0.2


def test_a_rest_that_does_not_fit_the_deadline_fails_at_once(api: Make) -> None:
    """With the reason, and nothing sent; when it is over."""
    a = api("a", faults.error("server_error"))
    with manager({"a": model("openai", a)}, retries=0) as llm:
        Clock(llm)
        fail(llm)
        with pytest.raises(errors.AllModelsFailedError, match="its cooldown after 5 failures") as caught:
            llm.complete("t", "hi", deadline=4)
    assert len(a.asked) == 5
    assert caught.value.retry_after == 5.0


def test_a_rest_is_waited_for_once(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a server is down, a batch fails about as fast as its cooldowns end, not one call a cooldown."""
    monkeypatch.setattr(rules, "FIRST_COOLDOWN", 0.1)
    a = api("a", faults.error("server_error"))
    with manager({"a": model("openai", a)}, retries=0) as llm:
        fail(llm)
        results = llm.batch("t", ["1", "2", "3", "4", "5", "6"], concurrency=6, deadline=30)
    assert all(isinstance(one, errors.AllModelsFailedError) for one in results), results
    assert len(a.asked) == 6


def test_the_dry_run_shows_what_rests_and_what_waits(api: Make) -> None:
    """A model in a cooldown is dropped with its reason; one that would wait says for what; the limits are named."""
    a, b = api("a", faults.error("server_error")), api("b", faults.good())
    rows = {"a": model("openai", a), "b": model("anthropic", b, limits={"rpm": 1})}
    with manager(rows, limits={"openai": {"concurrency": 9}}, retries=0) as llm:
        Clock(llm)
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


def test_the_command_line_names_the_limits(tmp_path: Path) -> None:
    """In the table of `route`, and in its JSON."""
    (tmp_path / "llm.yaml").write_text(
        "version: 1\ntasks: {t: {models: [openai/gpt-4o-mini]}}\nlimits: {openai: {rpm: 500, concurrency: 16}}\n"
    )
    command, key = ["route", "t", "hi", "--config", str(tmp_path / "llm.yaml")], {"OPENAI_API_KEY": "x" * 20}
    (row,) = json.loads(CliRunner().invoke(app, [*command, "--json"], env=key).stdout)["candidates"]
    assert row["limits"] == ["limits.openai (rpm: 500, concurrency: 16)"]
    assert "concurrency: 16" in " ".join(CliRunner().invoke(app, command, env=key).stdout.replace("│", " ").split())
