"""The budgets of `llm.yaml` apply to every call in any number of processes, and no paid answer is lost."""

from __future__ import annotations

import contextlib
import json
import os
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import faults
import ledger_storm
import pytest
from fault_server import FaultServer
from manager_kit import Make, looked_up, manager, model, program
from structlog.testing import capture_logs

from testronaut_llm import LLMConfig, errors
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.records import Usage
from testronaut_llm.support.paths import data_dir
from testronaut_llm.testing.fake import FakeAnswer, FakeLLM

A_CALL = Decimal("0.0001")  # of the storm
pytestmark = pytest.mark.usefixtures("provider_keys")

# USD per million tokens: an answer of 1,000 tokens costs 1 cent, 1 mill, nothing.
MODELS: dict[str, Any] = {
    "dear": {"model": "openai/dear", "price": {"input": 0, "output": 10}, "quality": 9},
    "cheap": {"model": "openai/cheap", "price": {"input": 0, "output": 1}, "quality": 5},
    "home": {"model": "openai/home", "price": {"input": 0, "output": 0}, "quality": 3, "local": True},
}


def fake(*models: str, budget: dict[str, Any] | None = None, own: Any = None, **task: Any) -> FakeLLM:
    """Tasks `t` (with a budget of its `own`) and `u` over these models; an answer uses all its 1,000 tokens."""
    settings = {"models": list(models), "strategy": "as_listed", "max_tokens": 1000, **task}
    made = {
        "models": {name: MODELS[name] for name in models if name in MODELS},
        "tasks": {"t": {**settings, "budget": own}, "u": settings},
        "budget": {"scope": "tests", **(budget or {})},
    }
    llm = FakeLLM(config=LLMConfig.model_validate(made))
    llm.reply(FakeAnswer(text="yes", usage=Usage(prompt_tokens=10, completion_tokens=1000)))
    return llm


@pytest.mark.parametrize("field", ["per_day", "per_month", "total"])
def test_stop_refuses_before_sending(field: str) -> None:
    with fake("dear", budget={"per_day": 9, "per_month": 9, "total": 9, field: "0.02"}) as llm:
        for _ in range(2):
            llm.complete("t", "hi")
        says = rf"worst case \$0\.01, and \$0 is left of budget\.{field}"
        with pytest.raises(errors.BudgetExceededError, match=says):
            llm.complete("u", "hi")
        assert len(llm.calls) == 2
        (state,) = (one for one in llm.spend().limits if one.name == f"budget.{field}")
    assert (state.spent, state.reserved, state.left) == (Decimal("0.02"), 0, 0)


@pytest.mark.parametrize(("rule", "asked"), [("stop", ["dear"]), ("local", ["dear", "home"]), ("warn", ["dear"] * 2)])
def test_what_happens_when_the_money_is_gone(rule: str, asked: list[str]) -> None:
    models = ("dear",) if rule == "warn" else ("dear", "home")
    with fake(*models, budget={"per_day": "0.01", "on_exceeded": rule}) as llm, capture_logs() as logs:
        llm.complete("t", "hi")
        if rule == "stop":
            with pytest.raises(errors.BudgetExceededError, match="on_exceeded is `stop`"):
                llm.complete("t", "hi")
        else:
            llm.complete("t", "hi")
        assert [call.model for call in llm.calls] == asked
        assert llm.spend().total.cost == Decimal("0.01") * asked.count("dear")
        what = "max_cost" if rule == "warn" else "per_day"
        with pytest.raises(errors.BudgetExceededError, match=what):  # the caller's own limit refuses all the same
            llm.complete("t", "hi", max_cost="0.001", model="dear")
    limits = [log["limit"] for log in logs if log["event"] == "budget_exceeded"]
    assert limits == (["budget.per_day"] if rule == "warn" else [])


def test_a_task_has_limits_of_its_own_beside_the_files() -> None:
    """A task's budget counts its money only, and one that warns does not disable the file's."""
    own = {"per_day": "0.01", "on_exceeded": "warn"}
    with fake("dear", budget={"per_day": "0.03"}, own=own) as llm:
        for _ in range(3):
            llm.complete("t", "hi")
        assert llm.route("t", "hi").kept == ()
        with pytest.raises(errors.BudgetExceededError, match=r"budget\.per_day"):
            llm.complete("t", "hi")
    with fake("dear", budget={"per_day": "0.03"}, own={"per_day": "0.01"}) as llm:
        llm.complete("t", "hi")
        with pytest.raises(errors.BudgetExceededError, match=r"tasks\.t\.budget\.per_day"):
            llm.complete("t", "hi")
        llm.complete("u", "hi")


