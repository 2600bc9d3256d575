"""Measures the verdicts of `classify` and their cost: 200 labelled pairs of expected and actual output.

    python benchmarks/classify.py [--rounds 20] [--seed 1] [--embedded 1]

The pairs are made by a program. Another order, other times, paths or rounding mean the same; a missing line, a changed
number or an error does not. Simulated judges give verdicts, `--rounds` times:

- `cheap` is wrong in 8 of 100 cases and says how sure it is; 15 of 100 answers have a confidence below 0.8;
- `mute` is wrong in 15 of 100 and gives no log-probabilities;
- `good` is wrong in 5 of 100 and costs twice as much.

All other parts are real. `--embedded 1` asks a real, weak model on this machine instead (SmolLM2-135M), once.

Wrong verdicts and cost are relative to a single call to the same model. The calibration error is the mean difference
between confidence and share of right verdicts, over ten classes of confidence.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from testronaut_llm import LLMConfig, LLMManager
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply, Request
from testronaut_llm.methods.classify import Classification
from testronaut_llm.records import TokenChoice, Usage

LABELS = {"same": "the actual output means the same", "different": "it does not"}
SAME, DIFFERENT = LABELS
UNSURE, SURE = (0.5, 0.8), (0.93, 1.0)
"""Confidence of the judge `cheap`: of 15 and of 85 answers of 100."""


@dataclass(frozen=True)
class Case:
    """One pair, as a prompt with its label."""

    prompt: str
    label: str


def cases(seed: int, count: int = 200) -> list[Case]:
    """Returns half of the pairs with each label."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        names = rng.sample(["alpha", "beta", "gamma", "delta", "omega", "sigma"], 4)
        lines = [f"{name}.txt {rng.randint(100, 999)} bytes {rng.random() * 9:.2f} s" for name in names]
        actual, label = list(lines), SAME if number % 2 else DIFFERENT
        change = rng.randrange(3)
        if label == SAME:
            moved = [line.replace(".txt", ".txt (in /tmp/x)") for line in lines]
            actual = (rng.sample(lines, 4), moved, [line[:-3] + " s" for line in lines])[change]
        elif change == 0:
            actual.pop(rng.randrange(4))
        elif change == 1:
            place = rng.randrange(4)
            actual[place] = actual[place].replace(" bytes", "7 bytes")
        else:
            actual[rng.randrange(4)] = "error: permission denied"
        prompt = "Expected output:\n{}\n\nActual output:\n{}".format("\n".join(lines), "\n".join(actual))
        made.append(Case(f"Case {number}.\n{prompt}", label))
    return made


class Judges:
    """A gateway of simulated judges with known error rates."""

    def __init__(self, truth: Sequence[Case], seed: int) -> None:
        self._truth = {case.prompt.partition("\n")[0]: case.label for case in truth}
        self._rng = random.Random(seed)

    async def send(self, request: Request, exchange: Exchange) -> AsyncIterator[Reply]:
        """Yields one answer; it is right as often as its confidence says."""
        exchange.requests += 1
        rng, name = self._rng, request.target.model.alias
        right = self._truth[request.messages[-1].content.partition("\n")[0]]
        confidence = {"mute": 0.85, "good": 0.95}.get(name) or rng.uniform(*(UNSURE if rng.random() < 0.15 else SURE))
        said = right if rng.random() < confidence else next(one for one in LABELS if one != right)
        other = next(one for one in LABELS if one != said)
        logs = {said: math.log(confidence), other: math.log(max(1e-9, 1 - confidence))}
        known = (TokenChoice(token=said, logprob=logs[said], others=logs),) if name != "mute" else ()
        usage = Usage(prompt_tokens=200, completion_tokens=1)
        yield Reply(text=said, finish_reason="stop", usage=usage, logprobs=known if request.logprobs else ())

    def load(self) -> None:
        """Does nothing."""

    async def aclose(self) -> None:
        """Does nothing."""


