"""A verdict with a confidence: which of some labels fits a prompt, and how sure the models are.

If the wire gives log-probabilities, one request is enough: each label's probability is that of its tokens. Else the
same question is asked several times, and the votes count. A verdict that is not sure enough goes to a better model.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, Literal, get_args, get_origin

from typing_extensions import TypeVar

from testronaut_llm.errors import InvalidRequestError, LLMError
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Answer, Call, Route, TokenChoice
from testronaut_llm.support.money import exact

L = TypeVar("L", default=str)

MOST_LABELS, LONGEST_LABEL = 26, 60
VOTES, SAMPLING = 3, 0.7
"""How often a model without log-probabilities is asked at most, and at which temperature if the task says 0."""
_RELIABLE = 0.8
"""Share of right votes that is assumed when votes become probabilities: two of two are 0.94, two of three 0.8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Generic[L]):
    """What one model said.

    Attributes:
        model: its alias.
        label: the most probable label.
        probabilities: of each label; they sum to 1.
        votes: how many answers named each label.
        answers: the answers, in the order of asking.
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
class Classification(Verdict[L]):
    """The surest verdict, with those of all models that were asked.

    Attributes:
        verdicts: of each model, in the order of asking.
        cost: USD of everything that was sent; None if a price is unknown.
        error: why no better model answered, if `min_confidence` was not reached and one was asked.
    """

    verdicts: tuple[Verdict[L], ...]
    cost: Decimal | None
    error: LLMError | None = None


@dataclass(frozen=True, slots=True)
class Labels(Generic[L]):
    """The labels by their texts, each with a description, which may be empty."""

    values: Mapping[str, L]
    descriptions: Mapping[str, str]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of an answer that is one label."""
        return {"type": "string", "enum": list(self.values)}

    def question(self, prompt: Prompt) -> Prompt:
        """Returns the prompt with the labels, and what to do with them."""
        listed = [f"- {text}: {words}" if (words := self.descriptions[text]) else f"- {text}" for text in self.values]
        asked = "\n".join(("Which of these labels fits? Answer with one label and nothing else.", *listed))
        if isinstance(prompt, str):
            return f"{prompt}\n\n{asked}"
        return [*prompt, {"role": "user", "content": asked}]


def labels_of(labels: Any) -> Labels[Any]:
    """Checks labels: texts, a mapping of texts to descriptions, an `Enum` of texts, or a `Literal` of them.

    Raises:
        InvalidRequestError: there are fewer than 2 or more than 26, or one is empty, too long, or there twice.
    """
    descriptions: Mapping[Any, Any] = labels if isinstance(labels, Mapping) else {}
    values: dict[Any, Any]
    if isinstance(labels, type) and issubclass(labels, Enum):
        values = {member.value: member for member in labels}
        texts = list(values)
    else:
        given = get_args(labels) if get_origin(labels) is Literal else labels
        if isinstance(given, str | bytes) or not isinstance(given, Mapping | Sequence):
            raise InvalidRequestError(f"labels is {labels!r:.60}; expected texts, a mapping, an Enum or a Literal")
        texts = list(given)
        values = {text: text for text in texts if isinstance(text, str)}
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text.strip()) <= LONGEST_LABEL or not text.isprintable():
            raise InvalidRequestError(f"label {text!r:.80}; expected a text of 1 to {LONGEST_LABEL} characters")
        if not isinstance(words := descriptions.get(text, ""), str):
            raise InvalidRequestError(f"label {text!r} is described by {words!r:.40}; expected a text")
    if len({text.strip().casefold() for text in texts}) < len(texts):
        raise InvalidRequestError(f"labels {texts!r:.200} hold one twice; expected labels that differ")
    if not 2 <= len(texts) <= MOST_LABELS:
        raise InvalidRequestError(f"{len(texts)} labels; expected 2 to {MOST_LABELS}")
    return Labels(values, {text: descriptions.get(text, "") for text in texts})


