"""The JSON Schema that each wire takes: one row per dialect, and the form of a schema there.

Constraints that a wire does not support are sent as words; a schema that is too large for it, only as words.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from testronaut_llm.errors import ConfigError
from testronaut_llm.schema.document import Json, map_subschemas, subschemas, walk
from testronaut_llm.schema.places import Decode, Place, Places, TooLarge

_WRAP = "result"
_MISREAD = "values"
"""LiteLLM returns a root property of this name as the whole answer of a forced tool call."""
_ONLY_JSON = "Answer with one JSON value and nothing else: no explanation, no code fence. "

_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_ITEMS = frozenset({"minItems", "maxItems"})
_TEXT = frozenset({"pattern", "format"})
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_CHARACTER = r"(?:[\w ,:;@#%&=!~/<>'-]|\\[dw./+-]|\[(?!\^)(?:[\w ,:;@#%&=!~/.+-]|\\[dw./-])++\])"
_PIECE = rf"{_CHARACTER}(?:[*+?]|\{{\d{{1,3}}(?:,\d{{0,3}})?\}})?+"
_GROUP = rf"\((?:{_PIECE})*+(?:\|(?:{_PIECE})*+)*+\)[*+?]?+"
_SIMPLE_PATTERN = re.compile(rf"\^(?:{_PIECE}|{_GROUP})*+\$", re.ASCII)  # possessive, or its time would be exponential


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One wire's rules."""

    constrains: bool = True  # it takes a schema at all
    closed: bool = True  # all objects must be closed; open ones are sent encoded
    all_required: bool = False  # optional properties are required, and null if absent
    references: bool = True  # `$ref` into `$defs` is supported, so a schema may recurse
    in_prompt: bool = False  # the model does not see the schema, so the prompt also holds it
    keeps: Mapping[str, frozenset[str]] = field(default_factory=dict)  # bounds that it takes, by JSON type
    formats: frozenset[str] = _FORMATS  # values of `format` that it takes
    names: re.Pattern[str] = re.compile(r".*", re.DOTALL)  # of properties
    limits: Mapping[str, int] = field(default_factory=dict)  # largest sizes that it takes, by the names of `_sizes`

    def may_keep(self, kind: str, keyword: str, value: Any) -> bool:
        """True if this bound may be sent. Grammars grow with counts, and support only simple patterns."""
        if keyword not in self.keeps.get(kind, ()):
            return False
        if keyword == "format":
            return value in self.formats
        if keyword == "pattern":
            return len(value) <= 200 and _SIMPLE_PATTERN.fullmatch(value) is not None
        return bool(abs(value) < 2**53) if kind in ("integer", "number") else bool(value <= 1000)


_OPENAI_SIZES = {"properties": 5000, "depth": 10, "characters": 120_000, "enum values": 1000, "long enum": 15_000}

