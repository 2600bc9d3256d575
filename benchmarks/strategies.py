"""Compares the strategies with the best possible choices.

    python benchmarks/strategies.py [--instances 1000] [--rejected 0.2] [--seed 1]

An instance is eight calls, one after the other, over four models of random quality and price, with `min_quality` and
one budget. Routes, ledger and fallback are real. The models are fakes whose answers have the expected length.
Compared are:

- `cheapest` with the cheapest of all 4^8 plans that answer as many calls, in order, as the money allows;
- `balanced` with the best of all 5^8 plans, which know all calls in advance and may leave calls unanswered. Calls
  arrive at the rate that it expects, 50 a day, and the day ends after the eighth;
- `cascade` (answers below the difficulty of a call are rejected) with the cheapest expected sequence of models, which
  knows how often answers of each quality are rejected.

Quality is the sum over the calls; a call without an answer counts 0. The best plans obey budgets in the same way: a
model is asked only if its worst case fits into what is left. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from testronaut_llm import Answer, LLMConfig
from testronaut_llm.errors import BudgetExceededError
from testronaut_llm.money.budgets import CALLS_A_DAY
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.records import Candidate, Usage
from testronaut_llm.testing.fake import FakeAnswer, FakeCall, FakeLLM

CALLS, MODELS = 8, 4
TOKENS = {"short": 256, "usual": 1024, "long": 2048}
"""Tasks, and the longest answer of each."""
HARD = 1.5
"""A call is hard for some model so much more often than the average model's answer is rejected."""
DAY = 86_400.0
EVENING = 20_000 * DAY + DAY - 1e-3
ZERO = Decimal(0)


@dataclass(frozen=True)
class Call:
    """One call: its prompt, its task, and the quality below which its answer is rejected."""

    prompt: str
    task: str
    floor: int
    difficulty: int


@dataclass(frozen=True)
class Instance:
    """Prices are USD per million tokens of input and output, by alias; `budget` is USD for all calls together."""

    models: dict[str, tuple[int, Decimal, Decimal]]
    calls: tuple[Call, ...]
    budget: Decimal


@dataclass(frozen=True)
class Outcome:
    """The result of a strategy, and the best possible one."""

    answered: int
    quality: int
    cost: Decimal
    best_answered: int
    best_quality: int
    best_cost: Decimal


def instance(rng: random.Random, rejected: float) -> Instance:
    """Returns a random case. Better models are mostly more expensive; some calls are too hard for some models."""
    qualities = sorted(rng.sample(range(1, 11), MODELS))
    models = {}
    for number, quality in enumerate(qualities):
        price = round(Decimal(0.05 * 1.7**quality * rng.lognormvariate(0, 0.5)), 3)
        models[f"m{number}"] = (quality, round(price / 4, 4), price)
    floors = {task: rng.choice([1, *qualities[:3]]) for task in TOKENS}
    calls = tuple(
        Call(
            prompt=f"{number}:{' word' * rng.randint(5, 200)}",
            task=(task := rng.choice(list(TOKENS))),
            floor=floors[task],
            difficulty=rng.choice(qualities[1:]) if rng.random() < rejected * HARD else 1,
        )
        for number in range(CALLS)
    )
    made = Instance(models, calls, Decimal(1000))
    dearest = sum((max(c.worst_cost or ZERO for c in found) for found in candidates(made)), ZERO)
    return Instance(models, calls, (dearest * Decimal(10 ** rng.uniform(-2, 0))).quantize(Decimal("1e-9")))


@cache
def prices() -> PriceTable:
    """Returns the price table, read once."""
    return PriceTable.load()


@contextmanager
def manager(made: Instance, strategy: str, *, limited: bool = True) -> Iterator[FakeLLM]:
    """Returns a manager of these models, whose answers have the expected length."""
    floors = {call.task: call.floor for call in made.calls}
    config = {
        "version": 1,
        "models": {
            name: {"model": f"groq/{name}", "price": {"input": low, "output": high}, "quality": quality}
            for name, (quality, low, high) in made.models.items()
        },
        "tasks": {
            name: {
                "models": list(made.models),
                "strategy": strategy,
                "min_quality": floor,
                "max_tokens": TOKENS[name],
                "retries": 0,
            }
            for name, floor in floors.items()
        },
        "budget": {"scope": "benchmark", **({"per_day": made.budget} if limited else {})},
    }
    with FakeLLM(config=LLMConfig.model_validate(config)) as llm:
        llm._caller.services.prices = prices()
        yield llm


def candidates(made: Instance) -> list[tuple[Candidate, ...]]:
    """Returns, for each call, the models of at least its `min_quality`, with expected and worst cost."""
    with manager(made, "as_listed", limited=False) as llm:
        return [llm.route(call.task, call.prompt).kept for call in made.calls]


def run(made: Instance, strategy: str, *, limited: bool = True) -> list[Answer | None]:
    """Returns the quality of each answer; None if there was not enough money."""
    known = {call.prompt: found for call, found in zip(made.calls, candidates(made), strict=True)}

    def answer(asked: FakeCall) -> FakeAnswer:
        one = next(c for c in known[asked.prompt] if c.alias == asked.model)
        usage = Usage(prompt_tokens=one.est_tokens or 0, completion_tokens=one.est_completion_tokens or 0)
        return FakeAnswer(text="yes", usage=usage)

    clock = [EVENING]
    answers: list[Answer | None] = []
    with manager(made, strategy, limited=limited) as llm:
        llm._ledger.clock = lambda: clock[0]
        llm.reply(answer)
        for place, call in enumerate(made.calls):
            clock[0] = EVENING - (CALLS - 1 - place) * DAY / CALLS_A_DAY
            hard = call.difficulty if strategy == "cascade" else 1
            try:
                answers.append(
                    llm.complete(call.task, call.prompt, accept=lambda a, d=hard: made.models[a.model][0] >= d)
                )
            except BudgetExceededError:
                answers.append(None)
        spent = llm.spend().total.cost
    assert not limited or spent <= made.budget, "a budget was broken"
    for call, one in zip(made.calls, answers, strict=True):
        assert one is None or made.models[one.model][0] >= call.floor, "a floor was broken"
    return answers


