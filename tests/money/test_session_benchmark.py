"""The benchmark of a session measures what it says, on a few texts that are made here."""

from __future__ import annotations

import importlib.util
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def session() -> ModuleType:
    spec = importlib.util.spec_from_file_location("session_benchmark", FOLDER / "session.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def asked(session: ModuleType) -> list[tuple[str, str]]:
    texts = {f"tool{number}": f"Usage: tool{number} [OPTION]... FILE...\n" * (5 + number) for number in range(4)}
    calls: list[tuple[str, str]] = session.calls(texts)
    assert len(calls) == 12
    return calls


def test_cheaper_strategies_cost_less_and_floors_hold(session: ModuleType, asked: list[tuple[str, str]]) -> None:
    """`cheapest` takes the cheapest of each floor where nothing is refused; refusals cost money."""
    best, quality = session.run(asked, "always the best")
    cheap, low = session.run(asked, "cheapest", refused=0.0)
    refused, _ = session.run(asked, "cheapest", refused=0.5)
    assert Decimal(0) < cheap < refused < best
    assert (quality, low) == (9.0, pytest.approx((6 + 6 + 4) / 3))


def test_a_budget_holds_and_a_warm_cache_costs_nothing(session: ModuleType, asked: list[tuple[str, str]]) -> None:
    """`balanced` stays below its day's budget, and buys better answers than `cheapest` with it."""
    best, _ = session.run(asked, "always the best")
    cost, quality = session.run(asked, "balanced", budget=best / 2)
    assert cost <= best / 2
    assert quality > session.run(asked, "cheapest")[1]
    assert session.run(asked, "cascade", again=True)[0] == 0


def test_the_help_of_commands_is_read(session: ModuleType) -> None:
    """As many texts as asked for, of commands of this machine."""
    texts = session.helps(3)
    assert len(texts) == 3
    assert all(len(text) > 100 for text in texts.values())
