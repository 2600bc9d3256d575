"""Finds the JSON values in the text of an answer."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from testronaut_llm.errors import OutputInvalidError
from testronaut_llm.support.reasoning import split
from testronaut_llm.support.text import parse_json

_SCALAR = r"\"(?:[^\"\\\x00-\x1f]|\\.)*+\"|-?\d[\d.eE+-]*+|true|false|null"
_START = re.compile(
    rf"(?:```|~~~)[\w-]*+[ \t]*+\n\s*+(?P<fenced>{_SCALAR})\s*+(?:```|~~~)"
    r"|\{(?=\s*+[\"}])|(?:(?<!\w)\[|\[(?!\s*+[-\d:]*+\s*+\]))(?=\s*+[\[\]{\"tfn\d-])"
)
"""Start of a value: a bracket (not an index as in `argv[0]`), or a whole value in a code fence."""
_LEXEME = re.compile(rf"\s*+(?P<mark>[\[\]{{}},:]|{_SCALAR})")
_TOKEN = re.compile(r"\"(?:[^\"\\\n]|\\.)*+\"?|[\[\]{}]")
_LINE_END = re.compile(r"[ \t.`*]*+(?:\r?\n|\Z)")
_PAIRS = {"[": "]", "{": "}"}
_MANY_SPACES = 500
_MOST_VALUES = 1000


def parse(text: str, *, lenient: bool) -> list[Any]:
    """Returns the JSON values that may be the answer: the whole text, or (if `lenient`) those in it, each once.

    Reasoning before the answer is ignored. Raises OutputInvalidError, with the answer in `text`, if there is none.
    """
    for whole in dict.fromkeys((text, split(text)[1])):
        try:
            return [parse_json(whole.strip().removeprefix("\ufeff"))]
        except ValueError as error:
            problem = error
    values: dict[str, Any] = {}
    for extent in _extents(whole) if lenient else ():
        with suppress(ValueError):
            value = parse_json(extent)
            values[json.dumps(value, sort_keys=True)] = value
        if len(values) > _MOST_VALUES:
            raise OutputInvalidError(
                f"The answer holds more than {_MOST_VALUES:,} JSON values; expected one.", text=text
            )
    if not values:
        raise OutputInvalidError(f"The answer {_reason(whole, problem)}.", text=text)
    return list(values.values())


def _reason(text: str, problem: ValueError) -> str:
    if not text.strip():
        return "is empty; expected JSON"
    if is_runaway_whitespace(text):
        return f"is runaway whitespace: {len(text)} characters, most of them blank, and no whole JSON"
    return f"is not JSON: {problem}. It begins {text.strip()[:60]!r}"


def is_runaway_whitespace(text: str) -> bool:
    """True if the model wrote blanks without end, which constrained decoding can cause."""
    return len(text) >= _MANY_SPACES and 2 * sum(map(len, text.split())) < len(text)


def _extents(text: str) -> Iterator[str]:
    """Yields the JSON texts in a text that are not part of others, in linear time.

    A bracket without JSON after it is prose. Broken JSON is skipped as a whole, so that no part of it is taken for the
    answer. An empty list or object counts only at the end of its line: `- [ ] to do` is prose.
    """
    at = 0
    closings: dict[int, int] | None = None
    while start := _START.search(text, at):
        begin, at = start.span()
        if start["fenced"]:
            yield start["fenced"]
            continue
        end, closed = _end(text, begin)
        if not closed:
            closings = _closings(text) if closings is None else closings
            end = max(end, closings.get(begin, 0))
        elif text[at : end - 1].strip() or _LINE_END.match(text, end):
            yield text[begin:end]
        at = end


def _end(text: str, begin: int) -> tuple[int, bool]:
    """Returns the end of the value that begins at a bracket, and True if it ends with its own bracket.

    Errors of `json` are not used: creating one takes time in proportion to the text before it.
    """
    opened: list[str] = []
    at, complete = begin, False  # complete: a value ends at this place
    while lexeme := _LEXEME.match(text, at):
        mark = lexeme["mark"]
        if mark in "]}":
            if _PAIRS[opened.pop()] != mark:
                return at, False
            if not opened:
                return lexeme.end(), True
        elif mark not in ",:" and complete:
            return at, False
        elif mark in _PAIRS:
            opened.append(mark)
        complete = mark not in "[{,:"
        at = lexeme.end()
    return at, False


def _closings(text: str) -> dict[int, int]:
    """Returns the end of each closed bracket. Brackets in strings do not count."""
    opened: list[int] = []
    found = {}
    for token in _TOKEN.finditer(text):
        if token[0] in _PAIRS:
            opened.append(token.start())
        elif opened and token[0] == _PAIRS[text[opened[-1]]]:
            found[opened.pop()] = token.end()
    return found
