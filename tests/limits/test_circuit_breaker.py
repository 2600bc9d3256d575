"""A model that keeps failing has a cooldown; other models are asked meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
from manager_kit import Make, Run, ask, manager, model
from rate_kit import Still

from testronaut_llm import LLMManager, errors
from testronaut_llm.limits import rules

pytestmark = pytest.mark.usefixtures("provider_keys")


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
                assert isinstance(skipped.error, errors.OverloadedError)
                assert "not tried: its cooldown after " in str(skipped.error)
                assert "failures in a row (last: server_error) takes at least" in str(skipped.error)
                assert (skipped.cost, answer.attempts[1].reason) == (0, "fell back: a failed (overloaded)")
    assert hits == [*["a>b"] * 5, ">b", ">b", "a>b", ">b", ">b", "a>a", "a>a"]


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        (faults.error("rate_limit"), True),
        (faults.reset_before_headers, True),
        ("no server", True),
        (faults.error("server_error", headers={"x-should-retry": "false"}), True),
        (faults.error("authentication"), False),
        (faults.raw(200, b"<html>", "text/html"), False),
    ],
)
def test_what_counts_as_a_failure(api: Make, reply: Callable[..., None] | str, counts: bool) -> None:
    """Temporary failures count; a server that refuses the request, or answers invalid text, is not down."""
    a = "http://127.0.0.1:9" if isinstance(reply, str) else api("a", reply)
    with manager({"a": model("openai", a)}, retries=0) as llm:
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
    command = ["route", "t", "hi", "--config", str(tmp_path / "llm.yaml")]
    (row,) = json.loads(run(*command, "--json")[1])["candidates"]
    assert row["limits"] == ["limits.openai (rpm: 500, concurrency: 16)"]
    assert "concurrency: 16" in run(*command)[1]
