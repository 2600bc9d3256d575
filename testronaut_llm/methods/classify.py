"""Classifies a prompt: which label fits, and with what confidence.

If the wire gives log-probabilities, one request is enough: each label's probability is that of its tokens. Otherwise
the question is asked several times and votes are counted. An unsure verdict is checked by a better model.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, cast, get_args, get_origin

from typing_extensions import TypeVar

from testronaut_llm.errors import InvalidRequestError, LLMError
from testronaut_llm.options import DEFAULTS, ClassifyOptions, call_of, checked
from testronaut_llm.prompts import Prompt, messages_of
from testronaut_llm.records import Answer, Attempt, Call, Message, Route, TokenChoice, known_cost, total_cost
from testronaut_llm.support.text import counted

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.options import AllOptions

L = TypeVar("L", default=str)

LabelTexts: TypeAlias = Mapping[L, str] | Sequence[L]
"""Labels, alone or with a description of each."""
MOST_LABELS, LONGEST_LABEL = 26, 60
_RELIABLE = 0.8
"""Share of right votes that is assumed: two of two votes give 0.94, two of three 0.8."""


@dataclass(frozen=True, slots=True)
class Labels(Generic[L]):
    """The labels as the caller gave them, by the text of each, and their descriptions, which may be empty."""

    values: Mapping[str, L]
    descriptions: Mapping[str, str]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of an answer that is one label."""
        return {"type": "string", "enum": list(self.values)}

    def question(self, messages: Sequence[Message]) -> Prompt:
        """Returns the messages with the labels and the instruction to choose one after the last of them."""
        listed = [f"- {text}: {words}" if (words := self.descriptions[text]) else f"- {text}" for text in self.values]
        asked = "\n".join(("Which of these labels fits? Answer with one label and nothing else.", *listed))
        *before, last = messages
        if last.role != "user":
            return [*messages, Message(role="user", content=asked)]
        return [*before, Message(role="user", content=f"{last.content}\n\n{asked}")]


def labels_of(labels: Any) -> Labels[Any]:
    """Returns the labels of texts, a mapping of texts to descriptions, a `Literal`, an `Enum`, or some of its members.

    Raises:
        InvalidRequestError: there are fewer than 2 or more than 26, or one is empty, too long, or a duplicate.
    """
    given = get_args(labels) if get_origin(labels) is Literal else labels
    is_enum = isinstance(given, type) and issubclass(given, Enum)
    if isinstance(given, str | bytes) or not (is_enum or isinstance(given, Mapping | Sequence)):
        raise InvalidRequestError(f"labels is {labels!r:.60}; expected texts, a mapping, an Enum or a Literal")
    values, descriptions = {}, {}
    for one in given:
        text = one.value if isinstance(one, Enum) else one
        if not isinstance(text, str) or not 0 < len(text.strip()) <= LONGEST_LABEL or not text.isprintable():
            raise InvalidRequestError(f"label {text!r:.80}; expected one line of 1 to {LONGEST_LABEL} characters")
        words = given[one] if isinstance(given, Mapping) else ""
        if not isinstance(words, str):
            raise InvalidRequestError(f"label {text!r} is described by {words!r:.40}; expected a text")
        values[text.strip()], descriptions[text.strip()] = one, words
    if len({text.casefold() for text in values}) < len(given):
        raise InvalidRequestError(f"labels {list(given)!r:.200} hold a duplicate; expected labels that differ")
    if not 2 <= len(values) <= MOST_LABELS:
        raise InvalidRequestError(f"labels holds {counted(len(values), 'label')}; expected 2 to {MOST_LABELS}")
    return Labels(values, descriptions)


def token_probabilities(tokens: Sequence[TokenChoice], labels: Sequence[str], named: str) -> dict[str, float] | None:
    """Returns the probability of each label, by the tokens of an answer that was read as `named`; None without those.

    At each token, the alternatives that some label begins with share the whole probability, since servers report what a
    model would say without the list of labels. A label that begins with the same tokens as the answer gets its share
    at the first token that differs.
    """
    said = "".join(one.token for one in tokens)
    quoted = {label: json.dumps(label, ensure_ascii=False) for label in labels}
    spelled = quoted if any(text in said for text in quoted.values()) else {label: label for label in labels}
    start = said.rfind(spelled[named])
    if start < 0:  # the server sent no tokens, or spelled them differently
        return None
    end = start + len(spelled[named])
    answers = {label: said[:start] + text + said[end:] for label, text in spelled.items()}
    found, share, before = dict.fromkeys(labels, 0.0), 1.0, ""
    for one in tokens:
        if start < len(before) + len(one.token) and len(before) <= end:
            weights = {}
            for token, logprob in {**one.others, one.token: one.logprob}.items():
                fits = [label for label in labels if answers[label].startswith(before + token)]
                if fits or token == one.token:
                    weights[token] = fits, math.exp(max(-700.0, min(0.0, logprob)))  # below that, it would be 0
            whole = sum(weight for _, weight in weights.values())
            for token, (fits, weight) in weights.items():
                for label in fits if token != one.token else ():
                    found[label] += share * weight / whole / len(fits)
            share *= weights[one.token][1] / whole
        before += one.token
    found[named] += share
    total = sum(found.values())
    return {label: part / total for label, part in found.items()} if total > 0 else None


