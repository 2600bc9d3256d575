"""The benchmark of the strategies computes true optima, and its targets hold on a few instances."""

from __future__ import annotations

import importlib.util
import itertools
import random
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "strategies.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("strategy_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_optima_are_those_of_brute_force(benchmark: ModuleType) -> None:
    """Trying every plan of a short instance finds the same best quality and least money."""
    rng = random.Random(3)
    for _ in range(6):
        made = benchmark.instance(rng, 0.2)
        short = benchmark.Instance(made.models, made.calls[:4], made.budget / 2)
        found = benchmark.candidates(short)
        qualities, costs = [], []
        for plan in itertools.product(*((None, *one) for one in found)):
            spent, fits, greedy = Decimal(0), True, True
            for one, listed in zip(plan, found, strict=True):
                left = short.budget - spent
                fits = fits and (one is None or one.worst_cost <= left)
                greedy = greedy and (one is not None or all(c.worst_cost > left for c in listed))
                spent += one.est_cost if one is not None else 0
            qualities += [sum(one.quality for one in plan if one is not None)] * fits
            costs += [(-sum(one is not None for one in plan), spent)] * (fits and greedy)
        answered, spent = benchmark.least_money(short)
        assert benchmark.most_quality(short) == max(qualities)
        assert (-answered, spent) == min(costs)


def test_the_targets_hold(benchmark: ModuleType) -> None:
    """`cheapest` is the optimum, `balanced` reaches 95 % of the quality, and no budget is exceeded."""
    rng = random.Random(5)
    made = [benchmark.instance(rng, 0.2) for _ in range(8)]
    for one in (benchmark.measure(found, "cheapest") for found in made):
        assert (one.answered, one.cost) == (one.best_answered, one.best_cost)
    balanced = [benchmark.measure(found, "balanced") for found in made]
    assert sum(one.quality for one in balanced) >= 0.95 * sum(one.best_quality for one in balanced)
    cascade = [benchmark.measure(found, "cascade", 0.2) for found in made]
    assert [one.answered for one in cascade] == [one.best_answered for one in cascade]
    assert "| `cascade` | best climb |" in benchmark.table(2, 0.2, 1)
