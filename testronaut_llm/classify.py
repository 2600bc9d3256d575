"""Classifies a prompt: which label fits, and with what confidence.

If the wire gives log-probabilities, one request is enough: each label's probability is that of its tokens. Otherwise
the question is asked several times and votes are counted. An unsure verdict is checked by a better model.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Literal, cast

from testronaut_llm.errors import LLMError
from testronaut_llm.labels import L, Labels, labels_of, token_probabilities, vote_probabilities
from testronaut_llm.options import DEFAULTS, ClassifyOptions, call_of, checked
from testronaut_llm.prompts import Prompt, messages_of
from testronaut_llm.records import Answer, Call, Route, known_cost, total_cost

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.options import AllOptions


SAMPLING = 0.7
"""Temperature of the requests to a model without log-probabilities, if the task sets 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVerdict(Generic[L]):
    """The verdict of one model.

    Attributes:
        model: its alias.
        label: the most probable label.
        probabilities: of each label; they sum to 1.
        votes: how many answers named each label.
        answers: the answers, in the order of the requests.
        method: `logprobs` or `votes`.
    """

    model: str
    label: L
    probabilities: Mapping[L, float]
    votes: Mapping[L, int]
    answers: tuple[Answer[Any], ...]
    method: Literal["logprobs", "votes"]

    @property
    def confidence(self) -> float:
        """Probability of the label, from 0 to 1."""
        return self.probabilities[self.label]

    @property
    def margin(self) -> float:
        """Probability of the label less that of the next one."""
        first, second, *_ = sorted(self.probabilities.values(), reverse=True)
        return first - second


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(ModelVerdict[L]):
    """The surest verdict, with those of all models that were asked.

    Attributes:
        verdicts: of each model, in the order in which they were asked.
        cost: USD of all requests; None if a price is unknown.
        error: the error of a better model that was asked and failed, if `min_confidence` was not reached.

    >>> found = llm.classify("result_verification", "2 of 2 tests passed", ["passed", "failed"])
    >>> found.label, found.votes, found.cost
    ('passed', {'passed': 2, 'failed': 0}, Decimal('0'))
    """

    verdicts: tuple[ModelVerdict[L], ...]
    cost: Decimal | None
    error: LLMError | None = None


Ask = Callable[[dict[str, Any]], Awaitable[Answer[Any]]]
"""Asks for one answer with these options of a call."""


async def verdict_of(ask: Ask, labels: Labels[Any], options: Mapping[str, Any], votes: int) -> ModelVerdict[Any]:
    """Asks one model until its verdict cannot change; the first answer names the model."""
    texts, began = list(labels.values), time.monotonic()
    answers: list[Answer[Any]] = []
    counted: Counter[str] = Counter()
    while True:
        given = {**options, "sample": options.get("sample", 0) + len(answers)}
        if answers:
            given |= {"model": answers[0].model, **_left(options, answers, time.monotonic() - began)}
        answers.append(await ask(given))
        counted[str(answers[-1].parsed)] += 1
        probabilities = token_probabilities(answers[0].logprobs, texts)
        (leader, most), *others = counted.most_common(2)
        behind = others[0][1] if others else 0
        if probabilities is not None or most - behind > votes - len(answers):
            break
    found = probabilities or vote_probabilities(counted, texts)
    best = max(texts, key=lambda text: (found[text], text == leader))
    return ModelVerdict(
        model=answers[0].model,
        label=labels.values[best],
        probabilities={labels.values[text]: share for text, share in found.items()},
        votes={labels.values[text]: counted[text] for text in texts},
        answers=tuple(answers),
        method="votes" if probabilities is None else "logprobs",
    )


def next_better(route: Route, alias: str) -> str | None:
    """Returns the next better model of a route, the cheapest of those of equal quality; None if there is none."""
    quality = next((one.quality for one in route.kept if one.alias == alias), 10)
    better = [one for one in route.kept if one.quality > quality]
    cheapest = min(better, key=lambda one: (one.quality, one.est_cost or Decimal(0)), default=None)
    return cheapest.alias if cheapest is not None else None


async def classified(
    config: LLMConfig,
    task: str | None,
    prompt: Prompt,
    labels: Any,
    options: ClassifyOptions,
    answer_of: Callable[[Call], Awaitable[Any]],
    route_of: Callable[[Call], Route],
) -> Classification[Any]:
    """Returns the classification of a prompt. Raises LLMError if an argument is wrong or the first model fails."""
    known, given = labels_of(labels), checked(options, ClassifyOptions.__annotations__)
    limits: dict[str, Any] = {name: given.pop(name, DEFAULTS[name]) for name in ("votes", "min_confidence")}
    asked, schema = known.question(messages_of(prompt, None)), known.schema

    def call_with(given: Mapping[str, Any]) -> Call:
        call = replace(call_of(config, task, asked, cast("AllOptions", {**given, "schema": schema})), logprobs=True)
        if call.temperature or all(one.provider_row.logprobs for one in call.candidates):
            return call
        return replace(call, temperature=SAMPLING)  # without log-probabilities it votes

    def better_than(alias: str) -> str | None:
        return None if given.get("model") else next_better(route_of(call_with(given)), alias)

    return await classification_of(lambda one: answer_of(call_with(one)), better_than, known, given, **limits)


async def classification_of(
    ask: Ask,
    better_than: Callable[[str], str | None],
    labels: Labels[Any],
    options: Mapping[str, Any],
    *,
    votes: int,
    min_confidence: float,
) -> Classification[Any]:
    """Asks the models of the route in turn, until a verdict has `min_confidence` or no better model is left.

    Raises:
        LLMError: the first model failed. If a better one fails, the verdicts so far are returned.
    """
    verdicts: list[ModelVerdict[Any]] = []
    began, error, model = time.monotonic(), None, None
    while True:
        answers = [answer for verdict in verdicts for answer in verdict.answers]
        given = {**options, **({"model": model, **_left(options, answers, time.monotonic() - began)} if model else {})}
        try:
            verdicts.append(await verdict_of(ask, labels, given, votes))
        except LLMError as failed:
            if not verdicts:
                raise
            error = failed
            break
        if verdicts[-1].confidence >= min_confidence:
            break
        model = await asyncio.to_thread(better_than, verdicts[-1].model)  # it may ask a server
        if model is None:
            break
    surest = max(verdicts, key=lambda verdict: verdict.confidence)
    return Classification(
        model=surest.model,
        label=surest.label,
        probabilities=surest.probabilities,
        votes=surest.votes,
        answers=surest.answers,
        method=surest.method,
        verdicts=tuple(verdicts),
        cost=total_cost([answer for verdict in verdicts for answer in verdict.answers]),
        error=error,
    )


def _left(options: Mapping[str, Any], answers: Sequence[Answer[Any]], seconds: float) -> dict[str, Any]:
    """Returns what is left of `max_cost` and `deadline`; both hold for all requests together."""
    left: dict[str, Any] = {}
    if options.get("max_cost") is not None:
        left["max_cost"] = max(Decimal(0), Decimal(str(options["max_cost"])) - known_cost(answers))
    if options.get("deadline") is not None:
        left["deadline"] = max(0.001, options["deadline"] - seconds)
    return left
