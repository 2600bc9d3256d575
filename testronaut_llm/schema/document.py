"""One JSON Schema document in one form: where its schemas are, what its references mean.

Draft 7 and OpenAPI forms (tuples in `items`, `dependencies`, `nullable`, ...) are rewritten to draft 2020-12,
so that the rest of the package knows one form. `$id` is taken off: every `$ref` points into the document itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any
from urllib.parse import unquote

Path = tuple[str | int, ...]

_ONE = (
    *("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SAME_PLACE = frozenset({"$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose schemas judge the same value as the schema that holds them."""
_NOTES = frozenset({"title", "description", "examples", "default", "$defs", "definitions", "components"})


def subschemas(node: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Each schema directly below `node`, with the keys that lead to it."""
    for key, value in node.items():
        if key in _ONE:
            yield (key,), value
        elif key in _MANY and isinstance(value, list):
            yield from (((key, i), sub) for i, sub in enumerate(value))
        elif key in _NAMED and isinstance(value, dict):
            yield from (((key, name), sub) for name, sub in value.items())


def map_subschemas(node: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """`node` with each schema directly below it changed."""
    out: dict[Any, Any] = {key: copy(value) for key, value in node.items()}
    for steps, sub in subschemas(node):
        holder = out if len(steps) == 1 else out[steps[0]]
        holder[steps[-1]] = change(sub)
    return out


def components(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """OpenAPI's named schemas."""
    outer = document.get("components")
    inner = outer.get("schemas") if isinstance(outer, dict) else None
    return inner if isinstance(inner, dict) else {}


def roots(document: Mapping[str, Any]) -> list[tuple[Path, Any]]:
    """The document and OpenAPI's named schemas: what stands below no other schema."""
    named = [(("components", "schemas", name), sub) for name, sub in components(document).items()]
    return [((), document), *named]


def walk(document: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each schema object of the document with its path."""
    stack = roots(document)
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict):
            yield path, node
            stack += [((*path, *steps), sub) for steps, sub in subschemas(node)]


def resolve(document: Mapping[str, Any], reference: str) -> Any:
    """What a `$ref` into the document points at. Raises LookupError: nothing is there."""
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        for _, node in walk(document):
            if node.get("$anchor") == fragment:
                return node
        raise LookupError(reference)
    here: Any = document
    for step in fragment.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(here, list) and key.isdecimal():
            here = here[int(key)]
        elif isinstance(here, dict):
            here = here[key]
        else:
            raise LookupError(reference)
    return here


def modern(document: dict[str, Any]) -> dict[str, Any]:
    """The document in the forms of draft 2020-12."""
    declared = document.get("$schema")
    # Up to draft 7, whatever stands beside a `$ref` does not count.
    lonely_refs = isinstance(declared, str) and re.search(r"draft-0[3-7]", declared) is not None
    named = {name: _rewritten(sub, lonely_refs) for name, sub in components(document).items()}
    out: dict[str, Any] = _rewritten(document, lonely_refs)
    return {**out, "components": {"schemas": named}} if named else out


def _rewritten(node: Any, lonely_refs: bool) -> Any:
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if lonely_refs and "$ref" in node:
        node = {key: value for key, value in node.items() if key in _NOTES or key in ("$ref", "nullable")}
    node.pop("$schema", None)
    identity = node.pop("$id", None)
    if isinstance(identity, str) and re.fullmatch(r"#[A-Za-z_][\w.-]*", identity):
        node["$anchor"] = identity[1:]
    _modernise(node)
    return _without_nullable(map_subschemas(node, lambda sub: _rewritten(sub, lonely_refs)))


def _modernise(node: dict[str, Any]) -> None:
    rest = node.pop("additionalItems", None)
    if isinstance(node.get("items"), list):
        node["prefixItems"] = node.pop("items")
        if rest is not None:
            node["items"] = rest
    for exclusive, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(node.get(exclusive), bool) and node.pop(exclusive) and plain in node:
            node[exclusive] = node.pop(plain)
    dependencies = node.pop("dependencies", None)
    if isinstance(dependencies, dict):
        for name, needs in dependencies.items():
            kind = "dependentRequired" if isinstance(needs, list) else "dependentSchemas"
            node[kind] = {**node.get(kind, {}), name: needs}


def _without_nullable(node: dict[str, Any]) -> dict[str, Any]:
    if node.pop("nullable", None) is not True:
        return node
    notes = {key: node.pop(key) for key in sorted(_NOTES & node.keys())}
    if not node:
        return notes
    if "type" not in node or SAME_PLACE & node.keys():
        return {"anyOf": [node, {"type": "null"}], **notes}
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    node["type"] = [*types, *(["null"] if "null" not in types else [])]
    values = [node.pop("const")] if "const" in node else node.get("enum")
    if isinstance(values, list):
        node["enum"] = [*values, *([None] if None not in values else [])]
    return {**node, **notes}
