"""The budgets of `llm.yaml` apply to every call, and no paid answer is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import faults
import pytest
import structlog
from manager_kit import Api, Make, looked_up, manager, model

from testronaut_llm import LLMConfig, LLMManager, errors
from testronaut_llm.money.budgets import CALLS_A_DAY, Limit, money_of
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.ledger_file import Period
from testronaut_llm.records import Usage
from testronaut_llm.support.paths import data_dir
from testronaut_llm.testing.fake import FakeAnswer, FakeLLM

DAY = 86_400.0
pytestmark = pytest.mark.usefixtures("provider_keys")


# USD per million tokens: an answer of 1,000 tokens costs 1 cent, 1 mill, nothing.
MODELS: dict[str, Any] = {
    "dear": {"model": "openai/dear", "price": {"input": 0, "output": 10}, "quality": 9},
    "cheap": {"model": "openai/cheap", "price": {"input": 0, "output": 1}, "quality": 5},
    "home": {"model": "openai/home", "price": {"input": 0, "output": 0}, "quality": 3, "local": True},
}
ANSWER = FakeAnswer(text="yes", usage=Usage(prompt_tokens=10, completion_tokens=1000))


def fake(*models: str, budget: dict[str, Any] | None = None, own: Any = None, **task: Any) -> FakeLLM:
    """Tasks `t` (with a budget of its `own`) and `u` over these models; an answer uses all its 1,000 tokens."""
    settings = {"models": list(models), "strategy": "as_listed", "max_tokens": 1000, **task}
    made = LLMConfig.model_validate(
        {
            "version": 1,
            "models": {name: MODELS[name] for name in models if name in MODELS},
            "tasks": {"t": {**settings, "budget": own}, "u": settings},
            "budget": {"scope": "tests", **(budget or {})},
        }
    )
    llm = FakeLLM(config=made)
    llm.reply(ANSWER)
    return llm


@pytest.mark.parametrize("field", ["per_day", "per_month", "total"])
def test_stop_refuses_before_sending(field: str) -> None:
    """Two cents hold two answers; the third raises, names the limit, and nothing is sent."""
    with fake("dear", budget={field: "0.02"}) as llm:
        for _ in range(2):
            llm.complete("t", "hi")
        with pytest.raises(
            errors.BudgetExceededError, match=rf"worst case \$0\.01, and \$0 is left of budget\.{field}"
        ):
            llm.complete("u", "hi")
        assert len(llm.calls) == 2
        (state,) = llm.spend().limits
    assert (state.name, state.spent, state.reserved, state.left) == (f"budget.{field}", Decimal("0.02"), 0, 0)


def test_it_steps_down_before_it_stops_and_says_so() -> None:
    """When money is short the route uses the models that still fit, and the reason says so."""
    with fake("dear", "cheap", budget={"per_day": "0.012"}) as llm:
        assert llm.complete("t", "hi").model == "dear"
        assert llm.route("t", "hi").kept[0].reason.startswith("steps down from dear, ")
        assert [llm.complete("t", "hi").model for _ in range(2)] == ["cheap", "cheap"]
        with pytest.raises(errors.BudgetExceededError):
            llm.complete("t", "hi")


@pytest.mark.parametrize(("rule", "asked"), [("stop", ["dear"]), ("local", ["dear", "home"]), ("warn", ["dear"] * 2)])
def test_what_happens_when_the_money_is_gone(rule: str, asked: list[str]) -> None:
    """`stop` raises, `local` goes to a free model, `warn` books, logs and continues."""
    models = ("dear",) if rule == "warn" else ("dear", "home")
    with (
        fake(*models, budget={"per_day": "0.01", "on_exceeded": rule}) as llm,
        structlog.testing.capture_logs() as logs,
    ):
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


def test_a_model_without_a_price_is_refused_under_any_budget() -> None:
    """The message has the line to add; without a budget the model is asked, and its cost is unknown."""
    with (
        fake("openai/who-knows", budget={"per_month": "5"}) as llm,
        pytest.raises(errors.BudgetExceededError, match=r"no known price.*price: \{input:"),
    ):
        llm.complete("t", "hi")
    assert llm.calls == []
    with fake("openai/who-knows") as llm:
        assert llm.complete("t", "hi").cost is None
        total = llm.spend().total
    assert (total.calls, total.unpriced, total.cost, llm.session.unpriced) == (1, 1, 0, 1)


def test_balanced_paces_what_a_day_has_left() -> None:
    """The remaining money of a day is divided among its expected calls, so the best model needs a large share."""
    for per_day, chosen in (("100", "dear"), ("0.03", "cheap")):
        with fake("dear", "cheap", budget={"per_day": per_day}, strategy="balanced") as llm:
            llm._ledger = Ledger(None, clock=lambda: 20_000 * DAY)
            first = llm.route("t", "hi").kept[0]
            assert (first.alias, "for budget.per_day to last" in first.reason) == (chosen, True)


def test_money_is_the_tightest_limit_and_the_slowest_pace() -> None:
    """The tightest limit sets the money left, the slowest the pace; limits that only warn are ignored."""

    def left(amount: str, period: Period, seconds: float | None = None, **facts: Any) -> tuple[Limit, Decimal, Any]:
        return Limit(name=f"per_{period}", period=period, amount=Decimal(99), **facts), Decimal(amount), seconds

    limits = [
        *(left("0.25", "call", on_exceeded="local"), left("0.1", "total", on_exceeded="warn")),
        *(left("5", "day", DAY), left("60", "month", 30 * DAY)),
    ]
    money = money_of(limits, calls_per_day=99)
    assert (money.left, money.limit, money.on_exceeded) == (Decimal("0.25"), "per_call", "local")
    assert (money.pace, money.pace_limit) == (Decimal(60) / (1 + 99 * 30), "per_month")
    assert money_of([left("51", "day", DAY)]).pace == Decimal(51) / (1 + CALLS_A_DAY)
    assert (money_of([left("0.1", "call")]).pace, money_of([])) == (None, None)


def test_what_was_spent_is_the_sum_of_the_attempts() -> None:
    """Rejected, repaired, retried and fallback attempts count once each, by task and model."""
    with fake("cheap", "dear", retries=1) as llm:
        llm.reply(errors.RateLimitError("wait", retry_after=0.0), "no JSON", "nor this", model="cheap")
        llm.reply('{"a": 1}', model="dear")
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        answers = [llm.complete("t", "hi", schema=schema), llm.complete("u", "hi", accept=lambda a: a.model == "dear")]
        attempts = [one for answer in answers for one in answer.attempts]
        spend = llm.spend()
        assert [llm.spend(since).total.calls for since in ("2026-01-01", "1h", "9999-01-01")] == [6, 6, 0]
        assert [llm.spend(now).total.calls for now in (datetime.now(UTC), datetime.now(UTC).date())] == [6, 6]
        for wrong in ("soon", "2026-13-01", "-1d"):
            with pytest.raises(errors.ConfigError, match="expected a day such as"):
                llm.spend(wrong)
    assert [one.outcome for one in attempts] == ["error", "rejected", "rejected", "answer", "rejected", "answer"]
    assert spend.total.cost == sum(one.cost or 0 for one in attempts) == sum(answer.cost or 0 for answer in answers)
    assert spend.total.calls == len(attempts) == sum(row.totals.calls for row in spend.rows)
    assert {name: totals.calls for name, totals in spend.by_task.items()} == {"t": 4, "u": 2}
    assert {name: totals.calls for name, totals in spend.by_model.items()} == {"cheap": 4, "dear": 2}
    assert spend.total.prompt_tokens == sum(one.usage.prompt_tokens for one in attempts if one.usage)
    assert llm.session.cost == spend.total.cost
    assert not data_dir().exists()  # what a test spends is kept in memory


def _limited(url: Api, **budget: Any) -> LLMManager:
    return manager({"a": model("openai", url)}, max_tokens=100, budget=budget)


@pytest.mark.parametrize("budget", [{}, {"per_day": 1}])
def test_a_broken_ledger_stops_what_a_budget_holds(api: Make, budget: dict[str, Any]) -> None:
    """Under a budget there is an error with its fix before the request; without one there is one warning."""
    data_dir().mkdir(parents=True)
    (data_dir() / "ledger.sqlite3").write_text("no database " * 100)
    a = api("a", faults.good())
    with _limited(a, **budget) as llm, structlog.testing.capture_logs() as logs:
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


def test_what_cannot_be_marked_as_sent_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a reservation cannot be marked `sent`, calls under a limit stop, and free ones continue."""
    with fake("dear", budget={"total": "0.02"}) as llm:
        call, budgets = looked_up(llm), llm._caller.services.budgets
        (dear,) = call.candidates
        one, free = (budgets.reserve(call, dear, Decimal(n) / 100, spent=Decimal(0)) for n in (1, 0))
        broken = errors.ConfigError("the disk is full")
        monkeypatch.setattr(llm._ledger.file, "run", lambda *_, **__: (_ for _ in ()).throw(broken))
        with pytest.raises(errors.ConfigError, match="full"):
            one.sent()
        free.sent()


def test_a_race_for_the_last_money_goes_to_the_next_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the money is gone when a call reserves, the next candidate is asked, or the budget's error is raised."""
    with fake("dear", "cheap", budget={"total": "0.011"}) as llm:
        monkeypatch.setattr(llm._caller.services.budgets, "money", lambda *_: None)  # the route sees enough money
        assert [llm.complete("t", "hi").model for _ in range(2)] == ["dear", "cheap"]
        with pytest.raises(errors.BudgetExceededError):
            llm.complete("t", "hi")
        assert len(llm.calls) == 2
