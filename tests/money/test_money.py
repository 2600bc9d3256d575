"""The cost and the worst case of a call, by service tier and sent content, under any decimal settings of the host."""

from __future__ import annotations

import asyncio
import decimal
from decimal import Decimal
from typing import Any

import faults
import pytest
import structlog
from fault_server import Exchange, Reply
from good_answers import Good, answer
from manager_kit import Make, ask, manager, model

from testronaut_llm import LLMManager, errors
from testronaut_llm.cli.spend import page

pytestmark = pytest.mark.usefixtures("provider_keys")


def _tier(tier: str | None) -> Reply:
    """An answer of 10 and 5 tokens that names its service tier."""

    def reply(exchange: Exchange) -> None:
        kind, pieces = answer("openai", "", exchange.request.body, Good(usage=(10, 5)))
        named = b'{"service_tier": "%s", "id"' % tier.encode() if tier else b'{"id"'
        exchange.respond(200, kind, b"".join(pieces).replace(b'{"id"', named))

    return reply


def _run(llm: LLMManager, mode: str, *args: Any, **given: Any) -> Any:
    return asyncio.run(ask(llm, mode, *args, **given))


@pytest.mark.parametrize("mode", ["complete", "astream"])
@pytest.mark.parametrize("usage", [(10, 50_000_000), (2**63, 5)])
def test_no_answer_costs_more_than_was_reserved(api: Make, usage: tuple[int, int], mode: str) -> None:
    """Impossible counts are estimated, with one warning a model, and the answer is returned."""
    a = api("a", faults.good("hello", usage=usage))
    with manager({"a": model("openai", a)}) as llm, structlog.testing.capture_logs() as logs:
        answers = [_run(llm, mode) for _ in range(2)]
        assert all(answer.usage.estimated and answer.text == "hello" for answer in answers)
        assert all(0 < answer.cost < Decimal("0.001") for answer in answers)
        assert llm.spend().total.cost == llm.session.cost == sum(answer.cost for answer in answers)
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["usage_impossible"]


def test_a_budget_ends_though_a_server_counts_nothing(api: Make) -> None:
    a = api("a", faults.good(usage=(0, 0)), faults.good(usage=None))
    made = manager({"a": model("openai", a)}, max_tokens=100, budget={"total": "0.0006"})
    with made as llm, pytest.raises(errors.BudgetExceededError):
        [llm.complete("t", "hi") for _ in range(100)]


TIERS = [  # what is asked, what is answered, USD a million tokens of gpt-5's prompt and answer
    (None, None, "1.25", 10),
    ("priority", None, "2.5", 20),
    ("priority", "default", "1.25", 10),
    (None, "priority", "2.5", 20),
    ("flex", "flex", "0.625", 5),
    ("auto", None, "1.25", 10),
    ("auto", "default", "1.25", 10),  # chosen by the provider
]


@pytest.mark.parametrize(("place", "mode"), [("model", "complete"), ("call", "astream")])
@pytest.mark.parametrize(("asked", "answered", "prompt_price", "answer_price"), TIERS)
def test_the_tier_that_answered_prices_the_cost(
    api: Make, asked: str | None, answered: str | None, prompt_price: str, answer_price: int, place: str, mode: str
) -> None:
    """If the answer names no tier, the requested one is used."""
    extra = {"service_tier": asked} if asked else {}
    a = api("a", _tier(answered))
    row = model("openai", a, model="openai/gpt-5", price=None, extra=extra if place == "model" else {})
    with manager({"a": row}) as llm:
        answer = _run(llm, mode, extra=extra if place == "call" else {})
    assert answer.cost == (10 * Decimal(prompt_price) + 5 * answer_price) / 1_000_000
    assert str(answer.cost_source).endswith("(priority)") is (answer_price == 20)
    assert a.bodies[0].get("service_tier") == asked


@pytest.mark.parametrize(
    ("name", "extra", "times"),
    [
        *(("openai/gpt-5", {}, 1), ("openai/gpt-5", {"service_tier": "default"}, 1)),
        *(("openai/gpt-5", {"service_tier": "priority"}, 2), ("openai/gpt-5", {"service_tier": "flex"}, 0.5)),
        ("openai/gpt-5", {"service_tier": "auto"}, 2),  # the most expensive tier
        *(("openai/gpt-5", {"service_tier": "scale"}, None), ("openai/gpt-4o", {"service_tier": "flex"}, None)),
        ("openai/gpt-5", {"service_tier": "above_272k_tokens"}, None),
        ("openai/gpt-5", {"service_tier": ["priority"]}, None),
        ("anthropic/claude-opus-4-6", {"speed": "fast"}, None),
    ],
)
def test_the_tier_that_is_asked_for_prices_the_bound(name: str, extra: dict[str, Any], times: float | None) -> None:
    """The standard price is not used for an unknown tier: a budget refuses it, and `price:` sets its price."""
    plain, asked = {"model": name}, {"model": name, "extra": extra}
    with manager({"a": plain, "b": asked, "c": {**asked, "price": {"input": 1, "output": 2}}}) as llm:
        standard, listed, priced = (one.worst_cost for one in llm.route("t", "hi").candidates)
    assert standard
    assert listed == (None if times is None else standard * Decimal(str(times)))
    assert priced


