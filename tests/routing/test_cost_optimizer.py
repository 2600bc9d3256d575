"""Which models to try, in which order, and why."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
from testronaut_llm.errors import BudgetExceededError, ContextWindowError, NoReadyModelError
from testronaut_llm.money.pacing import Money
from testronaut_llm.money.price_rows import ModelFacts, Price, Rates
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.money.token_counter import TokenCounter
from testronaut_llm.providers.provider_registry import Readiness, provider_of
from testronaut_llm.records import Candidate, Message, Route
from testronaut_llm.routing.cost_optimizer import nothing_left, plan
from testronaut_llm.routing.options import READY, Option, Scale
from testronaut_llm.routing.strategies import better_than, larger_than
from testronaut_llm.routing.task_router import Selected, select
from testronaut_llm.support.money import tokens, usd


def task(strategy: str = "cheapest", **fields: Any) -> TaskConfig:
    return TaskConfig(name="cli_analysis", models=("m",), strategy=strategy, **fields)  # type: ignore[arg-type]


def option(
    alias: str,
    price: str | None = "1",
    *,
    quality: int = 5,
    local: bool = False,
    excluded: str | None = None,
    ready: Readiness = READY,
    **facts: Any,
) -> Option:
    """A model whose prompt of 1,000 and answer of 1,000 tokens cost `price` dollars a million each."""
    model = ModelConfig(alias=alias, model=f"openai/{alias}", quality=quality)
    rates = Rates.of({"input": Decimal(price), "output": Decimal(price)}) if price is not None else None
    return Option(
        selected=Selected(model=model, provider=provider_of(model), excluded=excluded),
        local=local,
        ready=ready,
        facts=ModelFacts(**facts),
        price=Price(tiers=((0, rates),), source="made up") if rates else None,
        price_mend=f"add `price:` to models.{alias}",
        tokens=1000,
        cautious=1100,
        answer=1000,
        bound=4000,
    )


def order(route: Route) -> list[str]:
    return [candidate.alias for candidate in route.kept]


def reason(route: Route, alias: str) -> str:
    return next(candidate.reason for candidate in route.candidates if candidate.alias == alias)


def left(amount: str, **fields: Any) -> Money:
    return Money(left=Decimal(amount), limit="per_day", **fields)


def test_cheapest_sorts_by_expected_cost_then_quality_then_the_list() -> None:
    """The lowest estimate first; equal ones by quality, then as the user listed them; unknown prices last."""
    options = [option("b", "2"), option("x", None), option("c", "1"), option("d", "1", quality=7), option("e", "1")]
    route = plan(task(), options, max_tokens=1000)
    assert order(route) == ["d", "c", "e", "b", "x"]
    assert reason(route, "d") == "cheapest: about $0.002"
    assert reason(route, "b") == "number 4 by price: about $0.004"
    assert reason(route, "x") == "number 5 by price: no known price"
    assert (route.task, route.strategy) == ("cli_analysis", "cheapest")


def test_a_candidate_shows_its_numbers() -> None:
    """Tokens, expected and worst cost, source and window are on the candidate."""
    (candidate,) = plan(task(), [option("a", "2", context_window=9000)], max_tokens=1000).candidates
    assert (candidate.est_tokens, candidate.est_completion_tokens) == (1000, 1000)
    assert candidate.est_cost == Decimal("0.004")
    assert candidate.worst_cost == Decimal("0.010")
    assert (candidate.cost_source, candidate.context_window) == ("made up", 9000)
    assert candidate.reason == "the only one left: about $0.004"


def test_as_listed_keeps_the_users_order() -> None:
    """Whatever they cost."""
    route = plan(task("as_listed"), [option("dear", "9"), option("x", None), option("cheap", "1")], max_tokens=100)
    assert order(route) == ["dear", "x", "cheap"]
    assert reason(route, "dear") == "number 1 of the list: about $0.018"


def test_embeddings_come_as_listed_whatever_the_task_says() -> None:
    """The caller of `plan` may name the strategy."""
    route = plan(task(), [option("dear", "9"), option("cheap", "1")], max_tokens=0, strategy="as_listed")
    assert (order(route), route.strategy) == (["dear", "cheap"], "as_listed")


def test_local_first_puts_local_models_before_cheaper_ones() -> None:
    """Then each group by cost."""
    options = [option("cloud", "1"), option("home", "3", local=True), option("free", "0", local=True)]
    route = plan(task("local_first"), options, max_tokens=100)
    assert order(route) == ["free", "home", "cloud"]
    assert reason(route, "free") == "local: free"
    assert reason(route, "cloud") == "not local, so later: about $0.002"


def test_cascade_climbs_from_cheap_to_good() -> None:
    """By cost, each with what has to happen before it is asked."""
    options = [option("best", "9", quality=9), option("mid", "3", quality=6), option("toy", "0", quality=6)]
    route = plan(task("cascade"), options, max_tokens=100)
    assert order(route) == ["toy", "mid", "best"]
    assert reason(route, "toy") == "asked first, as the cheapest: free"
    assert reason(route, "mid") == "no better than toy, so only when that fails: about $0.006"
    assert reason(route, "best") == "asked when those before it fail or are refused (quality 9): about $0.018"


def test_a_refused_answer_rules_out_models_that_are_no_better() -> None:
    """A cascade does not pay for the same mistake twice."""
    route = plan(
        task("cascade"),
        [option("toy", "0", quality=5), option("mid", "3", quality=5), option("best", "9", quality=9)],
        max_tokens=9,
    )
    assert [c.alias for c in better_than(route.kept[0], route.kept[1:])] == ["best"]


def test_a_prompt_that_did_not_fit_goes_to_larger_windows_only() -> None:
    """Known larger ones and unknown ones remain."""

    def candidate(alias: str, window: int | None) -> Candidate:
        return Candidate(alias=alias, model="p/m", provider="p", quality=5, local=False, context_window=window)

    rest = [candidate("same", 8000), candidate("larger", 9000), candidate("unknown", None)]
    assert [c.alias for c in larger_than(candidate("failed", 8000), rest)] == ["larger", "unknown"]
    assert len(larger_than(candidate("failed", None), rest)) == 3


def test_balanced_without_a_period_wants_a_point_of_quality_for_each_doubling_of_the_price() -> None:
    """Small change does not count, and an unknown price comes last."""
    options = [
        option("best", "20", quality=9),
        option("good", "1", quality=8),
        option("free", "0", quality=6),
        option("x", None, quality=10),
    ]
    route = plan(task("balanced"), options, max_tokens=100)
    assert order(route) == ["good", "free", "best", "x"]
    assert reason(route, "good") == "most quality for the money: quality 8, about $0.002"
    assert reason(route, "x") == "number 4 by worth: quality 10, no known price"


def test_balanced_spends_what_a_call_may_cost_for_the_money_to_last() -> None:
    """The best within the pace; what is beyond it comes after, cheapest first."""
    options = [option("best", "20", quality=9), option("good", "2", quality=7), option("cheap", "1", quality=5)]
    rich = plan(task("balanced"), options, max_tokens=1000, money=left("5", pace=Decimal("0.05"), pace_limit="per_day"))
    assert order(rich) == ["best", "good", "cheap"]
    poor = plan(
        task("balanced"), options, max_tokens=1000, money=left("5", pace=Decimal("0.005"), pace_limit="per_day")
    )
    assert order(poor) == ["good", "cheap", "best"]
    assert reason(poor, "good") == "quality 7 within $0.005, what a call may cost for per_day to last: about $0.004"
    assert reason(poor, "best") == "more than $0.005, what a call may cost for per_day to last: about $0.04"
    broke = plan(task("balanced"), options, max_tokens=1000, money=left("5", pace=Decimal("-1"), pace_limit="per_day"))
    assert order(broke) == ["cheap", "good", "best"]


def test_the_rules_of_the_task_come_first() -> None:
    """An excluded model is dropped with the task's own reason, ready or not."""
    gone = Readiness(ready=False, missing="no key", mend="export KEY=...")
    route = plan(task(), [option("a", excluded="too weak: ...", ready=gone), option("b")], max_tokens=100)
    assert order(route) == ["b"]
    assert (reason(route, "a"), route.candidates[1].problem) == ("too weak: ...", None)