def simulated(truth: Sequence[Case], seed: int) -> LLMManager:
    """Returns a manager of the three judges."""
    models = {
        "cheap": {"model": "openai/cheap", "quality": 3, "price": {"input": 1, "output": 1}},
        "good": {"model": "openai/good", "quality": 8, "price": {"input": 2, "output": 2}},
        "mute": {"model": "groq/mute", "quality": 3, "price": {"input": 1, "output": 1}},
    }
    tasks = {"log": {"models": ["cheap", "good"]}, "vote": {"models": ["mute"]}}
    config = LLMConfig.model_validate({"version": 1, "models": models, "tasks": tasks})
    return LLMManager(config=config, gateway=Judges(truth, seed), offline=True)


@dataclass
class Score:
    """The verdicts of one way of asking, as (correct, confidence), and their cost."""

    verdicts: list[tuple[bool, float]]
    cost: float = 0.0

    def add(self, case: Case, found: Classification[str]) -> None:
        """Adds a verdict."""
        self.verdicts.append((found.label == case.label, found.confidence))
        self.cost += float(found.cost or 0)

    @property
    def wrong(self) -> float:
        """Share of wrong verdicts."""
        return 1 - statistics.mean(right for right, _ in self.verdicts)

    @property
    def calibration_error(self) -> float:
        """Mean difference between confidence and share of right verdicts, over ten classes of confidence."""
        classes: dict[int, list[tuple[bool, float]]] = {}
        for verdict in self.verdicts:
            classes.setdefault(min(9, int(verdict[1] * 10)), []).append(verdict)
        return sum(abs(sum(right - confidence for right, confidence in one)) for one in classes.values()) / len(
            self.verdicts
        )


async def rounds(given: argparse.Namespace) -> dict[str, Score]:
    """Asks all cases in each way, so many times."""
    scores = {
        name: Score([]) for name in ("cheap, one call", "cheap, min_confidence=0.8", "mute, one call", "mute, votes=3")
    }
    majority = scores["mute, plain majority of three"] = Score([])
    for number in range(given.rounds):
        truth = cases(given.seed + number)
        async with simulated(truth, given.seed + number) as llm:
            for case in truth:
                ask = lambda task, **more: llm.aclassify(task, case.prompt, LABELS, **more)  # noqa: B023, E731
                scores["cheap, one call"].add(case, await ask("log"))
                scores["cheap, min_confidence=0.8"].add(case, await ask("log", min_confidence=0.8))
                scores["mute, one call"].add(case, await ask("vote", votes=1))
                scores["mute, votes=3"].add(case, await ask("vote"))
                three = [await ask("vote", votes=1, sample=sample) for sample in (5, 6, 7)]
                label, count = Counter(one.label for one in three).most_common(1)[0]
                majority.verdicts.append((label == case.label, count / 3))
                majority.cost += sum(float(one.cost or 0) for one in three)
    return scores


def embedded(given: argparse.Namespace) -> dict[str, Score]:
    """Asks the embedded model of this machine about each case once."""
    models = {"embedded": {"model": "embedded/smollm2-135m"}}
    config = {
        "version": 1,
        "models": models,
        "tasks": {"t": {"models": ["embedded"], "max_tokens": 30, "cache": "off"}},
    }
    score = Score([])
    with LLMManager(config=LLMConfig.model_validate(config)) as llm:
        for case in cases(given.seed):
            score.add(case, llm.classify("t", case.prompt, LABELS))
    return {"embedded/smollm2-135m": score}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, number in (("rounds", 20), ("seed", 1), ("embedded", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    scores = embedded(given) if given.embedded else asyncio.run(rounds(given))
    print("| how | verdicts | wrong | compared with one call | cost compared with one call | calibration error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, score in scores.items():
        one = scores.get(f"{name.split(',')[0]}, one call", score)
        ratios = f"{score.wrong / one.wrong:.2f} | {score.cost / one.cost if one.cost else 1:.2f}"
        print(f"| {name} | {len(score.verdicts):,} | {score.wrong:.1%} | {ratios} | {score.calibration_error:.3f} |")


if __name__ == "__main__":
    main()
