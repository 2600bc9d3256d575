"""The benchmark of the strategies runs, and its targets hold on a few instances."""

from __future__ import annotations

import importlib.util
import random
import sys
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


def test_the_targets_hold(benchmark: ModuleType) -> None:
    rng = random.Random(5)
    made = [benchmark.instance(rng, 0.2) for _ in range(8)]
    for one in (benchmark.measure(found, "cheapest") for found in made):
        assert (one.answered, one.cost) == (one.best_answered, one.best_cost)
    balanced = [benchmark.measure(found, "balanced") for found in made]
    assert sum(one.quality for one in balanced) >= 0.95 * sum(one.best_quality for one in balanced)
    cascade = [benchmark.measure(found, "cascade", 0.2) for found in made]
    assert [one.answered for one in cascade] == [one.best_answered for one in cascade]
    assert "| `cascade` | best climb |" in benchmark.table(2, 0.2, 1)
