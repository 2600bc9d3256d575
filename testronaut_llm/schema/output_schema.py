"""A caller's schema: its form on each wire, and answers converted back.

The same pydantic class or JSON Schema gives the same type of value on every wire. The answer is always checked
against the caller's own schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, get_args

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from testronaut_llm.errors import InvalidRequestError, OutputInvalidError
from testronaut_llm.providers.provider import SchemaDialect
from testronaut_llm.schema.document import canonical, json_path, plain, validator_of, with_references
from testronaut_llm.schema.places import Decode
from testronaut_llm.schema.wire import WireSchema, planned
from testronaut_llm.support.text import parse_json, split

__all__ = ["OutputSchema", "SchemaDialect", "WireSchema"]

_MODULE = re.compile(r"\b\w+\.")
_MOST_PROBLEMS = 10


class _QuietJsonSchema(GenerateJsonSchema):
    """Ignores defaults that are not JSON, since models never see defaults."""

    ignored_warning_kinds = set(get_args(JsonSchemaWarningKind))  # noqa: RUF012 - as pydantic declares it


@dataclass(frozen=True, eq=False)
class OutputSchema:
    """The schema of an answer."""

    json_schema: dict[str, Any]  # the caller's as one draft 2020-12 document; part of cache keys
    name: str  # 1 to 64 letters, digits, `_` and `-`
    _adapter: TypeAdapter[Any] | None = None
    _plans: dict[str, tuple[WireSchema, Decode]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, schema: Any) -> OutputSchema:
        """Returns the schema of a pydantic class, another type (`list[Model]`, a TypedDict, ...), or a JSON Schema.

        Raises InvalidRequestError if it cannot be used, with the path of the problem.
        """
        if isinstance(schema, Mapping):
            return _of_document(json.dumps(plain(schema)))
        try:
            return _of_type(schema, repr(schema))
        except TypeError:  # it cannot be hashed
            return _of_type.__wrapped__(schema, repr(schema))

    def wire(self, dialect: SchemaDialect) -> WireSchema:
        """Returns the form of this schema on a wire of that dialect."""
        return self._plan(dialect)[0]

    def read(self, text: str, dialect: SchemaDialect) -> Any:
        """Returns the value of an answer: an instance of the pydantic type, or plain JSON.

        Prose and code fences around the JSON are accepted only if no schema was sent. Then the text may hold other
        JSON, such as quoted output: the answer is the one value that matches the schema.
        Raises OutputInvalidError, with the answer in `text`, if no value matches, or several that differ.
        """
        if (label := self._label(text)) is not None:
            return self._checked(label, text)
        wire, decode = self._plan(dialect)
        obeys: dict[str, Any] = {}
        refused: OutputInvalidError | None = None
        for value in parse(text, lenient=wire.schema is None):
            try:
                decoded = decode(value)
                obeys[json.dumps(decoded, sort_keys=True)] = self._checked(decoded, text)
            except (RecursionError, OverflowError):
                refused = OutputInvalidError("The answer is nested too deeply, or holds too large a number.", text=text)
            except OutputInvalidError as error:
                refused = error
        if refused is not None and not obeys:
            raise refused
        if len(obeys) > 1:
            found = f"{len(obeys)} different JSON values that match the schema `{self.name}`"
            raise OutputInvalidError(f"The answer holds {found}; expected one.", text=text)
        return obeys.popitem()[1]

    def repair_request(self, error: OutputInvalidError) -> str:
        """Returns the text of the user's turn that asks the model to fix its last answer."""
        return (
            f"Your last answer was refused. {error} Answer once more, whole, in the form that was asked for: "
            "the JSON value alone, with no explanation and no code fence."
        )

    def _label(self, text: str) -> str | None:
        """Returns the text of an `enum` that an answer is, apart from case, quotes, Markdown and a full stop."""
        values, said, bare = self.json_schema.get("enum", ()), text.strip(), _bare(text)
        if said in map(json.dumps, values):  # it is JSON of one of them, such as 1 beside "1"
            return None
        labels = [one for one in values if isinstance(one, str)]
        named = [one for one in labels if one == said] or [one for one in labels if _bare(one) == bare != ""]
        return named[0] if len(named) == 1 else None

    def _plan(self, dialect: SchemaDialect) -> tuple[WireSchema, Decode]:
        if dialect not in self._plans:
            self._plans[dialect] = planned(self.json_schema, self.name, dialect)
        return self._plans[dialect]

    @cached_property
    def _validator(self) -> Any:
        return validator_of(self.json_schema)

    def _checked(self, value: Any, text: str) -> Any:
        """Returns the value as the caller's type. Raises OutputInvalidError: the first errors. `format` is ignored."""
        if self._adapter is None:
            from jsonschema.exceptions import best_match

            deepest = [best_match([one]) or one for one in islice(self._validator.iter_errors(value), _MOST_PROBLEMS)]
            if not deepest:
                return value
            problems = [(error.json_path, error.message) for error in deepest]
        else:
            try:
                return self._adapter.validate_json(json.dumps(value))
            except ValidationError as error:
                found = error.errors(include_url=False, include_context=False, include_input=False)[:_MOST_PROBLEMS]
                problems = [(json_path(one["loc"]), one["msg"]) for one in found]
        words = [f"{path}: {words if len(words) <= 200 else words[:200] + '...'}" for path, words in sorted(problems)]
        raise OutputInvalidError(f"The answer does not match the schema `{self.name}`: {'; '.join(words)}.", text=text)


def _bare(text: str) -> str:
    return text.strip(" \n*_`'\".").casefold()


def _name(wanted: object) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", str(wanted or "")).strip("_")[:64] or "answer"


# Checking a schema takes longer than reading a cached answer, so results are kept: the same schemas come again.
@lru_cache(maxsize=128)
def _of_document(text: str) -> OutputSchema:
    document = canonical(json.loads(text))
    return OutputSchema(document, _name(document.get("title")))


@lru_cache(maxsize=128)
def _of_type(schema: Any, spelled: str) -> OutputSchema:
    """Returns the schema of a type. `spelled` separates `int | str` from `str | int`, which are equal."""
    try:
        if isinstance(schema, str | bytes | int | float | list | tuple | set | None):
            raise TypeError(f"{type(schema).__name__} is neither")
        adapter: TypeAdapter[Any] = TypeAdapter(schema)
        document = adapter.json_schema(schema_generator=_QuietJsonSchema)
    except (PydanticUserError, PydanticSchemaGenerationError, NameError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidRequestError(
            f"The output schema {spelled:.200} cannot be used: {reason.rstrip('.')}. Expected: a pydantic class, "
            "a type that pydantic can turn into a JSON Schema, or a JSON Schema as a dict."
        ) from None
    name = schema.__name__ if isinstance(schema, type) else _MODULE.sub("", spelled)
    return OutputSchema(with_references(document), _name(name), adapter)


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