def least_money(made: Instance) -> tuple[int, Decimal]:
    """Returns calls answered and USD spent by the best plan that answers each call it can pay for.

    Exact without trying each plan: a plan that has spent less can still do all that the others can.
    """
    answered, spent = 0, ZERO
    for found in candidates(made):
        fitting = [one.est_cost or ZERO for one in found if spent + (one.worst_cost or ZERO) <= made.budget]
        if fitting:
            answered, spent = answered + 1, spent + min(fitting)
    return answered, spent


def most_quality(made: Instance) -> int:
    """Returns the quality of the best plan that knows all calls; keeps the plans that no other beats."""
    plans = [(ZERO, 0)]
    for found in candidates(made):
        longer = plans + [
            (spent + (one.est_cost or ZERO), quality + one.quality)
            for spent, quality in plans
            for one in found
            if spent + (one.worst_cost or ZERO) <= made.budget
        ]
        plans, best = [], -1
        for spent, quality in sorted(longer, key=lambda plan: (plan[0], -plan[1])):
            if quality > best:
                plans.append((spent, quality))
                best = quality
    return max(quality for _, quality in plans)


def best_climb(made: Instance, rejected: float) -> tuple[int, Decimal]:
    """Returns calls answered and USD spent with the cheapest expected sequence of models.

    It knows the prices, and how often answers of each quality are rejected, but not which ones.
    """
    qualities = sorted(quality for quality, _, _ in made.models.values())
    climbs = []
    for call, found in zip(made.calls, candidates(made), strict=True):
        best = max(found, key=lambda one: one.quality)
        others = [one for one in found if one is not best]
        ladders = [
            sorted((*chosen, best), key=lambda one: one.quality)
            for size in range(len(others) + 1)
            for chosen in itertools.combinations(others, size)
        ]
        climbs.append(_climb(call, min(ladders, key=lambda ladder: _expected(ladder, qualities, rejected))))
    return sum(done for done, _ in climbs), sum((cost for _, cost in climbs), ZERO)


def _expected(ladder: Sequence[Candidate], qualities: Sequence[int], rejected: float) -> Decimal:
    cost, reached = ZERO, 1.0
    for one in ladder:
        cost += (one.est_cost or ZERO) * Decimal(reached)
        reached = rejected * HARD * sum(quality > one.quality for quality in qualities[1:]) / (MODELS - 1)
    return cost


def _climb(call: Call, ladder: Sequence[Candidate]) -> tuple[bool, Decimal]:
    cost = ZERO
    for one in ladder:
        cost += one.est_cost or ZERO
        if one.quality >= call.difficulty:
            return True, cost
    return False, cost


def measure(made: Instance, strategy: str, rejected: float = 0.0) -> Outcome:
    """Returns the outcome of one strategy on one instance."""
    answers = run(made, strategy, limited=strategy != "cascade")
    given = [one for one in answers if one is not None]
    best_answered, best_cost = best_climb(made, rejected) if strategy == "cascade" else least_money(made)
    return Outcome(
        answered=len(given),
        quality=sum(made.models[one.model][0] for one in given),
        cost=sum((one.cost or ZERO for one in given), ZERO),
        best_answered=best_answered,
        best_quality=most_quality(made) if strategy == "balanced" else 0,
        best_cost=best_cost,
    )


def table(instances: int, rejected: float, seed: int) -> str:
    """Prints the results."""
    rng = random.Random(seed)
    made = [instance(rng, rejected) for _ in range(instances)]
    cheap = [measure(one, "cheapest") for one in made]
    same = sum((one.answered, one.cost) == (one.best_answered, one.best_cost) for one in cheap)
    balanced = [measure(one, "balanced") for one in made]
    shares = [one.quality / one.best_quality for one in balanced if one.best_quality]
    whole = Decimal(sum(one.quality for one in balanced)) / max(1, sum(one.best_quality for one in balanced))
    cascade = [measure(one, "cascade", rejected) for one in made]
    times = [float(one.cost / one.best_cost) for one in cascade if one.best_cost]
    ratio = float(sum((one.cost for one in cascade), ZERO) / sum((one.best_cost for one in cascade), ZERO))
    return "\n".join(
        (
            "| strategy | compared with | all together | median | worst twentieth |",
            "| --- | --- | --- | --- | --- |",
            f"| `cheapest` | least money | equal in {same} of {instances} | | |",
            f"| `balanced` | most quality | {whole:.3f} x | {_middle_and_twentieth(shares, 1)} |",
            f"| `cascade` | best climb | {ratio:.3f} x | {_middle_and_twentieth(times, 19)} |",
        )
    )


def _middle_and_twentieth(values: Sequence[float], place: int) -> str:
    twentieth = statistics.quantiles(values, n=20, method="inclusive")[place - 1]
    return f"{statistics.median(values):.3f} x | {twentieth:.3f} x"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--rejected", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(table(given.instances, given.rejected, given.seed))