def test_a_call_pays_for_all_its_attempts() -> None:
    """Retries, repairs and fallbacks count for `per_call`, since a time-out may have been billed."""
    with fake("dear", "cheap", budget={"per_call": "0.0115"}, retries=2) as llm:
        llm.reply(errors.LLMTimeoutError("slow", retry_after=0.0), model="dear")
        attempts = llm.complete("t", "hi").attempts
        assert [(one.model, one.cost) for one in attempts] == [("dear", Decimal("0.01")), ("cheap", Decimal("0.001"))]
        llm.reply(errors.LLMTimeoutError("slow", retry_after=0.0))
        with pytest.raises(errors.AllModelsFailedError) as caught:
            llm.complete("t", "hi")
        assert len(caught.value.attempts) == 2
        assert isinstance(caught.value.last, errors.BudgetExceededError)
        assert "$0.0005 of $0.012 is left of budget.per_call" in str(caught.value.last)
        with pytest.raises(errors.AllModelsFailedError):
            llm.complete("t", "hi", max_cost="0.01", model="dear")


@pytest.mark.parametrize("field", ["per_call", "per_day", "total"])
@pytest.mark.parametrize("others", [(), ("cheap",)])
def test_a_cut_answer_that_the_money_cannot_double_is_the_callers(field: str, others: tuple[str, ...]) -> None:
    """No other model is asked: it would be cut, too, and the text that was paid for is on the error."""
    with fake("dear", *others, budget={field: "0.015"}) as llm:
        llm.reply(
            FakeAnswer(text="half", finish_reason="length", usage=Usage(prompt_tokens=10, completion_tokens=1000))
        )
        with pytest.raises(errors.OutputTruncatedError) as caught:
            llm.complete("t", "hi")
        assert (caught.value.text, len(llm.calls)) == ("half", 1)


def test_an_answer_of_unknown_price_counts_for_its_call_as_what_was_booked(api: Make) -> None:
    said = {"id": "1", "model": "gpt-4o", "service_tier": "unheard-of", "object": "chat.completion", "created": 1}
    said |= {"choices": [{"index": 0, "message": {"role": "assistant", "content": "no"}, "finish_reason": "stop"}]}
    said["usage"] = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    server = api("a", faults.raw(200, json.dumps(said).encode()))
    row = {"model": "openai/gpt-4o", "api_base": f"{server.url}/v1"}
    with manager({"m": row}, budget={"per_day": 9}, max_tokens=100) as llm:
        worst = llm.route("t", "hi", schema={"type": "object"}).candidates[0].worst_cost
        assert worst is not None
        with pytest.raises(errors.AllModelsFailedError) as caught:
            llm.complete("t", "hi", schema={"type": "object"}, max_cost=worst * Decimal("1.9"))
        assert isinstance(caught.value.last, errors.BudgetExceededError)
        assert [one.cost for one in caught.value.attempts] == [None]
        assert (len(server.requests), llm.session.unpriced) == (1, 1)


def test_an_attempt_stays_reserved_until_its_call_has_had_time_to_settle() -> None:
    with fake("dear", budget={"total": 1}) as llm:
        budgets, call = llm._caller.services.budgets, looked_up(llm, deadline=5)
        budgets.ledger = Ledger(None, clock=lambda: 1000.0)
        budgets.reserve(call, llm.route("t", "hi").kept[0], A_CALL, spent=Decimal(0)).sent()
        for later, held in ((1, (0, A_CALL)), (5 + 59, (0, A_CALL)), (5 + 61, (A_CALL, 0))):
            budgets.ledger.clock = lambda later=later: 1000.0 + later
            assert budgets.ledger.standing("tests") == held


def test_a_model_without_a_price_is_refused_under_any_budget() -> None:
    with fake("azure/who-knows", budget={"per_month": "5"}) as llm:
        with pytest.raises(errors.BudgetExceededError, match=r"no known price.*`base_model: NAME`.*`price: \{input:"):
            llm.complete("t", "hi")
        assert llm.calls == []
    with fake("openai/who-knows") as llm:
        assert llm.complete("t", "hi").cost is None
        total = llm.spend().total
    assert (total.calls, total.unpriced, total.cost, llm.session.unpriced) == (1, 1, 0, 1)


def test_balanced_paces_what_a_day_has_left() -> None:
    """The remaining money is divided among the calls that are expected: 50 a day, or as many as history shows."""
    budgets = [("dear", {"per_day": "0.1"}), ("cheap", {"per_day": "0.03"}), ("cheap", {"per_day": 9, "per_month": 1})]
    for chosen, budget in budgets:
        with fake("dear", "cheap", budget=budget, strategy="balanced") as llm:
            llm._ledger = llm._caller.services.budgets.ledger = Ledger(None, clock=lambda: 20_000 * 86_400.0)
            first, slowest = llm.route("t", "hi").kept[0], [*budget][-1]
            assert (first.alias, f"for budget.{slowest} to last" in first.reason) == (chosen, True)
            for _ in range(24):  # in the first minutes of a day: 96 a day
                llm.complete("t", "hi", model="cheap")
            assert llm.route("t", "hi").kept[0].alias == "cheap"


