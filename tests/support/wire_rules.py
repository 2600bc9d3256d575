"""The rules of each wire for a schema, from the providers' documents, separate from the code under test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SAID_BY_ALL = {
    *("type", "description", "enum", "anyOf", "$ref"),
    *("properties", "required", "additionalProperties", "items"),
}
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_GRAMMAR_BOUNDS = {*_COUNTS, "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "format"}
_OPENAI_NUMBERS = {"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_OPENAI_BOUNDS = {
    "string": {"pattern", "format"},
    "number": _OPENAI_NUMBERS,
    "integer": _OPENAI_NUMBERS,
    "array": {"minItems", "maxItems"},
}
SCALARS = ("string", "integer", "number", "boolean", "null")


def faults(dialect: str, schema: dict[str, Any]) -> list[str]:
    """Each rule of the dialect that the schema breaks, with the place."""
    definitions = schema.get("$defs", {})
    root = {key: value for key, value in schema.items() if key != "$defs"}
    places = [("", root), *((f"$defs.{name}", sub) for name, sub in definitions.items())]
    nodes = [one for start, top in places for one in _nodes(start, top)]
    found = [f"{at}: {rule}" for at, node in nodes for rule in (*_RULES[dialect](node), *_links(node, definitions))]
    return found + [f"root: {rule}" for rule in (_some_root if dialect == "free" else _object_root)(schema)]


def _nodes(at: str, node: Any) -> Iterator[tuple[str, Any]]:
    yield at, node
    if not isinstance(node, dict):
        return
    for name, sub in node.get("properties", {}).items():
        yield from _nodes(f"{at}.{name}", sub)
    for key in ("anyOf", "prefixItems"):
        for i, sub in enumerate(node.get(key, [])):
            yield from _nodes(f"{at}.{key}[{i}]", sub)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from _nodes(f"{at}.{key}", node[key])


def _links(node: Any, definitions: dict[str, Any]) -> Iterator[str]:
    if isinstance(node, dict) and "$ref" in node:
        if node.keys() != {"$ref"}:
            yield "a $ref stands alone"
        if node["$ref"] not in {f"#/$defs/{name}" for name in definitions}:
            yield "a $ref leads somewhere"
    if any(not name.isascii() or not name.replace("_", "a").replace("-", "a").isalnum() for name in definitions):
        yield "a definition has a plain name"


def _closed(node: Any, allowed: set[str]) -> Iterator[str]:
    if not isinstance(node, dict):
        yield "a schema is an object"
        return
    if left := node.keys() - allowed:
        yield f"unknown keywords {sorted(left)}"
    if sum(key in node for key in ("type", "anyOf", "$ref")) != 1:
        yield "exactly one of type, anyOf and $ref"
    if node.get("type", "null") not in (*SCALARS, "array", "object"):
        yield "a type is one of the known ones"
    if any(isinstance(value, dict | list) for value in node.get("enum", [])):
        yield "an enum is of scalars"
    yield from _closed_containers(node)


def _closed_containers(node: dict[str, Any]) -> Iterator[str]:
    if node.get("type") == "object" and node.get("additionalProperties") is not False:
        yield "additionalProperties is false"
    if node.get("type") == "object" and not set(node.get("required", ())) <= node.get("properties", {}).keys():
        yield "what is required is declared"
    if node.get("type") == "array" and not isinstance(node.get("items"), dict):
        yield "an array has items"


def _strict(node: Any) -> Iterator[str]:
    yield from _closed(node, _SAID_BY_ALL)
    if isinstance(node, dict) and sorted(node.get("required", ())) != sorted(node.get("properties", ())):
        yield "every property is required"


def _anthropic(node: Any) -> Iterator[str]:
    yield from _closed(node, (_SAID_BY_ALL | {"format"}) - {"$ref"})


def _free(node: Any) -> Iterator[str]:
    if not isinstance(node, dict):
        yield "a schema is an object"  # `true` and `false` are refused, but for additionalProperties
        return
    if left := node.keys() - _SAID_BY_ALL - _GRAMMAR_BOUNDS - {"prefixItems"}:
        yield f"unknown keywords {sorted(left)}"
    if node and not node.keys() & {"type", "anyOf", "$ref", "enum"}:
        yield "a schema says something, or nothing at all"
    pattern = node.get("pattern", "^$")
    if not (pattern.startswith("^") and pattern.endswith("$")):
        yield "a pattern is anchored"
    if max(node.get(key, 0) for key in _COUNTS) > 1000:
        yield "counts stay small"


def _object_root(schema: dict[str, Any]) -> Iterator[str]:
    if schema.get("type") != "object" or "anyOf" in schema:
        yield "the root is an object"
    if "values" in schema.get("properties", {}):
        yield "LiteLLM would unwrap `values`"


def _some_root(schema: dict[str, Any]) -> Iterator[str]:
    if not schema:
        yield "LiteLLM would drop an empty schema"


def _openai(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        bounds = _OPENAI_BOUNDS.get(node.get("type", ""), set())
        node = {key: value for key, value in node.items() if key not in bounds}
    yield from _strict(node)


_RULES = {"openai": _openai, "azure": _strict, "strict": _strict, "anthropic": _anthropic, "free": _free}
