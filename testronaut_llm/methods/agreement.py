"""Compares several answers to one question: as text, as text without its form, and as JSON field by field."""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from testronaut_llm.errors import OutputInvalidError
from testronaut_llm.records import Answer
from testronaut_llm.schema import answer as schema_answer
from testronaut_llm.schema.document import json_path

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
    """Returns the values of an answer by their paths, as text in which 1 differs from true and "1", but not from 1.0.

    None if it holds no JSON, or several values that may be the answer.
    """
    try:
        value, *others = schema_answer.parse(answer.text, lenient=True)
    except OutputInvalidError:
        return None
    if others:  # any of them may be the answer
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
