"""Melts the combinators of a schema (`allOf`, `if`, keywords beside a `$ref`) into one flat description.

No wire knows them all. What comes out is a superset of what the caller's schema admits: a wire may let a
wrong answer through, since the caller's schema judges it in the end, but must never forbid a right one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from testronaut_llm.schema.document import resolve

Flat = dict[str, Any]
"""Keywords of one place: `type` and `enum` are lists; `anyOf` and `$ref` stand with notes only."""

NOTES = ("description", "examples")
_UNSAID = frozenset(
    {
        *("title", "default", "deprecated", "readOnly", "writeOnly", "$comment", "discriminator"),
        *("$defs", "definitions", "components", "$anchor", "$vocabulary"),
    }
)
_STRUCTURE = frozenset(
    {
        *("type", "enum", "const", "properties", "patternProperties", "additionalProperties", "items"),
        *("prefixItems", "$ref", "allOf", "anyOf", "oneOf"),
    }
)


def flatten(document: Mapping[str, Any], node: Any) -> Flat:
    """One place of the schema without combinators: a lone `$ref`, an `anyOf` of places, or plain keywords."""
    if not isinstance(node, dict):
        return {}
    body = {key: value for key, value in node.items() if key not in _UNSAID and key not in NOTES}
    notes = {key: node[key] for key in NOTES if key in node}
    if body.keys() == {"$ref"}:
        return {**body, **notes}
    if len(body) == 1 and (alone := body.get("allOf") or body.get("anyOf") or body.get("oneOf")) and len(alone) == 1:
        return {**flatten(document, alone[0]), **notes}
    flat = _own(body)
    for part in [*([{"$ref": body["$ref"]}] if "$ref" in body else []), *body.get("allOf", ())]:
        flat = _both(flat, _solid(document, part))
    for group in ("anyOf", "oneOf"):
        if group in body:
            flat = _both(flat, {"anyOf": body[group]})
    conditional = [body.get("then"), body.get("else"), *body.get("dependentSchemas", {}).values()]
    _widen(flat, [_solid(document, branch).get("properties", {}) for branch in conditional])
    return {**_spread(flat), **notes}


def _solid(document: Mapping[str, Any], node: Any) -> Flat:
    """The place itself, where `flatten` would leave a reference to it."""
    flat = flatten(document, node)
    while "$ref" in flat:
        target = resolve(document, flat.pop("$ref"))
        flat = {**flatten(document, target), **flat}
    return flat


def _own(body: Mapping[str, Any]) -> Flat:
    flat = {key: value for key, value in body.items() if key not in ("$ref", "allOf", "anyOf", "oneOf")}
    if isinstance(flat.get("type"), str):
        flat["type"] = [flat["type"]]
    if "const" in flat:
        flat = _both(flat, {"enum": [flat.pop("const")]})
    return flat


def _both(a: Flat, b: Flat) -> Flat:
    """What obeys both. Of two bounds of one kind the first stays: a superset is enough."""
    return {
        **b,
        **{key: _MERGED[key](value, b[key]) if key in b and key in _MERGED else value for key, value in a.items()},
    }


def _both_named(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    return {**b, **{name: {"allOf": [sub, b[name]]} if name in b else sub for name, sub in a.items()}}


def _both_types(a: list[str], b: list[str]) -> list[str]:
    def allow(types: list[str], kind: str) -> bool:
        return kind in types or (kind == "integer" and "number" in types)

    return [kind for kind in dict.fromkeys([*a, *b]) if allow(a, kind) and allow(b, kind)]


_MERGED: Mapping[str, Callable[[Any, Any], Any]] = {
    "type": _both_types,
    "enum": lambda a, b: [value for value in a if any(same(value, other) for other in b)],
    "required": lambda a, b: list(dict.fromkeys([*a, *b])),
    "properties": _both_named,
    "patternProperties": _both_named,
    "additionalProperties": lambda a, b: False if b is False else a,
    "items": lambda a, b: {"allOf": [a, b]},
    "anyOf": lambda a, b: [{"allOf": [option, {"anyOf": b}]} for option in a],
}


def same(a: Any, b: Any) -> bool:
    """Equality of JSON values: `true` is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)


def _widen(flat: Flat, conditional: list[Mapping[str, Any]]) -> None:
    """A property that only a condition declares must still be sayable."""
    declared = flat.get("properties", {})
    added: dict[str, list[Any]] = {}
    for name, sub in (item for properties in conditional for item in properties.items()):
        if name not in declared:
            added.setdefault(name, []).append(sub)
    if added:
        flat["properties"] = {**declared, **{name: {"anyOf": subs} for name, subs in added.items()}}


def _spread(flat: Flat) -> Flat:
    """Keywords beside an `anyOf` move into each of its options; options that only forbid stay words."""
    core = {key: value for key, value in flat.items() if key not in NOTES and key != "anyOf"}
    if "anyOf" not in flat or not core:
        return flat
    notes = {key: flat[key] for key in NOTES if key in flat}
    options = flat["anyOf"]
    if not any(isinstance(option, dict) and _STRUCTURE & option.keys() for option in options):
        return {**core, **notes, "oneOfThese": options}
    return {"anyOf": [{"allOf": [core, option]} for option in options], **notes}
