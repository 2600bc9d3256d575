"""Random answers that are valid for a schema, with references, recursion, tuples and conditions."""

from __future__ import annotations

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=4)
_NUMBERS = st.integers(-9, 9) | st.sampled_from([0.5, 1.5, 2.5, 1e300])
ANYTHING = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT | st.sampled_from(["5", "{}", "[", '"x"']),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXT, inner, max_size=2),
    max_leaves=4,
)
_SCALARS = {"string": _TEXT | st.text("ab-", max_size=4) | st.just("PATH"), "integer": st.integers(-3, 9),
            "number": _NUMBERS, "boolean": st.booleans(), "null": st.none()}  # fmt: skip


def answers(document: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a canonical document admits and a closed wire can say: no undeclared property."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Any:
        value = _draw(draw, document, document, 0)
        assume(Draft202012Validator(document).is_valid(value))
        return value

    return drawn()


def _draw(draw: st.DrawFn, root: dict[str, Any], schema: Any, depth: int) -> Any:
    assume(depth < 7)
    schema = _melted(draw, root, schema, shallow=depth > 2)
    if "enum" in schema or "const" in schema:
        return draw(st.sampled_from(schema.get("enum", [schema.get("const")])))
    kinds = schema.get("type") or _implied(schema)
    if not kinds:
        return draw(ANYTHING)
    kind = kinds if isinstance(kinds, str) else draw(st.sampled_from(kinds))
    if kind == "object":
        return _object(draw, root, schema, depth)
    if kind == "array":
        return _array(draw, root, schema, depth)
    return draw(_SCALARS[kind])


def _implied(schema: dict[str, Any]) -> str | None:
    if schema.keys() & {"properties", "required", "additionalProperties"}:
        return "object"
    return "array" if schema.keys() & {"items", "prefixItems"} else None


def _melted(draw: st.DrawFn, root: dict[str, Any], schema: Any, *, shallow: bool) -> dict[str, Any]:
    """Returns a schema without combinators, by one way through them."""
    out: dict[str, Any] = {}
    parts = [schema]
    while parts:
        part = parts.pop()
        if not isinstance(part, dict):
            continue
        if "$ref" in part:
            parts.append(_target(root, part["$ref"]))
        parts += part.get("allOf", [])
        for options in (part[key] for key in ("anyOf", "oneOf") if key in part):
            leaf = {"type": "null"} if shallow and {"type": "null"} in options else None
            parts.append(leaf or draw(st.sampled_from(options)))
        parts += [draw(st.sampled_from([part["then"], part.get("else")]))] if "then" in part else []
        declared = {**out.get("properties", {}), **part.get("properties", {})}
        required = [*part.get("required", []), *out.get("required", [])]
        out = {
            **part,
            **out,
            **({"properties": declared} if declared else {}),
            **({"required": required} if required else {}),
        }
    return out


def _target(root: dict[str, Any], reference: str) -> Any:
    if not reference.startswith("#/") and reference != "#":
        return next(sub for sub in root["$defs"].values() if sub.get("$anchor") == reference[1:])
    here: Any = root
    for step in reference.split("/")[1:]:
        here = here[step.replace("~1", "/")]
    return here


def _object(draw: st.DrawFn, root: dict[str, Any], schema: dict[str, Any], depth: int) -> Any:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    few = depth > 2
    names = [n for n in properties if n in required or (not few and draw(st.booleans()))]
    out = {name: _draw(draw, root, properties[name], depth + 1) for name in names}
    out |= {name: draw(ANYTHING) for name in required if name not in properties}
    others = next(
        iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties", not properties)
    )
    for _ in range(draw(st.integers(0, 0 if few or others is False or (properties and others is True) else 2))):
        name = draw(_SCALARS["string"])
        if name not in properties:
            out[name] = _draw(draw, root, others, depth + 1)
    return out


def _array(draw: st.DrawFn, root: dict[str, Any], schema: dict[str, Any], depth: int) -> Any:
    first = schema.get("prefixItems", [])
    length = draw(
        st.integers(schema.get("minItems", 0), 0 if depth > 2 and "minItems" not in schema else len(first) + 2)
    )
    places = [*first, *[schema.get("items", {})] * 2][:length]
    return [_draw(draw, root, place, depth + 1) for place in places if place is not False]
