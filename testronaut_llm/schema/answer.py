"""Reads the text of an answer as JSON, and names what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from testronaut_llm.errors import OutputInvalidError
from testronaut_llm.support import strict_json

_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)
_MANY_SPACES = 500
_MOST_FAULTS = 10


def parse(text: str, *, lenient: bool) -> Any:
    """The JSON value of an answer. With `lenient`, one value inside prose or a code fence will do.

    Raises:
        OutputInvalidError: there is none; `text` holds the answer.
    """
    try:
        return strict_json.loads(text.strip().removeprefix("\ufeff"))
    except ValueError as error:
        for candidate in _inside(text) if lenient else ():
            try:
                return strict_json.loads(candidate)
            except ValueError:
                continue
        raise OutputInvalidError(_what_is_wrong(text, error), text=text) from None


def is_runaway_whitespace(text: str) -> bool:
    """Did constrained decoding fall into writing blanks without end?"""
    return len(text) >= _MANY_SPACES and 2 * sum(map(len, text.split())) < len(text)


def _what_is_wrong(text: str, error: ValueError) -> str:
    if not text.strip():
        return "The answer is empty, where JSON was expected."
    if is_runaway_whitespace(text):
        return f"The answer is runaway whitespace: {len(text)} characters, most of them blank, and no whole JSON."
    if _FENCE.search(text):
        return "The answer stands in a code fence, where JSON alone was expected."
    return f"The answer is not JSON: {error}. It begins {text.strip()[:60]!r}."


def _inside(text: str) -> Iterable[str]:
    yield from (match.group(1) for match in _FENCE.finditer(text))
    for start in sorted(position for position in (text.find("{"), text.find("[")) if position >= 0):
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        yield text[start:end]


def check(document: Mapping[str, Any], value: Any) -> list[str]:
    """The faults of `value` by a canonical schema, the first ones, in order; `format` is not asserted."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    first = islice(Draft202012Validator(document).iter_errors(value), _MOST_FAULTS)
    deepest = [best_match([error]) or error for error in first]
    return sorted(line(error.json_path, error.message) for error in deepest)


def line(path: str, message: str) -> str:
    """One fault, short enough to be read."""
    return f"{path}: {message if len(message) <= 200 else message[:200] + '...'}"
