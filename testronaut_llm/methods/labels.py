"""Labels of a classification, and their probabilities by tokens or by votes. No I/O."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Literal, TypeAlias, get_args, get_origin

from typing_extensions import TypeVar

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Message, TokenChoice
from testronaut_llm.support.text import counted

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
            raise InvalidRequestError(f"label {text!r:.80}; expected a text of 1 to {LONGEST_LABEL} characters")
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
