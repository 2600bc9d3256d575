"""One node of a schema: what a wire can say of it, and the way back of a value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from testronaut_llm.schema.document import COMBINATORS, Json
from testronaut_llm.support.text import parse_json

NOTES = ("description", "examples")
OBJECT = ("properties", "required", "additionalProperties", "patternProperties")
_STRUCTURE = frozenset({"type", "enum", "const", "items", "prefixItems", *OBJECT})
BOUNDS = frozenset(
    {
        *("minLength", "maxLength", "pattern", "format", "multipleOf"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
        *("minProperties", "maxProperties", "propertyNames", "patternProperties"),
        *("dependentRequired", "unevaluatedProperties"),
    }
)
KEYWORDS = _STRUCTURE | BOUNDS | COMBINATORS
"""What a schema can say about a value."""


@dataclass(frozen=True, slots=True)
class Place:
    """One node of a schema on the wire.

    Attributes:
        schema: what the wire is sent.
        decode: turns a value of the wire into the caller's form. A value that already has that form is unchanged.
        encodes: True if every value looks different on the wire.
    """

    schema: Json
    decode: Callable[[Any], Any] = lambda value: value
    encodes: bool = False


def core_of(node: Any) -> tuple[Json, Json]:
    """Returns what a wire can say of a node, and its description and examples.

    The first is a lone `$ref`, a lone `anyOf` or plain keywords. It is empty for combinators beside other keywords.
    """
    if not isinstance(node, dict):
        return {}, {}
    notes = {key: node[key] for key in NOTES if key in node}
    core = {key: value for key, value in node.items() if key in KEYWORDS}
    if COMBINATORS & core.keys():
        (key, value), *others = core.items()
        if others or key not in ("$ref", "allOf", "anyOf", "oneOf") or (key == "allOf" and len(value) > 1):
            return {}, notes
        if key == "$ref" or len(value) > 1:
            return {"$ref" if key == "$ref" else "anyOf": value}, notes
        core, inner = core_of(value[0])
        return core, {**inner, **notes}
    if not _STRUCTURE & core.keys():
        return {}, notes
    if isinstance(core.get("type"), str):
        core["type"] = [core["type"]]
    if "const" in core:
        core["enum"] = [core.pop("const")]
    return core, notes


def described(place: Place, notes: Json) -> Place:
    """Returns the place with the caller's description and examples; a reference stands alone inside a union."""
    examples = f"Examples: {words_of(notes['examples'])}" if notes.get("examples") else ""
    text = f"{notes.get('description', '')} {examples}".strip()
    if not text or not place.schema:
        return place
    own = place.schema.get("description", "") if place.encodes else ""
    schema = {"anyOf": [place.schema]} if "$ref" in place.schema else place.schema
    return replace(place, schema={**schema, "description": f"{text} {own}".strip()})


def either(schemas: list[Json]) -> Json:
    """Returns a schema that admits what any of them does; nested unions melt, and equals are said once."""
    flat: dict[str, Json] = {}
    for schema in schemas:
        for option in schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]:
            flat.setdefault(words_of(option), option)
    options = list(flat.values())
    return options[0] if len(options) == 1 else {"anyOf": options}


def kind_of(value: Any) -> str:
    """Returns the JSON type of a value; a whole number is an integer."""
    for kind, types in (("boolean", bool), ("null", type(None)), ("string", str), ("array", list), ("object", dict)):
        if isinstance(value, types):
            return kind
    return "integer" if isinstance(value, int) or value.is_integer() else "number"


def from_text(value: Any) -> Any:
    """Returns the value of a JSON text; anything else is unchanged."""
    try:
        return parse_json(value) if isinstance(value, str) else value
    except ValueError:
        return value


def without_nulls(value: Any) -> Any:
    """Returns a value without the nulls by which a model leaves properties out."""
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return value


def words_of(value: Any) -> str:
    """Returns a value as short JSON, the same for equal values."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
