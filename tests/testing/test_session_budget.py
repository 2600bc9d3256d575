"""The budget of a recording session: sound under threads, and refusing what it cannot count."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.errors import BudgetExceededError
from testronaut_llm.records import Attempt, Call, Candidate
from testronaut_llm.testing.session_budget import SessionBudget, SessionReservation

CALL = Call(task="t", messages=(), max_tokens=1, deadline=1.0)
CONFIG = LLMConfig.model_validate({"version": 1, "tasks": {"t": {"models": ["openai/a"]}}})
MODEL = Candidate(alias="a", model="openai/a", provider="openai", quality=5, local=False)


def reserve(budget: SessionBudget, worst: Decimal | None) -> SessionReservation:
    return budget.reserve(CONFIG, CONFIG.task("t"), CALL, MODEL, worst, spent=Decimal(0))


def _attempt(cost: Decimal | None) -> Attempt:
    return Attempt(model="a", provider_model="openai/a", outcome="answer", cost=cost)


def test_what_is_set_aside_becomes_what_it_cost() -> None:
    """Settling frees what the worst case was too much, once; an unknown cost settles at the worst case."""
    budget = SessionBudget(Decimal(1))
    slip = reserve(budget, Decimal("0.9"))
    with pytest.raises(BudgetExceededError, match=r"0\.1000 of 1 USD are left"):
        reserve(budget, Decimal("0.2"))
    slip.sent()
    slip.settle(_attempt(Decimal("0.1")))
    slip.settle(_attempt(Decimal("0.1")))
    assert budget.spent == Decimal("0.1")
    reserve(budget, Decimal("0.9")).settle(_attempt(None))
    assert budget.spent == Decimal("1.0")


def test_what_was_not_sent_costs_nothing() -> None:
    """An attempt that cost nothing gives everything back."""
    budget = SessionBudget(Decimal(1))
    reserve(budget, Decimal(1)).settle(_attempt(Decimal(0)))
    reserve(budget, Decimal(1)).settle(_attempt(Decimal(0)))
    assert budget.spent == 0


def test_an_unknown_price_is_refused() -> None:
    """A model that nobody can price is not recorded under a budget; a free one always is."""
    budget = SessionBudget(Decimal(0))
    with pytest.raises(BudgetExceededError, match="no known price"):
        reserve(budget, None)
    reserve(budget, Decimal(0)).settle(_attempt(Decimal(0)))


def test_threads_do_not_overspend() -> None:
    """Of many at once, only as many get through as the limit holds."""
    budget = SessionBudget(Decimal(5))

    def spend(_: int) -> bool:
        try:
            reserve(budget, Decimal(1)).settle(_attempt(Decimal(1)))
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(spend, range(40))) == 5
    assert budget.spent == 5