DIALECTS: Mapping[str, Dialect] = {
    # OpenAI's documented strict mode: https://platform.openai.com/docs/guides/structured-outputs
    "openai": Dialect(
        all_required=True,
        keeps={
            **dict.fromkeys(("number", "integer"), _NUMBERS | {"multipleOf"}),
            "string": _TEXT,
            "array": _ITEMS,
        },
        limits=_OPENAI_SIZES,
    ),
    # Azure documents smaller sizes, and refuses every bound.
    "azure": Dialect(all_required=True, limits={**_OPENAI_SIZES, "properties": 100, "depth": 5}),
    # Other servers that follow OpenAI's strict mode: the bounds that they take are not documented.
    "strict": Dialect(all_required=True, limits=_OPENAI_SIZES),
    # Anthropic refuses references to oneself, and LiteLLM inlines the others by their last segment: none is sent.
    "anthropic": Dialect(
        references=False,
        keeps={"string": frozenset({"format"})},
        formats=_FORMATS | {"uri"},
        names=re.compile(r"[a-zA-Z0-9_.-]{1,64}"),
        limits={"optional properties": 24, "unions": 16},
    ),
    # Ollama and llama.cpp turn the schema into a grammar and do not show it to the model.
    "free": Dialect(
        closed=False,
        in_prompt=True,
        keeps={"string": _TEXT | {"minLength", "maxLength"}, "integer": _NUMBERS, "array": _ITEMS},
        formats=frozenset({"date", "time", "date-time", "uuid"}),
    ),
    "none": Dialect(constrains=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSchema:
    """The form of one schema for a provider."""

    schema: dict[str, Any] | None  # None if the wire takes none
    name: str
    instructions: str  # for the prompt; empty if the schema is complete
    wrapped: bool  # the value is inside `{"result": ...}`


def planned(document: Json, name: str, dialect_name: str) -> tuple[WireSchema, Decode]:
    """Returns the form of a document on a wire, with its decoder. Raises ConfigError: the dialect is unknown."""
    if dialect_name not in DIALECTS:
        known = ", ".join(DIALECTS)
        raise ConfigError(f"Unknown schema dialect {dialect_name!r}: a provider's `schema_dialect` is {known}.")
    dialect = DIALECTS[dialect_name]
    for unroll in () if not dialect.constrains else (0,) if dialect.references else (1, 0):
        with suppress(TooLarge):
            wire, decode = _constrained(document, name, dialect, unroll)
            sizes = _sizes(wire.schema or {})
            if all(sizes[what] <= limit for what, limit in dialect.limits.items()):
                return wire, decode
    root = Place({})
    with suppress(TooLarge):  # without a schema on the wire nothing is encoded; only a stray null is taken out
        root = Places(document, DIALECTS["free"], unroll=0).place(document, "")
    return WireSchema(schema=None, name=name, instructions=_in_words(document), wrapped=False), root.decode


def _constrained(document: Json, name: str, dialect: Dialect, unroll: int) -> tuple[WireSchema, Decode]:
    places = Places(document, dialect, unroll=unroll)
    root = places.place(document, "")
    while "$ref" in root.schema:
        root = places.table[root.schema["$ref"].rsplit("/", 1)[-1]]
    schema = root.schema
    # LiteLLM drops an empty schema.
    wrapped = not schema if not dialect.closed else schema.get("type") != "object" or _MISREAD in schema["properties"]
    if wrapped:
        schema = {"type": "object", "properties": {_WRAP: schema}, "required": [_WRAP], "additionalProperties": False}
    schema = _with_definitions(schema, places.table)
    if dialect.in_prompt:
        said = [_in_words(document) + (f'\nThe value stands in an object: {{"{_WRAP}": ...}}' if wrapped else "")]
    else:
        rules = [f"- `{place}`: {', '.join(words)}" for place, words in places.rules.items()]
        said = ["\n".join(["The answer also obeys:", *rules])] if rules else []
        if r"\"$ref\"" in json.dumps([schema, places.rules]):  # as words, so the model needs the caller's schema
            said.append("The schema that `$ref` points into:\n" + _words(document))

    def decode(value: Any) -> Any:
        if wrapped and isinstance(value, dict) and value.keys() == {_WRAP}:
            value = value[_WRAP]
        return root.decode(value)

    return WireSchema(schema=schema, name=name, instructions="\n\n".join(said), wrapped=wrapped), decode


def _with_definitions(schema: Json, table: Mapping[str, Place]) -> Json:
    definitions: Json = {}
    unread = [schema]
    while unread:
        for _, node in walk(unread.pop()):
            name = node.get("$ref", "").rsplit("/", 1)[-1]
            if name and name not in definitions:
                definitions[name] = table[name].schema
                unread.append(definitions[name])
    return {**schema, "$defs": definitions} if definitions else schema


def _sizes(schema: Json) -> dict[str, int]:
    nodes = [node for _, node in walk(schema)]
    definitions = schema.get("$defs", {})
    properties = [name for node in nodes for name in node.get("properties", ())]
    enums = [list(map(str, node.get("enum", ()))) for node in nodes]
    values, objects = [value for one in enums for value in one], [node for node in nodes if "properties" in node]
    return {
        "properties": len(properties),
        "enum values": len(values),
        "long enum": max([len("".join(one)) for one in enums if len(one) > 250], default=0),  # characters
        "characters": sum(map(len, [*properties, *values, *definitions])),
        "optional properties": sum(len(node["properties"]) - len(node.get("required", ())) for node in objects),
        "unions": sum("anyOf" in node for node in nodes),
        "depth": max(map(_depth, [{**schema, "$defs": {}}, *definitions.values()])),
    }


def _depth(node: Any) -> int:
    """Returns the levels of objects with properties in a wire's schema."""
    if not isinstance(node, dict):
        return 0
    return bool(node.get("properties")) + max((_depth(sub) for _, sub in subschemas(node)), default=0)


def _in_words(document: Json) -> str:
    return f"{_ONLY_JSON}It obeys this JSON Schema:\n{_words(document)}"


def _words(schema: Json) -> str:
    """Returns a schema as short JSON, without the titles that pydantic makes of names."""

    def untitled(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return map_subschemas({key: value for key, value in node.items() if key != "title"}, untitled)

    return json.dumps(untitled(schema), ensure_ascii=False, separators=(",", ":"))
