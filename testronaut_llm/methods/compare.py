"""Asks several models the same prompts and compares answers, agreement, cost, time and validity.

Answers agree as text, as text without its form, or as JSON field by field.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import Any

from pydantic import TypeAdapter

from testronaut_llm.errors import AllModelsFailedError, InvalidRequestError, LLMError, OutputInvalidError
from testronaut_llm.loop import LoopTask
from testronaut_llm.methods.batch import Outcome, Record
from testronaut_llm.options import AllOptions
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Answer, Message, total_cost
from testronaut_llm.schema.document import json_path
from testronaut_llm.schema.output_schema import parse
from testronaut_llm.support.text import exact

_NUMBER = re.compile(r"(?<!\w)-?\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The agreement of several answers.

    Attributes:
        exact: True if the texts are equal.
        normalised: True if they are equal apart from white space, case and punctuation.
        json: True if all hold equal JSON values; None if one is not JSON.
        same: paths (`$.steps[0].name`) of the values that are equal in all.
        different: paths of the values that differ, or are missing in some.
    """

    exact: bool
    normalised: bool
    json: bool | None
    same: tuple[str, ...] = ()
    different: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPrompt:
    """One prompt, with the result of each model.

    Attributes:
        results: by alias, in the order asked: the Answer, or the error of a model that failed.
        agreement: of all models that answered; None if fewer than two did.
    """

    prompt: Prompt
    results: Mapping[str, Outcome]
    agreement: Agreement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTotals:
    """One model over all prompts.

    Attributes:
        answered: prompts that it answered; the others failed.
        valid: share (0 to 1) of answers that match the schema, without prompts that failed for other reasons; None
            without a schema.
        cost: USD, of failed attempts too; None if a price is unknown.
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
    """The result of `compare`.

    Attributes:
        prompts: one entry per prompt, in order.
        totals: one entry per model, in order.
        exact: True if all models answered each prompt with the same text.
        normalised: the same, apart from white space, case and punctuation.
        json: the same as JSON values; False if an answer is not JSON.

    >>> found = llm.compare("cli_analysis", ["What is ls?", "What is cp?"], models=["fake", "other"])
    >>> [(one.model, one.answered, one.cost) for one in found.totals], found.normalised
    ([('fake', 2, Decimal('0')), ('other', 2, Decimal('0'))], True)
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
        """Results by alias, if there is one prompt. Raises LLMError if there are several."""
        if len(self.prompts) != 1:
            raise LLMError(f"{len(self.prompts)} prompts were compared; read `.prompts[n].results`")
        return self.prompts[0].results


@dataclass(frozen=True, slots=True)
class _Comparing:
    """A running comparison. Its tasks are the calls: each prompt to each model."""

    task: str | None
    prompts: tuple[Prompt, ...]
    models: tuple[str, ...]
    tasks: Iterator[LoopTask[Outcome]]
    has_schema: bool
    record: Record = field(default_factory=Record)

    @exact
    def result(self) -> Comparison:
        """Returns the results side by side."""
        names, results = self.models, iter(self.record.results)
        rows = [{name: next(results) for name in names} for _ in self.prompts]
        whole = [_agreement(row.values(), len(names)) for row in rows]
        return Comparison(
            task=self.task,
            models=names,
            prompts=tuple(
                ComparedPrompt(prompt=prompt, results=row, agreement=_agreement(row.values(), 2))
                for prompt, row in zip(self.prompts, rows, strict=True)
            ),
            totals=tuple(_totals(name, [row[name] for row in rows], schema=self.has_schema) for name in names),
            exact=all(one is not None and one.exact for one in whole),
            normalised=all(one is not None and one.normalised for one in whole),
            json=all(one is not None and bool(one.json) for one in whole),
        )


