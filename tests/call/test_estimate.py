"""`estimate` says what a batch would cost, from a stream of prompts, and sends nothing."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import faults
import pytest
from fault_server import Exchange
from manager_kit import Api, manager, model

from testronaut_llm import LLMManager
from testronaut_llm.errors import InvalidRequestError, LLMError, UnknownTaskError
from testronaut_llm.money.token_counter import count

pytestmark = pytest.mark.usefixtures("provider_keys")


@pytest.fixture
def endpoint(api: Callable[..., Api]) -> Api:
    return api("a", faults.good("an answer", usage=(20, 10)))


@pytest.fixture
def llm(endpoint: Api) -> Iterator[LLMManager]:
    """Two models with a price, of which the second costs ten times as much, and a cache."""
    price = {"input": "10", "output": "20"}
    with manager({"a": model("openai", endpoint), "b": model("openai", endpoint, price=price)}, cache="use") as made:
        yield made


def test_it_sums_each_model_and_the_route(llm: LLMManager, endpoint: Api) -> None:
    """A sum with an unknown price is unknown."""
    prompts = ["one", "two and more", "three"]
    found = llm.estimate("t", prompts)
    routes = [llm.route("t", prompt) for prompt in prompts]
    for place, one in enumerate(found.models):
        kept = [route.kept[place] for route in routes]
        assert one.model == "ab"[place]
        assert one.cost == sum(candidate.est_cost or 0 for candidate in kept)
        assert one.worst_cost == sum(candidate.worst_cost or 0 for candidate in kept)
        assert one.tokens == sum(candidate.est_tokens or 0 for candidate in kept)
    assert (found.route.cost, found.route.first, found.models[1].first) == (found.models[0].cost, 3, 0)
    assert (found.prompts, found.cached, found.refused, found.left, found.fits) == (3, 0, 0, None, True)
    with manager({"a": model("openai", endpoint, price=None, model="openai/no-such-model")}) as unpriced:
        found = unpriced.estimate("t", ["x"])
    assert (found.route.cost, found.models[0].worst_cost, found.route.first) == (None, None, 1)
    assert endpoint.asked == []


def test_stored_and_repeated_prompts_cost_nothing(llm: LLMManager) -> None:
    """Unless with `refresh` or `off`; `only` sends none."""
    llm.complete("t", "stored")
    before = llm.session
    prompts = ["stored", "new", "new", "newer"]
    assert [(llm.estimate("t", prompts, cache=mode).cached, llm.estimate("t", prompts, cache=mode).route.first)  # type: ignore[arg-type]
            for mode in ("use", "refresh", "off", "only")] == [(2, 2), (0, 4), (0, 4), (1, 0)]  # fmt: skip
    assert llm.estimate("t", prompts, cache="only").refused == 3
    assert llm.estimate("t", prompts, accept=lambda _: False).cached == 1
    assert (llm.session, llm.spend().total.hits) == (before, 0)


def test_what_cannot_be_asked_is_refused(llm: LLMManager) -> None:
    found = llm.estimate("t", ["", "x " * 20_000, "x " * 20_000, "fine"])
    assert (found.prompts, found.cached, found.refused, found.route.first) == (4, 0, 3, 1)
    assert "window too small" in found.models[0].reason
    assert sorted(found.errors) == ["context_window", "invalid_request"]
    assert (found.fits, llm.estimate("t", ["", 5]).fits, llm.estimate("t", []).fits) == (True, False, True)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("prompt", "options"), [("", {}), ("x " * 20_000, {}), ("new", {"cache": "only"}), ("a", {"max_cost": 0})]
)
def test_a_refused_prompt_has_the_error_of_its_call(llm: LLMManager, prompt: str, options: Any) -> None:
    found = llm.estimate("t", [prompt], **options)
    with pytest.raises(LLMError) as raised:
        llm.complete("t", prompt, **options)
    ((code, error),) = found.errors.items()
    assert (code, str(error), found.refused, found.fits) == (raised.value.code, str(raised.value), 1, False)


def test_a_wrong_argument_is_an_error(llm: LLMManager) -> None:
    for task, prompts, options in (("t", "one prompt", {}), ("t", ["x"], {"max_tokens": 0}), ("unknown", [], {})):
        with pytest.raises((InvalidRequestError, UnknownTaskError)):
            llm.estimate(task, prompts, **options)


@pytest.mark.parametrize(("limits", "fits", "limit"), [
    ({"per_call": "0.01"}, True, ""),
    ({"per_call": "0.01", "per_day": "0.00045"}, False, "budget.per_day"),
    ({"per_day": "1", "total": "0.5"}, True, "budget.total"),
])  # fmt: skip
def test_it_says_what_the_budget_leaves(endpoint: Api, limits: dict[str, str], fits: bool, limit: str) -> None:
    with manager({"a": model("openai", endpoint)}, budget=limits, max_tokens=20) as llm:
        spent = llm.complete("t", "first").cost or Decimal(0)
        found = llm.estimate("t", (f"prompt {number}" for number in range(20)))
    assert (found.fits, found.limit, found.route.first) == (fits, limit, 20)
    assert found.left == (Decimal(limits[limit.removeprefix("budget.")]) - spent if limit else None)


def test_the_batch_then_costs_what_was_estimated(llm: LLMManager, endpoint: Api) -> None:
    def answer(exchange: Exchange) -> None:
        text = exchange.request.body["messages"][-1]["content"]
        faults.good(usage=(count("o200k", text) + 7, 100 + len(text) % 40))(exchange)

    endpoint.plan(answer)
    llm.batch("t", [f"learn {'x' * number}" for number in range(12)])
    prompts = [f"{'What does the option do? ' * (number % 9 + 1)}{number}" for number in range(40)]
    found, before = llm.estimate("t", prompts), llm.session.cost
    llm.batch("t", prompts)
    spent = llm.session.cost - before
    assert float(found.route.cost or 0) == pytest.approx(float(spent), rel=0.1)
    assert spent < (found.route.worst_cost or 0)


def test_prompts_are_not_kept(llm: LLMManager) -> None:
    def prompts(many: int) -> Iterator[str]:
        return (f"{number} {'word ' * 4000}" for number in range(many))

    llm.estimate("t", prompts(20))  # fills what has a bound
    tracemalloc.start()
    try:
        found = llm.estimate("t", prompts(200))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.route.first == 200
    assert most < 2_000_000, most  # the prompts are 4 MB


async def test_the_async_form_is_the_same_and_reads_prompts_in_another_thread(llm: LLMManager) -> None:
    readers = set()

    def prompts() -> Iterator[str]:
        for one in ("one", "two"):
            readers.add(threading.get_ident())
            yield one

    assert await llm.aestimate("t", prompts()) == llm.estimate("t", ["one", "two"])
    assert threading.get_ident() not in readers