def test_an_answer_of_a_tier_without_a_price_has_no_known_cost(api: Make) -> None:
    """It is booked as unpriced, at its worst case."""
    with manager({"a": model("openai", api("a", _tier("scale")), model="openai/gpt-5", price=None)}) as llm:
        assert (llm.complete("t", "hi").cost, llm.session.unpriced) == (None, 1)
        assert llm.session.cost > 0


@pytest.mark.parametrize("limit", ["0.69", "0.72", "0.8"])
def test_a_call_keeps_to_its_limit_through_cuts_and_repairs(api: Make, limit: str) -> None:
    """Each attempt reserves for the request it sends: with a doubled cap, a repair in its prompt, or both."""
    cut = faults.good("word " * 2000, usage=(100, 1000), finish="length")
    invalid, repaired = faults.good("word " * 2000, usage=(100, 2000)), faults.good('{"count": 1}', usage=(9000, 2000))
    row = model("openai", api("a", cut, invalid, repaired), price={"input": 40, "output": 60}, context_window=100_000)
    with manager({"a": row}, max_tokens=1000) as llm:
        schema = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
        try:
            spent = llm.complete("t", "hi", schema=schema, max_cost=limit).cost
        except errors.LLMError as error:
            spent = sum(attempt.cost or 0 for attempt in error.attempts)
        assert 0 < spent <= Decimal(limit)
        assert llm.session.cost == spent


def test_what_extra_adds_to_the_prompt_is_part_of_its_bound() -> None:
    def bound(**extra: Any) -> Decimal:
        with manager({"a": model("openai", "http://127.0.0.1:9", extra=extra)}) as llm:
            return llm.route("t", "hi").candidates[0].worst_cost or Decimal(0)

    assert bound() == bound(top_p=0.5, user="me")
    assert bound(documents=["word " * 200]) > bound() + Decimal("0.001")


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the decimal context of a host program, in this thread and in every later one."""
    signals = decimal.Inexact, decimal.Rounded, decimal.Clamped, decimal.FloatOperation, decimal.Underflow
    for context in (decimal.getcontext(), decimal.DefaultContext):
        for name, value in {"prec": 2, "rounding": decimal.ROUND_UP, "capitals": 0}.items():
            monkeypatch.setattr(context, name, value)
        for signal in signals:
            monkeypatch.setitem(context.traps, signal, True)


@pytest.mark.parametrize("mode", ["complete", "astream"])
@pytest.mark.usefixtures("hostile")
def test_the_hosts_decimals_change_no_amount(api: Make, mode: str) -> None:
    a = api("a", faults.good(usage=(111, 77)))
    budget = {"per_day": "98.7654321", "per_call": "1.23456789", "scope": "hostile"}
    models = {
        "a": model("openai", a, price={"input": "1.2345678", "output": "3.4567891"}, quality=9),
        "b": model("openai", a, price=None, model="openai/gpt-5"),
    }
    cost = Decimal("0.0004032097865")  # (111 * 1.2345678 + 77 * 3.4567891) / 1,000,000
    with manager(models, max_tokens=1234, strategy="balanced", cache="use", budget=budget) as llm:
        answers = [_run(llm, mode, f"number {n}", max_cost=0.1234567) for n in range(3)]
        assert str(answers[0].cost) == str(cost)
        assert _run(llm, mode, "number 1").saved == llm.session.saved == cost
        spend = llm.spend()
        assert str(llm.session.cost) == "0.0012096293595"
        assert str(spend.total.cost) == "0.001209629361"  # whole picodollars, rounded up
        assert str(spend.limits[0].left) == "98.764222470639"
        assert llm.route("t", "hi").candidates
        assert str(llm.compare("t", ["hi", "ho"], models=["a", "b"]).totals[0].cost) == "0.0008064195730"
        assert "$98.76" in page(llm.spend())
    assert decimal.getcontext().prec == 2
