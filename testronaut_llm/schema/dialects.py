"""What each wire can say of a JSON Schema, one row a dialect, and what it is known to refuse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testronaut_llm.errors import ConfigError
from testronaut_llm.schema.document import Path, walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One wire's rules.

    Attributes:
        constrains: the wire takes a schema at all.
        closed: the root and every object are closed objects; what is open travels encoded.
        all_required: an optional property is required, and null where it is left off.
        references: `$ref` into `$defs`, so that a schema may recurse.
        in_prompt: the model sees the schema in the prompt only, since the wire hides it from the model.
        keeps: keywords that bound a value and may stay.
        names: what a property may be called.
        limits: the sizes that are known, by the names of `_sizes`.
    """

    constrains: bool = True
    closed: bool = True
    all_required: bool = False
    references: bool = True
    in_prompt: bool = False
    keeps: frozenset[str] = frozenset()
    names: re.Pattern[str] = re.compile(r".*", re.DOTALL)
    limits: Mapping[str, int] = field(default_factory=dict)


_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})

DIALECTS: Mapping[str, Dialect] = {
    # OpenAI's documented limits; Azure refuses every bound, so none is sent.
    "strict": Dialect(
        all_required=True,
        limits={"properties": 5000, "depth": 10, "characters": 120_000, "enum values": 1000},
    ),
    # Anthropic refuses references to oneself, and LiteLLM inlines the others by their last segment: none is sent.
    "anthropic": Dialect(
        references=False,
        keeps=frozenset({"format"}),
        names=re.compile(r"[a-zA-Z0-9_.-]{1,64}"),
        limits={"optional properties": 24, "unions": 16},
    ),
    # Ollama and llama.cpp turn the schema into a grammar and do not show it to the model.
    "free": Dialect(closed=False, in_prompt=True, keeps=_COUNTS | _NUMBERS | {"pattern", "format"}),
    "none": Dialect(constrains=False, closed=False, in_prompt=True),
}


def dialect_named(name: str) -> Dialect:
    """The row of that name. Raises ConfigError: there is none."""
    if name not in DIALECTS:
        raise ConfigError(f"Unknown schema dialect {name!r}: a provider's `schema_dialect` is {', '.join(DIALECTS)}.")
    return DIALECTS[name]


_CHARACTER = r"(?:[\w ,:;@#%&=!~/<>'-]|\\[dw./+-]|\[(?!\^)(?:[\w ,:;@#%&=!~/.+-]|\\[dw./-])+\])"
_PIECES = rf"(?:{_CHARACTER}(?:[*+?]|\{{\d{{1,3}}(?:,\d{{0,3}})?\}})?)*"
_SIMPLE_PATTERN = re.compile(rf"\^(?:{_PIECES}|\({_PIECES}(?:\|{_PIECES})*\)[*+?]?)*\$", re.ASCII)
_FORMATS = {
    "free": frozenset({"date", "time", "date-time", "uuid"}),
    "closed": frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}),
}


def may_keep(dialect: Dialect, types: list[str], keyword: str, value: Any) -> bool:
    """May this bound travel? A grammar explodes on large counts, and misreads all but simple patterns."""
    if keyword not in dialect.keeps:
        return False
    if keyword == "format":
        return value in _FORMATS["closed" if dialect.closed else "free"]
    if keyword == "pattern":
        return len(value) <= 200 and _SIMPLE_PATTERN.fullmatch(value) is not None
    if keyword in _COUNTS:
        return bool(value <= 1000)
    return types == ["integer"] and isinstance(value, int) and abs(value) < 2**53


def exceeds(dialect: Dialect, schema: Mapping[str, Any]) -> bool:
    """Is the wire known to refuse a schema of this size?"""
    sizes = _sizes(schema)
    return any(sizes[what] > limit for what, limit in dialect.limits.items())


def _sizes(schema: Mapping[str, Any]) -> dict[str, int]:
    nodes = [node for _, node in walk(schema)]
    properties = [name for node in nodes for name in node.get("properties", ())]
    values = [str(value) for node in nodes for value in node.get("enum", ())]
    objects = [node for node in nodes if "properties" in node]
    return {
        "properties": len(properties),
        "enum values": len(values),
        "characters": sum(map(len, [*properties, *values, *schema.get("$defs", ())])),
        "optional properties": sum(len(node["properties"]) - len(node.get("required", ())) for node in objects),
        "unions": sum("anyOf" in node for node in nodes),
        "depth": max((_depth(path) for path, _ in walk(schema)), default=0),
    }


def _depth(path: Path) -> int:
    """Levels of objects above the place; those above a definition do not count."""
    steps, levels = list(path[2:] if path[:1] == ("$defs",) else path), 0
    while steps:
        if steps.pop(0) == "properties":
            steps.pop(0)
            levels += 1
    return levels