def test_what_was_spent_is_the_sum_of_the_attempts() -> None:
    with fake("cheap", "dear", retries=1) as llm:
        llm.reply(errors.RateLimitError("wait", retry_after=0.0), "no JSON", "nor this", model="cheap")
        llm.reply('{"a": 1}', model="dear")
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        answers = [llm.complete("t", "hi", schema=schema), llm.complete("u", "hi", accept=lambda a: a.model == "dear")]
        attempts = [one for answer in answers for one in answer.attempts]
        spend = llm.spend()
        assert [llm.spend(since).total.calls for since in ("2026-01-01", "1h", "9999-01-01")] == [6, 6, 0]
        assert [llm.spend(now).total.calls for now in (datetime.now(UTC), datetime.now(UTC).date())] == [6, 6]
    assert [one.outcome for one in attempts] == ["error", "rejected", "rejected", "answer", "rejected", "answer"]
    assert spend.total.cost == sum(one.cost or 0 for one in attempts) == sum(answer.cost or 0 for answer in answers)
    assert spend.total.calls == len(attempts) == sum(row.totals.calls for row in spend.rows)
    assert {name: totals.calls for name, totals in spend.by_task.items()} == {"t": 4, "u": 2}
    assert {name: totals.calls for name, totals in spend.by_model.items()} == {"cheap": 4, "dear": 2}
    assert spend.total.prompt_tokens == sum(one.usage.prompt_tokens for one in attempts if one.usage)
    assert llm.session.cost == spend.total.cost
    assert not data_dir().exists()  # what a test spends is kept in memory


@pytest.mark.parametrize("budget", [{}, {"per_day": 1}])
def test_a_broken_ledger_stops_what_a_budget_holds(api: Make, budget: dict[str, Any]) -> None:
    """Under a budget there is an error with its fix before the request; without one there is one warning."""
    data_dir().mkdir(parents=True)
    (data_dir() / "ledger.sqlite3").write_text("no database " * 100)
    a = api("a", faults.good())
    with manager({"a": model("openai", a)}, max_tokens=100, budget=budget) as llm, capture_logs() as logs:
        for _ in range(2):
            if budget:
                with pytest.raises(errors.ConfigError, match=r"no budget can be enforced.*mv "):
                    llm.complete("t", "hi")
            else:
                assert llm.complete("t", "hi").text
        with pytest.raises(errors.ConfigError, match="not a database"):
            llm.spend()
    assert bool(a.asked) is not bool(budget)
    assert (data_dir() / "ledger.sqlite3").read_text().startswith("no database")  # only a person may delete it
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["ledger_unavailable"]


def storm(server: FaultServer, kills: int) -> int:
    """Runs the program with 8 processes of 8 threads; returns the number of requests that arrived."""
    api = server.plan("api", faults.late(0.1, faults.good(usage=(10, 100))))
    done = program(ledger_storm.__file__, api.url, 8, 8, kills, timeout=300)
    assert done.returncode == 0, done.stderr
    return len([one for one in api.requests if one.method == "POST"])


def books(later: float = 0.0) -> tuple[Decimal, Decimal]:
    """Returns the spent and the reserved money, some seconds later."""
    with contextlib.closing(Ledger(data_dir() / "ledger.sqlite3", clock=lambda: time.time() + later)) as ledger:
        return ledger.standing("storm")


def test_a_storm_spends_what_the_budget_holds(server: FaultServer) -> None:
    """With room for 50 calls and 64 threads in 8 processes, 50 requests arrive, and nothing is reserved at the end."""
    assert storm(server, kills=0) == ledger_storm.ROOM
    assert books() == (ledger_storm.ROOM * A_CALL, 0)


@pytest.mark.soak
def test_a_storm_with_processes_killed_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of a killed process are paid when their lease ends, within the budget."""
    for number in range(int(os.environ.get("SOAK_ROUNDS", "1"))):
        monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(tmp_path / f"{number}"))
        with FaultServer() as server:
            arrived = storm(server, kills=(number + 4) % 8)
        assert arrived <= ledger_storm.ROOM
        spent, aside = books()
        assert spent + aside <= ledger_storm.ROOM * A_CALL
        spent, aside = books(later=10_000)
        assert aside == 0
        assert arrived * A_CALL <= spent <= ledger_storm.ROOM * A_CALL