def test_what_is_not_ready_says_what_is_missing_and_the_mend() -> None:
    """One line, with the command that mends it where there is one."""
    options = [
        option(
            "a", ready=Readiness(ready=False, missing="OPENAI_API_KEY is not set", mend="export OPENAI_API_KEY=...")
        ),
        option("b", ready=Readiness(ready=False, missing="no server", mend="")),
    ]
    route = plan(task(), options, max_tokens=100)
    assert not route.kept
    assert reason(route, "a") == "not ready: OPENAI_API_KEY is not set; export OPENAI_API_KEY=..."
    assert reason(route, "b") == "not ready: no server"
    assert {candidate.problem for candidate in route.candidates} == {"no_ready_model"}


def test_a_window_must_hold_the_cautious_prompt_and_the_answer() -> None:
    """One token less is too small; an unknown window is tried."""
    options = [option("fits", context_window=2100), option("tight", context_window=2099), option("unknown")]
    route = plan(task(), options, max_tokens=1000)
    assert order(route) == ["fits", "unknown"]
    assert (
        reason(route, "tight") == "window too small: 2,099 tokens, for the prompt (about 1,000) and an answer of 1,000"
    )
    assert route.candidates[-1].problem == "context_window"


def test_an_answer_longer_than_the_model_writes_drops_it() -> None:
    """A provider would refuse such a max_tokens."""
    route = plan(task(), [option("short", max_output=4096), option("long", max_output=8192)], max_tokens=8192)
    assert order(route) == ["long"]
    assert reason(route, "short") == "its answers have at most 4,096 tokens, and max_tokens is 8,192"