def token_probabilities(tokens: Sequence[TokenChoice], labels: Sequence[str]) -> dict[str, float] | None:
    """Returns the probability of each label, by the tokens of an answer; None if the answer names none.

    At each token, the alternatives that some label begins with share the whole probability, since servers report what a
    model would say without the list of labels. A label that shares its first tokens with the answer gets its part at
    the token where they differ.
    """
    said = "".join(one.token for one in tokens)
    quoted = {label: json.dumps(label, ensure_ascii=False) for label in labels}
    in_json = any(text in said for text in quoted.values())
    spelled = {label: text[1:-1] if in_json else label for label, text in quoted.items()}
    named = next(
        (one for one in sorted(labels, key=len, reverse=True) if (quoted[one] if in_json else one) in said), None
    )
    if named is None:
        return None
    start = said.rfind(quoted[named]) + 1 if in_json else said.find(named)
    end = start + len(spelled[named])
    wholes = {label: said[:start] + text + said[end:] for label, text in spelled.items()}
    found, shared, before = dict.fromkeys(labels, 0.0), 1.0, ""
    for one in tokens:
        position, before = before, before + one.token
        if len(before) <= start:
            continue
        likely = {**one.others, one.token: one.logprob}
        fits = {token: [label for label in labels if wholes[label].startswith(position + token)] for token in likely}
        allowed = {token: math.exp(min(0.0, likely[token])) for token, of in fits.items() if of or token == one.token}
        for token, mass in allowed.items():
            for label in fits[token] if token != one.token else ():
                found[label] += shared * mass / sum(allowed.values()) / len(fits[token])
        shared *= allowed[one.token] / sum(allowed.values())
        if len(before) > end:
            break
    found[named] += shared
    total = sum(found.values())
    return {label: share / total for label, share in found.items()} if total > 0 else None


def vote_probabilities(votes: Mapping[str, int], labels: Sequence[str]) -> dict[str, float]:
    """Returns the probability of each label after independent votes, each of which is right with `_RELIABLE`."""
    right, wrong = math.log(_RELIABLE), math.log((1 - _RELIABLE) / (len(labels) - 1))
    weights = {label: math.exp((right - wrong) * votes.get(label, 0)) for label in labels}
    return {label: weight / sum(weights.values()) for label, weight in weights.items()}


Ask = Callable[[dict[str, Any]], Awaitable[Answer[Any]]]
"""Asks for one answer with these options of a call."""


async def verdict_of(ask: Ask, labels: Labels[Any], options: Mapping[str, Any], votes: int) -> Verdict[Any]:
    """Asks one model until its verdict is settled; the first answer says which model that is."""
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
    return Verdict(
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


def sampled(call: Call) -> Call:
    """Returns the call at a temperature above 0 if a model may answer that gives no log-probabilities."""
    if call.temperature or all(one.provider.logprobs for one in call.candidates):
        return call
    return replace(call, temperature=SAMPLING)


async def classification_of(
    ask: Ask,
    better_than: Callable[[str], str | None],
    labels: Labels[Any],
    options: Mapping[str, Any],
    *,
    votes: int = VOTES,
    min_confidence: float = 0.0,
) -> Classification[Any]:
    """Asks models from the first of the route on, until a verdict has `min_confidence` or no better model is left.

    Raises:
        LLMError: an argument is wrong, or the first model failed; a better one that fails leaves the verdicts so far.
    """
    if type(votes) is not int or votes < 1:
        raise InvalidRequestError(f"votes is {votes!r:.60}; expected a whole number of at least 1")
    if type(min_confidence) not in (int, float) or not 0 <= min_confidence <= 1:
        raise InvalidRequestError(f"min_confidence is {min_confidence!r:.60}; expected a number from 0 to 1")
    verdicts: list[Verdict[Any]] = []
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
        model = better_than(verdicts[-1].model)
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
        cost=_cost([answer for verdict in verdicts for answer in verdict.answers]),
        error=error,
    )


@exact
def _cost(answers: Sequence[Answer[Any]]) -> Decimal | None:
    costs = [answer.cost for answer in answers]
    return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))


def _left(options: Mapping[str, Any], answers: Sequence[Answer[Any]], seconds: float) -> dict[str, Any]:
    """Returns what is left of `max_cost` and `deadline`, which hold for all requests together."""
    left: dict[str, Any] = {}
    if options.get("max_cost") is not None:
        left["max_cost"] = max(Decimal(0), Decimal(str(options["max_cost"])) - (_cost(answers) or Decimal(0)))
    if options.get("deadline") is not None:
        left["deadline"] = max(0.001, options["deadline"] - seconds)
    return left
