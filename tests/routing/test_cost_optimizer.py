"""The candidates of a call in their order, each with its reason."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tree import ROOT

from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.errors import BudgetExceededError, ContextWindowError, NoReadyModelError
from testronaut_llm.local.readiness import Readiness
from testronaut_llm.money.budgets import Money
from testronaut_llm.money.price_rows import ModelFacts
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.money.token_counter import TokenCounter
from testronaut_llm.options import call_of, embed_call_of
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Candidate, Route
from testronaut_llm.routing.cost_optimizer import nothing_left, plan
from testronaut_llm.routing.task_router import READY, Scale
from testronaut_llm.support.text import usd

GONE = Readiness(ready=False, missing="no key", fix="export KEY=...")

Option = tuple[Candidate, Readiness]


def option(
    alias: str, price: str | None = "1", *, excluded: str = "", ready: Readiness = READY, **fields: Any
) -> Option:
    """A model with these fields, at `price` dollars a million tokens, and its readiness."""
    both = {"input": price, "output": price} if price is not None else None
    row = ModelConfig(alias=alias, model=f"openai/{alias}", price=both, **fields)
    known = {"model": row.model, "provider": "openai", "quality": row.quality, "local": bool(row.local)}
    rows = {"row": row, "provider_row": provider_of(row)}
    return Candidate(alias=alias, kept=not excluded, reason=excluded, **known, **rows), ready


class Prices(PriceTable):
    """Prices and windows of `llm.yaml`; the model `plain` takes no schema."""

    def facts(self, row: ModelConfig) -> ModelFacts:
        return replace(super().facts(row), supports_schema=row.alias != "plain")


COUNTS = SimpleNamespace(
    estimate=lambda *_, **__: 1000,
    answer_length=lambda *_: 1000,
    cautious=lambda _, longest: longest + 100,
    upper_bound=lambda *_: 4000,
)


def routed(
    strategy: Any, options: Sequence[Option], *, max_tokens: int = 1000, money: Money | None = None, output: Any = None
) -> Route:
    call: Any = SimpleNamespace(task="cli", texts=(), messages=(), max_tokens=max_tokens, extra={}, output=output)
    scale = Scale(call=call, prices=Prices([]), counter=COUNTS, money=money)  # type: ignore[arg-type]
    return plan("cli", strategy, [scale.weigh(*one) for one in options], money)


def order(route: Route) -> list[str]:
    return [candidate.alias for candidate in route.kept]


def reason(route: Route, alias: str) -> str:
    return next(candidate.reason for candidate in route.candidates if candidate.alias == alias)


def left(amount: str, **fields: Any) -> Money:
    return Money(left=Decimal(amount), limit="per_day", **fields)


STRATEGIES: dict[str, tuple[list[Option], list[tuple[str, str]]]] = {
    "cheapest": (  # by expected cost, then quality, then the list; unknown prices last
        [option("b", "2"), option("x", None), option("c", "1"), option("d", "1", quality=7), option("e", "1")],
        [("d", "cheapest: about $0.002"), ("c", "number 2 by price: about $0.002"),
         ("e", "number 3 by price: about $0.002"), ("b", "number 4 by price: about $0.004"),
         ("x", "number 5 by price: no known price")],
    ),
    "as_listed": (  # whatever they cost
        [option("costly", "9"), option("x", None), option("cheap", "1")],
        [("costly", "number 1 of the list: about $0.018"), ("x", "number 2 of the list: no known price"),
         ("cheap", "number 3 of the list: about $0.002")],
    ),
    "local_first": (  # local models before cheaper ones, then each group by cost
        [option("cloud", "1"), option("home", "3", local=True), option("free", "0", local=True)],
        [("free", "local: free"), ("home", "local: about $0.006"), ("cloud", "not local, so later: about $0.002")],
    ),
    "cascade": (  # by cost, each with what has to happen before it is asked
        [option("best", "9", quality=9), option("mid", "3", quality=6), option("toy", "0", quality=6)],
        [("toy", "asked first, as the cheapest: free"),
         ("mid", "no better than toy, so only when that fails: about $0.006"),
         ("best", "asked when those before it fail or are refused (quality 9): about $0.018")],
    ),
    "balanced": (  # a point of quality for each doubling of the price; small change does not count
        [option("best", "20", quality=9), option("good", "1", quality=8), option("free", "0", quality=6),
         option("x", None, quality=10)],
        [("good", "most quality for the money: quality 8: about $0.002"),
         ("free", "number 2 by worth: quality 6: free"), ("best", "number 3 by worth: quality 9: about $0.04"),
         ("x", "number 4 by worth: quality 10: no known price")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_has_its_order_and_says_why(strategy: str) -> None:
    options, expected = STRATEGIES[strategy]
    route = routed(strategy, options, max_tokens=100)
    assert [(one.alias, one.reason) for one in route.kept] == expected
    assert (route.task, route.strategy) == ("cli", strategy)


def test_balanced_spends_within_the_pace_of_the_budget() -> None:
    options = [option("best", "20", quality=9), option("good", "2", quality=7), option("cheap", "1", quality=5)]
    paces = {"0.05": ["best", "good", "cheap"], "0.005": ["good", "cheap", "best"], "-1": ["cheap", "good", "best"]}
    for pace, expected in paces.items():
        route = routed("balanced", options, money=left("5", pace=Decimal(pace), pace_limit="per_day"))
        assert order(route) == expected
        if pace == "0.005":
            says = "$0.005, what a call may cost for per_day to last: about"
            assert reason(route, "good") == f"quality 7 within {says} $0.004"
            assert reason(route, "best") == f"more than {says} $0.04"


TOO_SMALL = "window too small: 2,099 tokens, for the prompt (about 1,000) and an answer of 1,000"
OBSTACLES: list[tuple[Option, str, str | None]] = [
    (option("a", excluded="too weak: ...", ready=GONE), "too weak: ...", None),
    (option("a", ready=GONE), "not ready: no key; export KEY=...", "no_ready_model"),
    (option("a", ready=Readiness(ready=False, missing="no server", fix="")), "not ready: no server", "no_ready_model"),
    (option("a", context_window=2099), TOO_SMALL, "context_window"),  # one token more would do
    (option("a", max_output=999), "its answers have at most 999 tokens, and max_tokens is 1,000", "context_window"),
    (option("plain"), "cannot answer in a given shape (JSON Schema)", None),
]


@pytest.mark.parametrize(("dropped", "says", "problem"), OBSTACLES)
def test_what_cannot_be_asked_is_dropped_with_its_reason(dropped: Option, says: str, problem: str | None) -> None:
    fits = option("b", context_window=2100, max_output=1000)
    route = routed("cheapest", [dropped, option("c"), fits], output=SimpleNamespace())
    assert order(route) == ["c", "b"]
    assert (route.candidates[-1].reason, route.candidates[-1].problem) == (says, problem)


def test_over_budget_is_judged_by_the_worst_case_and_steps_down() -> None:
    options = [option("best", "11", quality=9), option("good", "10", quality=7), option("cheap", "1", quality=5)]
    route = routed("as_listed", [*options, option("x", None)], money=left("0.05"))
    assert order(route) == ["good", "cheap"]  # the worst case of `good` is all that is left
    assert reason(route, "good") == "steps down from best, over budget now: number 2 of the list: about $0.02"
    assert reason(route, "cheap") == "number 3 of the list: about $0.002"
    assert reason(route, "best") == "over budget: worst case $0.055, and $0.05 is left of per_day"
    assert route.candidates[-1].problem == "budget_exceeded"


def test_stop_stops_where_local_and_warn_go_on() -> None:
    options = [option("paid", "9"), option("home", "0", local=True)]
    stopped = routed("as_listed", options, max_tokens=10, money=left("0.01"))
    assert not stopped.kept
    assert reason(stopped, "home") == "free, but paid is over budget and on_exceeded is `stop`; `local` would use it"
    went_on = routed("as_listed", options, max_tokens=10, money=left("-3", on_exceeded="local"))
    assert order(went_on) == ["home"]
    assert reason(went_on, "home").startswith("steps down from paid, over budget now: ")
    cheaper = [*options, option("cheap", "1")]  # free ones may be listed with a paid one
    assert order(routed("as_listed", cheaper, max_tokens=10, money=left("0.01"))) == ["home", "cheap"]
    warned = routed("cheapest", [option("a", "9"), option("x", None)], money=left("0", on_exceeded="warn"))
    assert order(warned) == ["a", "x"]
    warning = "over budget: worst case $0.045, and $0 is left of per_day (on_exceeded: warn)"
    assert reason(warned, "a") == f"cheapest: about $0.018; {warning}"


@pytest.mark.parametrize(
    ("names", "kind", "says"),
    [
        ("money window gone", BudgetExceededError, "no model fits the money that is left"),
        ("window gone", ContextWindowError, "the call fits no model's window"),
        ("gone weak", NoReadyModelError, "no model is ready; fix one of these"),
        ("", NoReadyModelError, "no candidates"),
    ],
)
def test_nothing_left_says_why(names: str, kind: type[Exception], says: str) -> None:
    made = {
        "money": option("money", "99"),
        "window": option("window", context_window=10),
        "gone": option("gone", "99", ready=GONE),  # not a matter of the budget
        "weak": option("weak", excluded="too weak"),
    }
    error = nothing_left(routed("cheapest", [made[name] for name in names.split()], money=left("0")))
    assert type(error) is kind
    assert says in str(error)
    assert all(f"\n  {name} (openai/{name}): " in str(error) for name in names.split())


def test_money_is_written_for_people() -> None:
    words = {"0": "$0", "0.00001234": "$0.000012", "0.0987": "$0.099", "0.1": "$0.10", "1234.567": "$1,234.57"}
    assert {amount: usd(Decimal(amount)) for amount in words} == words


PRICES, WINDOWS = st.sampled_from([None, "0", "0.5", "1", "2", "50"]), st.sampled_from([None, 500, 100_000])
FACTS = {"quality": st.integers(1, 10), "local": st.booleans(), "context_window": WINDOWS}
OPTION = st.builds(option, st.uuids().map(str), PRICES, ready=st.sampled_from([READY, GONE]), **FACTS)
LEFT, PACE = st.sampled_from(["0", "0.004", "0.1", "9"]), st.sampled_from([None, Decimal("0.001"), Decimal("0.05")])
MONEY = st.builds(left, LEFT, pace=PACE, pace_limit=st.just("per_day"), on_exceeded=st.sampled_from(["stop", "local"]))


@settings(max_examples=60)
@given(options=st.lists(OPTION, max_size=6), strategy=st.sampled_from(list(STRATEGIES)), money=st.none() | MONEY)
def test_no_route_breaks_a_rule(options: list[Option], strategy: str, money: Money | None) -> None:
    route = routed(strategy, options, money=money)
    assert sorted(c.alias for c in route.candidates) == sorted(one.alias for one, _ in options)
    assert all(c.reason for c in route.candidates)
    assert [c.kept for c in route.candidates] == sorted((c.kept for c in route.candidates), reverse=True)
    ready = {one.alias: state.ready for one, state in options}
    for candidate in route.kept:
        assert ready[candidate.alias]
        assert candidate.context_window in (None, 100_000)
        if money is not None:
            assert candidate.worst_cost is not None
            assert candidate.worst_cost <= money.left


def test_weighing_looks_up_tokens_prices_and_windows() -> None:
    models: dict[str, Any] = {
        "luna": {"model": "openai/gpt-6-luna", "quality": 7},
        "qwen": {"model": "ollama/qwen3:8b", "num_ctx": 4096},
        "weak": {"model": "openai/gpt-4o-mini", "quality": 1},
    }
    config = LLMConfig(models=models, tasks={"t": {"models": list(models), "min_quality": 5, "max_tokens": 800}})

    def weighed(call: Any, **facts: Any) -> list[Candidate]:
        scale = Scale(call=call, prices=PriceTable.load(Path("/nonexistent")), counter=TokenCounter())
        return [scale.weigh(one, **facts) for one in call.selected]

    call = call_of(config, "t", "What is the capital of France?", {})
    schema = SimpleNamespace(schema={"type": "object"})
    luna, qwen, weak = weighed(call, schema=schema, dropped_params=("temperature",))
    assert (luna.est_tokens or 0) > 13
    assert (luna.worst_cost or 0) > (luna.est_cost or 0) > 0
    assert luna.dropped_params == ("temperature",)
    assert (luna.est_completion_tokens, qwen.est_completion_tokens) == (100, 100)
    assert (qwen.local, luna.local) == (True, False)
    assert (qwen.context_window, qwen.worst_cost) == (4096, 0)
    assert (weak.kept, weak.est_tokens) == (False, None)  # nothing is counted in vain
    assert weighed(call, context=100)[0].problem == "context_window"
    (embedded,) = weighed(embed_call_of(config, "t", call.messages[0].content, {"model": "qwen"}))
    assert (embedded.est_tokens, embedded.est_completion_tokens, embedded.kept) == (7, 0, True)  # no framing, no answer


def test_the_targets_of_the_benchmark_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark: Any = importlib.import_module("strategies")
    rng = random.Random(5)
    made = [benchmark.instance(rng, 0.2) for _ in range(8)]
    for one in (benchmark.measure(found, "cheapest") for found in made):
        assert (one.answered, one.cost) == (one.best_answered, one.best_cost)
    balanced = [benchmark.measure(found, "balanced") for found in made]
    assert sum(one.quality for one in balanced) >= 0.95 * sum(one.best_quality for one in balanced)
    cascade = [benchmark.measure(found, "cascade", 0.2) for found in made]
    assert [one.answered for one in cascade] == [one.best_answered for one in cascade]
    assert "| `cascade` | best climb |" in benchmark.table(2, 0.2, 1)
