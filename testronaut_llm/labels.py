"""Labels of a classification, and their probabilities by tokens or by votes. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Literal, get_args, get_origin

from typing_extensions import TypeVar

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Message, TokenChoice

L = TypeVar("L", default=str)

MOST_LABELS, LONGEST_LABEL = 26, 60
_RELIABLE = 0.8
"""Share of right votes that is assumed: two of two votes give 0.94, two of three 0.8."""


@dataclass(frozen=True, slots=True)
class Labels(Generic[L]):
    """The labels by their texts, each with a description, which may be empty."""

    values: Mapping[str, L]
    descriptions: Mapping[str, str]

    @property
    def schema(self) -> dict[str, Any]:
        """Returns the JSON Schema of an answer that is one label."""
        return {"type": "string", "enum": list(self.values)}

    def question(self, messages: Sequence[Message]) -> Prompt:
        """Returns the messages with the labels and the instruction to choose one after the last of them."""
        listed = [f"- {text}: {words}" if (words := self.descriptions[text]) else f"- {text}" for text in self.values]
        asked = "\n".join(("Which of these labels fits? Answer with one label and nothing else.", *listed))
        *before, last = [{"role": one.role, "content": one.content} for one in messages]
        if last["role"] != "user":
            return [*before, last, {"role": "user", "content": asked}]
        return [*before, {**last, "content": f"{last['content']}\n\n{asked}"}]


def labels_of(labels: Any) -> Labels[Any]:
    """Returns the labels of texts, a mapping of texts to descriptions, an `Enum` of texts, or a `Literal` of them.

    Raises:
        InvalidRequestError: there are fewer than 2 or more than 26, or one is empty, too long, or a duplicate.
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
        raise InvalidRequestError(f"labels {texts!r:.200} hold a duplicate; expected labels that differ")
    if not 2 <= len(texts) <= MOST_LABELS:
        raise InvalidRequestError(f"{len(texts)} labels; expected 2 to {MOST_LABELS}")
    return Labels(values, {text: descriptions.get(text, "") for text in texts})


def token_probabilities(tokens: Sequence[TokenChoice], labels: Sequence[str]) -> dict[str, float] | None:
    """Returns the probability of each label, by the tokens of an answer; None if the answer names none.

    At each token, the alternatives that some label begins with share the whole probability, since servers report what a
    model would say without the list of labels. A label that begins with the same tokens as the answer gets its share
    at the first token that differs.
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
        given = {**one.others, one.token: one.logprob}
        likely = {token: max(-700.0, min(0.0, value)) for token, value in given.items()}  # below that, `exp` gives 0
        fits = {token: [label for label in labels if wholes[label].startswith(position + token)] for token in likely}
        allowed = {token: math.exp(likely[token]) for token, of in fits.items() if of or token == one.token}
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
    """Returns the probability of each label, given independent votes that are right with probability `_RELIABLE`."""
    right, wrong = math.log(_RELIABLE), math.log((1 - _RELIABLE) / (len(labels) - 1))
    weights = {label: math.exp((right - wrong) * votes.get(label, 0)) for label in labels}
    return {label: weight / sum(weights.values()) for label, weight in weights.items()}