def test_a_schema_needs_a_model_that_takes_one() -> None:
    """Only a plain no drops a model: where tables are silent the schema can go as words."""
    options = [option("no", supports_schema=False), option("silent"), option("yes", supports_schema=True)]
    assert order(plan(task(), options, max_tokens=9, schema=True)) == ["silent", "yes"]
    assert len(order(plan(task(), options, max_tokens=9))) == 3


def test_too_dear_is_judged_by_the_worst_case_and_steps_down() -> None:
    """A model whose worst case does not fit is passed over for one whose does, and the route says so."""
    options = [option("best", "100", quality=9), option("good", "10", quality=7), option("cheap", "1", quality=5)]
    route = plan(task("as_listed"), options, max_tokens=1000, money=left("0.06"))
    assert order(route) == ["good", "cheap"]
    assert reason(route, "good") == "steps down from best, too dear now: number 2 of the list: about $0.02"
    assert reason(route, "cheap") == "number 3 of the list: about $0.002"
    assert reason(route, "best") == "too dear: it may cost up to $0.50, and $0.06 is left of per_day"
    assert route.candidates[-1].problem == "budget_exceeded"


def test_a_worst_case_that_just_fits_is_tried() -> None:
    """Equal is enough."""
    assert order(plan(task(), [option("a", "10")], max_tokens=1000, money=left("0.05"))) == ["a"]
    assert order(plan(task(), [option("a", "10")], max_tokens=1000, money=left("0.049"))) == []


def test_a_model_without_a_price_is_refused_under_a_limit_with_the_line_to_add() -> None:
    """Nobody can hold a budget against what nobody knows."""
    route = plan(task(), [option("x", None)], max_tokens=10, money=left("100"))
    assert not route.kept
    assert reason(route, "x") == "no known price, and a limit holds (per_day): add `price:` to models.x"
    assert route.candidates[0].problem == "budget_exceeded"


def test_what_is_free_goes_on_when_the_money_is_gone() -> None:
    """Zero fits into nothing, and even into a debt."""
    options = [option("paid", "1"), option("home", "0", local=True)]
    for amount in ("0", "-3"):
        assert order(plan(task(), options, max_tokens=10, money=left(amount))) == ["home"]


def test_stop_stops_where_local_goes_on() -> None:
    """When the preferred model is too dear and only free ones remain, `stop` raises and `local` uses them."""
    options = [option("paid", "1"), option("home", "0", local=True)]
    stopped = plan(task("as_listed"), options, max_tokens=10, money=left("0"))
    assert not stopped.kept
    assert reason(stopped, "home") == "free, but paid is too dear and on_exceeded is `stop`; `local` would use it"
    went_on = plan(task("as_listed"), options, max_tokens=10, money=left("0", on_exceeded="local"))
    assert order(went_on) == ["home"]
    assert reason(went_on, "home").startswith("steps down from paid, too dear now: ")