def comparing(
    each: Callable[[str | None, tuple[Prompt, ...], AllOptions], Iterator[LoopTask[Outcome]]],
    task: str | None,
    prompt: Any,
    models: Any,
    options: AllOptions,
) -> _Comparing:
    """Returns a comparison that has not started; `each` returns the tasks of prompts.

    Raises:
        LLMError: a model is unknown, or another argument is wrong.
    """
    prompts: Any = (prompt,) if isinstance(prompt, str) else prompt
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes | bytearray) or not prompts:
        raise InvalidRequestError(f"prompt is {prompt!r:.40}; expected a text, messages, or a list of these")
    if all(isinstance(turn, Mapping | Message) for turn in prompts):
        prompts = (prompts,)
    names = () if isinstance(models, str) or not isinstance(models, Sequence) else tuple(models)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InvalidRequestError(f"models is {models!r:.60}; expected a list of different names from `models`")
    if options.get("model") is not None:
        given = f"model is {options['model']!r:.60}"
        raise InvalidRequestError(f"{given}; `compare` asks each of `models`, so leave it out")
    tasks = chain.from_iterable(zip(*[each(task, prompts, {**options, "model": name}) for name in names], strict=True))
    return _Comparing(task, tuple(prompts), names, tasks, options.get("schema") is not None)


def _agreement(results: Any, least: int) -> Agreement | None:
    """Returns the agreement of the answers among the results; None if there are fewer than `least`."""
    answers = [result for result in results if isinstance(result, Answer)]
    return agreement_of(answers) if len(answers) >= least else None


def _totals(model: str, results: Sequence[Outcome], *, schema: bool) -> ModelTotals:
    answered = invalid = 0
    latency, costs = 0.0, []
    for one in results:
        if isinstance(one, Answer):
            answered, latency = answered + 1, latency + one.latency
            costs.append(one.cost)
        else:
            invalid += isinstance(one.last if isinstance(one, AllModelsFailedError) else one, OutputInvalidError)
            latency += sum(attempt.waited + attempt.latency for attempt in one.attempts)
            costs.append(total_cost(one.attempts))
    known = [cost for cost in costs if cost is not None]
    return ModelTotals(
        model=model,
        answered=answered,
        failed=len(results) - answered,
        valid=answered / (answered + invalid) if schema and answered + invalid else None,
        cost=sum(known, Decimal(0)) if len(known) == len(costs) else None,
        latency=latency,
    )


def agreement_of(answers: Sequence[Answer[Any]]) -> Agreement:
    """Returns how far the answers agree; one answer agrees with itself."""
    texts = [answer.text for answer in answers]
    fields = [_fields(answer) for answer in answers]
    known = [one for one in fields if one is not None]
    paths = list(dict.fromkeys(path for one in known for path in one)) if len(known) == len(fields) else []
    same = tuple(path for path in paths if len({one.get(path) for one in known}) == 1)
    return Agreement(
        exact=len(set(texts)) <= 1,
        normalised=len(set(map(normalised, texts))) <= 1,
        json=len(same) == len(paths) if len(known) == len(fields) else None,
        same=same,
        different=tuple(path for path in paths if path not in same),
    )


def normalised(text: str) -> str:
    """Returns the words and numbers of a text in lower case, without punctuation, with single blanks.

    The sign and the point of a number stay, and so does a text that is nothing but punctuation.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    numbers = {place for found in _NUMBER.finditer(plain) for place in range(*found.span())}
    kept = (
        " " if unicodedata.category(letter).startswith("P") and place not in numbers else letter
        for place, letter in enumerate(plain)
    )
    return " ".join("".join(kept).split()) or plain.strip()


def _fields(answer: Answer[Any]) -> dict[str, str] | None:
    """Returns the values by their paths, as text in which 1 is 1.0, and not true or "1". None: no JSON, or several."""
    if answer.parsed is not None:
        value = TypeAdapter(Any).dump_python(answer.parsed, mode="json", fallback=str)
    else:
        try:
            (value,) = parse(answer.text, lenient=True)
        except (OutputInvalidError, ValueError):  # any of several values may be the answer
            return None
    return {json_path(path): text for path, text in _leaves(value, ())}


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(one, (*path, key))
    elif isinstance(value, list) and value:
        for place, one in enumerate(value):
            yield from _leaves(one, (*path, place))
    else:
        number = isinstance(value, float) and value.is_integer()
        yield path, json.dumps(int(value) if number else value)
