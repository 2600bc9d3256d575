"""The same prompts asked of several models, side by side: answers, agreement, cost, time, validity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations, product
from typing import Any

from testronaut_llm.agreement import Agreement, agreement_of
from testronaut_llm.batch import Outcome
from testronaut_llm.errors import AllModelsFailedError, InvalidRequestError, LLMError, OutputInvalidError
from testronaut_llm.loop import Running
from testronaut_llm.options import AllOptions
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Answer, total_cost
from testronaut_llm.support.money import exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models on one prompt. `agreement` is None where one of them has no answer."""

    models: tuple[str, str]
    agreement: Agreement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPrompt:
    """One prompt, and what each model made of it.

    Attributes:
        results: by alias, in the order asked: the Answer, or the error of a model that failed.
        agreement: of all models that answered; None where fewer than two did.
        pairs: every two models.
    """

    prompt: Prompt
    results: Mapping[str, Outcome]
    agreement: Agreement | None
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTotals:
    """One model over all prompts.

    Attributes:
        answered: prompts that it answered; the others failed.
        valid: answers that obey the schema, as a share of the prompts where it was the schema that decided; None
            without a schema.
        cost: USD, of failed attempts too; None where a price is not known.
        latency: seconds, summed.
    """

    model: str
    answered: int
    failed: int
    valid: float | None
    cost: Decimal | None
    latency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `compare` found.

    Attributes:
        prompts: one entry a prompt, in order.
        totals: one entry a model, in order.
        exact: on each prompt all models answered, with the same text.
        normalised: the same, apart from white space, case and punctuation.
        json: the same as JSON values; False where an answer is no JSON.
    """

    task: str | None
    models: tuple[str, ...]
    prompts: tuple[ComparedPrompt, ...]
    totals: tuple[ModelTotals, ...]
    exact: bool
    normalised: bool
    json: bool

    @property
    def results(self) -> Mapping[str, Outcome]:
        """By alias, the results for the prompt where there is only one.

        Raises:
            LLMError: there are several prompts.
        """
        if len(self.prompts) != 1:
            raise LLMError(f"{len(self.prompts)} prompts were compared; read `.prompts[n].results`")
        return self.prompts[0].results


def prompts_of(given: Any) -> tuple[Prompt, ...]:
    """One prompt (a text, or messages) or a list of prompts, as prompts.

    Raises:
        InvalidRequestError: there is none.
    """
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Sequence) or isinstance(given, bytes | bytearray) or not given:
        raise InvalidRequestError(f"prompt is {given!r:.40}; expected a text, messages, or a list of these")
    one = all(isinstance(turn, Mapping) for turn in given)
    return (given,) if one else tuple(given)


def models_of(given: Any) -> tuple[str, ...]:
    """The models to compare.

    Raises:
        InvalidRequestError: it is no list of names, or names one twice.
    """
    models = () if isinstance(given, str) or not isinstance(given, Sequence) else tuple(given)
    if not models or not all(isinstance(model, str) for model in models) or len(set(models)) < len(models):
        raise InvalidRequestError(f"models is {given!r:.60}; expected a list of different names from `models`")
    return models


def comparing(
    each: Callable[[str | None, AllOptions], Callable[[Prompt], Running[Outcome]]],
    task: str | None,
    prompt: Any,
    models: Any,
    options: AllOptions,
) -> tuple[Callable[[tuple[Prompt, str]], Running[Outcome]], list[tuple[Prompt, str]]]:
    """Returns what asks one prompt of one model, and all pairs of these.

    Raises:
        LLMError: a model is unknown, or another argument is wrong.
    """
    prompts, names = prompts_of(prompt), models_of(models)
    if options.get("model") is not None:
        raise InvalidRequestError(
            f"model is {options['model']!r:.60}; `compare` asks each of `models`, so leave it out"
        )
    start = {name: each(task, {**options, "model": name}) for name in names}
    return lambda pair: start[pair[1]](pair[0]), list(product(prompts, names))


@exact
def comparison_of(
    task: str | None, prompt: Any, models: Any, results: Sequence[Outcome], *, schema: bool
) -> Comparison:
    """Returns results side by side: of each prompt, one a model."""
    prompts, models, width = prompts_of(prompt), models_of(models), len(models)
    rows = [dict(zip(models, results[at : at + width], strict=True)) for at in range(0, len(results), width)]
    compared = tuple(_compared(prompt, row) for prompt, row in zip(prompts, rows, strict=True))
    whole = [agreement_of(answers) for row in rows if len(answers := _answers(row.values())) == width]
    complete = len(whole) == len(rows)
    return Comparison(
        task=task,
        models=models,
        prompts=compared,
        totals=tuple(_totals(model, [row[model] for row in rows], schema=schema) for model in models),
        exact=complete and all(one.exact for one in whole),
        normalised=complete and all(one.normalised for one in whole),
        json=complete and all(one.json or False for one in whole),
    )


def _compared(prompt: Prompt, row: Mapping[str, Outcome]) -> ComparedPrompt:
    answers = _answers(row.values())
    return ComparedPrompt(
        prompt=prompt,
        results=row,
        agreement=agreement_of(answers) if len(answers) > 1 else None,
        pairs=tuple(Pair(models=two, agreement=_between(row[two[0]], row[two[1]])) for two in combinations(row, 2)),
    )


def _between(*results: Outcome) -> Agreement | None:
    answers = _answers(results)
    return agreement_of(answers) if len(answers) == len(results) else None


def _answers(results: Any) -> list[Answer[Any]]:
    return [result for result in results if isinstance(result, Answer)]


def _totals(model: str, results: Sequence[Outcome], *, schema: bool) -> ModelTotals:
    answers = _answers(results)
    invalid = sum(_is_invalid(result) for result in results)
    judged = len(answers) + invalid
    costs = [_cost(result) for result in results]
    known = [cost for cost in costs if cost is not None]
    return ModelTotals(
        model=model,
        answered=len(answers),
        failed=len(results) - len(answers),
        valid=len(answers) / judged if schema and judged else None,
        cost=sum(known, Decimal(0)) if len(known) == len(costs) else None,
        latency=sum(map(_latency, results)),
    )


def _is_invalid(result: Outcome) -> bool:
    last = result.last if isinstance(result, AllModelsFailedError) else result
    return isinstance(last, OutputInvalidError)


def _cost(result: Outcome) -> Decimal | None:
    return result.cost if isinstance(result, Answer) else total_cost(result.attempts)


def _latency(result: Outcome) -> float:
    if isinstance(result, Answer):
        return result.latency
    return sum(attempt.waited + attempt.latency for attempt in result.attempts)