def test_stop_still_steps_down_to_a_cheaper_paid_model() -> None:
    """Then free ones may follow as fallbacks, too."""
    options = [option("best", "9"), option("home", "0", local=True), option("cheap", "1")]
    assert order(plan(task("as_listed"), options, max_tokens=10, money=left("0.01"))) == ["home", "cheap"]


def test_warn_goes_on_and_says_so() -> None:
    """Nothing is dropped for money; the reason holds the warning."""
    route = plan(task(), [option("a", "9"), option("x", None)], max_tokens=1000, money=left("0", on_exceeded="warn"))
    assert order(route) == ["a", "x"]
    assert reason(route, "a") == (
        "cheapest: about $0.018; too dear: it may cost up to $0.045, and $0 is left of per_day (on_exceeded: warn)"
    )
    fits = plan(task(), [option("a", "9")], max_tokens=1000, money=left("1", on_exceeded="warn"))
    assert reason(fits, "a") == "the only one left: about $0.018"


def test_dropped_candidates_come_last_in_the_listed_order() -> None:
    """All that the task lists is in the route, once."""
    options = [
        option("dear", "999"),
        option("weak", excluded="too weak"),
        option("small", context_window=1),
        option("fine", "1"),
    ]
    route = plan(task(), options, max_tokens=10, money=left("0.1"))
    assert [candidate.alias for candidate in route.candidates] == ["fine", "dear", "weak", "small"]


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        (["money", "window", "gone"], BudgetExceededError, "no model fits the money that is left"),
        (["window", "gone"], ContextWindowError, "the call fits no model's window"),
        (["gone", "weak"], NoReadyModelError, "no model is ready; mend one of these"),
        (["weak"], NoReadyModelError, "too weak"),
        ([], NoReadyModelError, "no candidates"),
    ],
)
def test_nothing_left_says_why(options: list[str], kind: type[Exception], says: str) -> None:
    """Money before windows before readiness, each candidate with its reason."""
    made = {
        "money": option("money", "99"),
        "window": option("window", context_window=10),
        "gone": option("gone", ready=Readiness(ready=False, missing="no key", mend="export KEY=...")),
        "weak": option("weak", excluded="too weak"),
    }
    route = plan(task(), [made[name] for name in options], max_tokens=1000, money=left("0"))
    error = nothing_left(route)
    assert type(error) is kind
    assert says in str(error)
    for name in options:
        assert f"\n  {name} (openai/{name}): " in str(error)


def test_a_model_that_is_both_unready_and_too_dear_is_not_a_matter_of_money() -> None:
    """Only a candidate that money alone stopped makes it a budget error."""
    gone = Readiness(ready=False, missing="no key", mend="export KEY=...")
    route = plan(task(), [option("a", "99", ready=gone)], max_tokens=1000, money=left("0"))
    assert type(nothing_left(route)) is NoReadyModelError


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("0", "$0"),
        ("0.00001234", "$0.000012"),
        ("0.0987", "$0.099"),
        ("0.1", "$0.10"),
        ("1234.567", "$1,234.57"),
        ("0.05", "$0.05"),
    ],
)
def test_money_reads_like_money(amount: str, words: str) -> None:
    """No exponents, and two digits of what is small."""
    assert usd(Decimal(amount)) == words


def test_tokens_read_like_counts() -> None:
    """One is singular, thousands have commas."""
    assert (tokens(1), tokens(12345)) == ("1 token", "12,345 tokens")


OPTIONS = st.lists(
    st.tuples(
        st.sampled_from([None, "0", "0.5", "1", "2", "50"]),
        st.integers(1, 10),
        st.booleans(),
        st.sampled_from([None, 500, 100_000]),
        st.booleans(),
    ),
    max_size=6,
)


