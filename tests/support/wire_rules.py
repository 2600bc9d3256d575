"""The rules of each wire for a schema, from the providers' documents, separate from the code under test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Rules = dict[str, bool]  # each rule, and True if it is kept

_PLACES = {"$ref", "properties", "required", "additionalProperties", "items"}
_SAID_BY_ALL = {"type", "description", "enum", "anyOf"} | _PLACES
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems"}
_RANGES = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_NUMBERS = _RANGES | {"multipleOf"}
_BY_TYPE = {"string": {"pattern", "format"}, "array": {"minItems", "maxItems"}, "number": _NUMBERS, "integer": _NUMBERS}
_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")


def faults(dialect: str, schema: dict[str, Any]) -> list[str]:
    """Each rule of the dialect that the schema breaks, with the place."""
    definitions = schema.get("$defs", {})
    root = {key: value for key, value in schema.items() if key != "$defs"}
    nodes = [*_nodes("", root), *(node for name, sub in definitions.items() for node in _nodes(f"$defs.{name}", sub))]
    rules = [(at, _rules(dialect, node, definitions)) for at, node in nodes] + [("root", _root(dialect, schema))]
    return [f"{at}: {rule}" for at, kept in rules for rule, holds in kept.items() if not holds]


def _nodes(at: str, node: Any) -> Iterator[tuple[str, Any]]:
    yield at, node
    if isinstance(node, dict):
        places = list(node.get("properties", {}).items())
        places += [(f"{key}[{n}]", sub) for key in ("anyOf", "prefixItems") for n, sub in enumerate(node.get(key, []))]
        places += [(key, node[key]) for key in ("items", "additionalProperties") if isinstance(node.get(key), dict)]
        for name, sub in places:
            yield from _nodes(f"{at}.{name}", sub)


def _rules(dialect: str, node: Any, definitions: dict[str, Any]) -> Rules:
    if not isinstance(node, dict):  # `true` and `false` are refused, but for additionalProperties
        return {"a schema is an object": False}
    allowed = {
        "openai": _SAID_BY_ALL | _BY_TYPE.get(node.get("type", ""), set()),
        "anthropic": (_SAID_BY_ALL | {"format"}) - {"$ref"},
        "free": _SAID_BY_ALL | _COUNTS | _RANGES | {"pattern", "format", "prefixItems"},
    }.get(dialect, _SAID_BY_ALL)
    return {
        f"unknown keywords {sorted(node.keys() - allowed)}": node.keys() <= allowed,
        "a $ref stands alone": "$ref" not in node or len(node) == 1,
        "a $ref leads somewhere": node.get("$ref", "#/$defs/").removeprefix("#/$defs/") in {"", *definitions},
        **(_free(node) if dialect == "free" else _closed(dialect, node)),
    }


def _closed(dialect: str, node: dict[str, Any]) -> Rules:
    kind, required, declared = node.get("type", "null"), node.get("required", []), node.get("properties", {})
    return {
        "exactly one of type, anyOf and $ref": len(node.keys() & {"type", "anyOf", "$ref"}) == 1,
        "a type is one of the known ones": kind in _TYPES,
        "an enum is of scalars": not any(isinstance(value, dict | list) for value in node.get("enum", [])),
        "additionalProperties is false": kind != "object" or node.get("additionalProperties") is False,
        "what is required is declared": kind != "object" or set(required) <= declared.keys(),
        "an array has items": kind != "array" or isinstance(node.get("items"), dict),
        "every property is required": dialect == "anthropic" or sorted(required) == sorted(declared),
    }


def _free(node: dict[str, Any]) -> Rules:
    pattern = node.get("pattern", "^$")
    return {
        "a schema says something, or nothing at all": not node or bool(node.keys() & {"type", "anyOf", "$ref", "enum"}),
        "a pattern is anchored": pattern.startswith("^") and pattern.endswith("$"),
        "counts stay small": max(node.get(key, 0) for key in _COUNTS) <= 1000,
    }


def _root(dialect: str, schema: dict[str, Any]) -> Rules:
    plain = all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in schema.get("$defs", {}))
    is_object = schema.get("type") == "object" and "anyOf" not in schema
    return {
        "a definition has a plain name": plain,
        "LiteLLM would drop an empty schema": bool(schema),
        "the root is an object": dialect == "free" or is_object,
        "LiteLLM would unwrap `values`": dialect == "free" or "values" not in schema.get("properties", {}),
    }