def vote_probabilities(votes: Mapping[str, int], labels: Sequence[str]) -> dict[str, float]:
    """Returns the probability of each label, given independent votes that are right with probability `_RELIABLE`."""
    odds = _RELIABLE / (1 - _RELIABLE) * (len(labels) - 1)  # of one vote more for a label
    most = max(votes.values(), default=0)
    weights = {label: odds ** (votes.get(label, 0) - most) for label in labels}
    return {label: weight / sum(weights.values()) for label, weight in weights.items()}


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
        error: the last error of a request after the first: of a vote, or of a better model.

    >>> found = llm.classify("result_verification", "2 of 2 tests passed", ["passed", "failed"])
    >>> found.label, found.votes, found.cost
    ('passed', {'passed': 2, 'failed': 0}, Decimal('0'))
    """

    verdicts: tuple[ModelVerdict[L], ...]
    cost: Decimal | None
    error: LLMError | None = None


@dataclass(slots=True)
class _Question:
    """The requests of one classification; `max_cost` and `deadline` of the options hold for all of them together."""

    call_with: Callable[[Mapping[str, Any]], Call]
    answer_of: Callable[[Call], Awaitable[Any]]
    options: Mapping[str, Any]
    labels: Labels[Any]
    votes: int
    made: list[Attempt] = field(default_factory=list)  # of all requests, also of those that failed
    reason: str = ""  # why a better model is asked
    error: LLMError | None = None  # of the vote or the better model that failed last
    began: float = field(default_factory=time.monotonic)

    async def ask(self, model: str | None, number: int) -> Answer[Any]:
        """Returns the answer of a model to the question when it is asked for the `number`th time."""
        given = {**self.options, "sample": self.options.get("sample", 0) + number, "model": model}
        if self.made and "max_cost" in given:
            given["max_cost"] = max(Decimal(0), given["max_cost"] - known_cost(self.made))
        if self.made and "deadline" in given:
            given["deadline"] = max(0.001, given["deadline"] - (time.monotonic() - self.began))
        if self.reason:
            given["metadata"] = {**self.options.get("metadata", {}), "reason": self.reason}
        call = self.call_with(given)
        if number and not call.temperature:
            call = replace(call, temperature=SAMPLING)  # other votes than the first must be able to differ
        try:
            answer = await self.answer_of(call)
        except LLMError as failed:
            self.made += failed.attempts
            raise
        self.made += answer.attempts
        return replace(answer, attempts=tuple([replace(a, reason=self.reason or a.reason) for a in answer.attempts]))

    async def verdict(self, model: str | None) -> ModelVerdict[Any]:
        """Asks a model until its verdict cannot change; without a `model`, the one that answers first."""
        texts, values = list(self.labels.values), self.labels.values
        answers = [await self.ask(model, 0)]
        votes = Counter([answers[0].parsed])
        known = token_probabilities(answers[0].logprobs, texts, answers[0].parsed)
        while known is None and len(answers) < self.votes:
            second, first = sorted((0, *votes.values()))[-2:]
            if first - second > self.votes - len(answers):  # the others cannot change the outcome
                break
            try:
                answers.append(await self.ask(answers[0].model, len(answers)))
            except LLMError as failed:  # the votes so far are paid for, and count
                self.error = failed
                break
            votes[answers[-1].parsed] += 1
        found = known or vote_probabilities(votes, texts)
        leader = votes.most_common(1)[0][0]  # in a tie, the label that was named first
        best = max(texts, key=lambda text: (found[text], text == leader))
        return ModelVerdict(
            model=answers[0].model,
            label=values[best],
            probabilities={values[text]: share for text, share in found.items()},
            votes={values[text]: votes[text] for text in texts},
            answers=tuple(answers),
            method="logprobs" if known else "votes",
        )


async def classified(
    config: LLMConfig,
    task: str | None,
    prompt: Prompt,
    labels: Any,
    options: ClassifyOptions,
    answer_of: Callable[[Call], Awaitable[Any]],
    route_of: Callable[[Call], Route],
) -> Classification[Any]:
    """Asks the models of a route in turn, until a verdict has `min_confidence` or no better model is left.

    Raises:
        LLMError: an argument is wrong, or the first request failed. After a later one fails, the answers so far count.
    """
    known, given = labels_of(labels), checked(options, ClassifyOptions.__annotations__)
    votes, min_confidence = (given.pop(name, DEFAULTS[name]) for name in ("votes", "min_confidence"))
    messages = known.question(messages_of(prompt, None))

    def call_with(more: Mapping[str, Any]) -> Call:
        asked = cast("AllOptions", {**given, **more, "schema": known.schema})
        call = replace(call_of(config, task, messages, asked), logprobs=True)
        if call.temperature or all(one.provider_row.logprobs for one in call.candidates):
            return call
        return replace(call, temperature=SAMPLING)  # without log-probabilities it votes

    question = _Question(call_with, answer_of, given, known, int(votes))
    verdicts = [await question.verdict(given.get("model"))]
    while (sure := verdicts[-1].confidence) < min_confidence and "model" not in given:
        route = await asyncio.to_thread(lambda: route_of(call_with({})))  # it may ask a server
        if (better := next_better(route, verdicts[-1].model)) is None:
            break
        question.reason = f"{verdicts[-1].model} was {sure:.0%} sure, below min_confidence {min_confidence:g}"
        try:
            verdicts.append(await question.verdict(better))
        except LLMError as failed:
            question.error = failed
            break
    surest = max(verdicts, key=lambda verdict: verdict.confidence)
    facts = {one.name: getattr(surest, one.name) for one in fields(surest)}
    return Classification(**facts, verdicts=tuple(verdicts), cost=total_cost(question.made), error=question.error)


def next_better(route: Route, alias: str) -> str | None:
    """Returns the next better model of a route, the cheapest of those of equal quality; None if there is none."""
    quality = next((one.quality for one in route.kept if one.alias == alias), 10)
    better = [one for one in route.kept if one.quality > quality]
    cheapest = min(better, key=lambda one: (one.quality, one.est_cost or Decimal(0)), default=None)
    return cheapest.alias if cheapest is not None else None