@given(
    made=OPTIONS,
    strategy=st.sampled_from(["cheapest", "as_listed", "local_first", "balanced", "cascade"]),
    money=st.none()
    | st.builds(left, st.sampled_from(["0", "0.004", "0.1", "9"]), on_exceeded=st.sampled_from(["stop", "local"])),
    pace=st.none() | st.sampled_from([Decimal("0.001"), Decimal("0.05")]),
)
def test_whatever_the_options_a_route_breaks_no_rule(
    made: list[Any], strategy: str, money: Money | None, pace: Decimal | None
) -> None:
    """Every candidate once, with a reason; what is kept is ready, fits and is affordable in its worst case."""
    gone = Readiness(ready=False, missing="no key", mend="")
    options = [
        option(f"m{n}", price, quality=quality, local=local, context_window=window, ready=READY if ready else gone)
        for n, (price, quality, local, window, ready) in enumerate(made)
    ]
    if money is not None and pace is not None:
        money = Money(left=money.left, limit="per_day", pace=pace, pace_limit="per_day", on_exceeded=money.on_exceeded)
    route = plan(task(strategy), options, max_tokens=1000, money=money)
    assert sorted(c.alias for c in route.candidates) == sorted(o.selected.model.alias for o in options)
    assert all(c.reason for c in route.candidates)
    by_alias = {o.selected.model.alias: o for o in options}
    for candidate in route.kept:
        assert by_alias[candidate.alias].ready.ready
        assert candidate.context_window in (None, 100_000)
        if money is not None:
            assert candidate.worst_cost is not None
            assert candidate.worst_cost <= money.left
    if strategy == "cheapest":
        costs = [c.est_cost for c in route.kept if c.est_cost is not None]
        assert costs == sorted(costs)


@pytest.fixture
def counter(tmp_path: Path) -> TokenCounter:
    return TokenCounter(tmp_path / "tokens.jsonl")


def weighed(
    counter: TokenCounter, luna: Readiness = READY, *, whole: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Option]:
    """Each option by its alias; `luna` is that model's readiness, `more` what is known of it alone."""
    config = LLMConfig(
        models={
            "luna": {"model": "openai/gpt-6-luna", "quality": 7},
            "qwen": {"model": "ollama/qwen3:8b", "num_ctx": 4096},
            "weak": {"model": "openai/gpt-4o-mini", "quality": 1},
        },
        tasks={"t": {"models": ["luna", "qwen", "weak"], "min_quality": 5}},
    )
    scale = Scale(
        task="t",
        messages=[Message(role="user", content="What is the capital of France?")],
        max_tokens=800,
        prices=PriceTable.load(Path("/nonexistent")),
        counter=counter,
        **(whole or {}),
    )
    known = {"luna": {"ready": luna, **more}}
    chosen = select(config, None, config.task("t"))
    return {one.model.alias: scale.weigh(one, **known.get(one.model.alias, {})) for one in chosen}


def test_weighing_looks_up_tokens_prices_and_windows(counter: TokenCounter) -> None:
    """What `plan` needs, for each selected model."""
    options = weighed(counter, schema='{"type": "object"}', dropped_params=("temperature",))
    luna, qwen = options["luna"], options["qwen"]
    assert luna.tokens is not None
    assert luna.tokens > 13
    assert luna.cautious >= luna.tokens
    assert luna.bound > 256 + 30
    assert luna.price is not None
    assert luna.dropped_params == ("temperature",)
    assert (luna.answer, qwen.answer) == (100, 100)
    assert (qwen.local, luna.local) == (True, False)
    assert qwen.facts.context_window == 4096
    assert qwen.price is not None
    assert qwen.price.worst(1, 1) == 0


def test_weighing_counts_nothing_for_models_that_cannot_be_asked(counter: TokenCounter) -> None:
    """No vocabulary is loaded for an excluded or unready model, unless a dry run wants to see its numbers."""
    gone = Readiness(ready=False, missing="no key", mend="")
    options = weighed(counter, gone)
    assert [one.tokens is None for one in options.values()] == [True, False, True]
    candidate = options["luna"].candidate(800)
    assert (candidate.est_tokens, candidate.est_cost, candidate.cost_source) == (
        None,
        None,
        options["luna"].price.source,
    )  # type: ignore[union-attr]
    assert all(one.tokens for one in weighed(counter, gone, whole={"count_all": True}).values())


def test_weighing_texts_to_embed_measures_the_longest_against_the_window(counter: TokenCounter) -> None:
    """Each text stands for itself: no framing, no answer, and the window holds one at a time."""
    option_ = weighed(counter, whole={"embedding": True})["qwen"]
    assert (option_.tokens, option_.answer) == (7, 0)
    assert option_.cautious == 9
