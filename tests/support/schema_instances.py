"""Random answers that are valid for a schema, with references, recursion and tuples."""

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
_NAMES = _TEXT | st.text("ab-", max_size=4) | st.just("PATH")
_SCALARS = {"string": _NAMES, "integer": st.integers(-3, 9), "number": _NUMBERS, "boolean": st.booleans(),
            "null": st.none()}  # fmt: skip


@st.composite
def answers(draw: st.DrawFn, document: dict[str, Any]) -> Any:
    """Values that a canonical document admits and a closed wire can say: no undeclared property."""
    value = _Drawing(draw, document).value(document, 0)
    assume(Draft202012Validator(document).is_valid(value))
    return value


class _Drawing:
    def __init__(self, draw: st.DrawFn, root: dict[str, Any]) -> None:
        self.draw, self.root = draw, root

    def value(self, schema: Any, depth: int) -> Any:
        assume(depth < 7)
        schema = self._melted(schema, shallow=depth > 2)
        if "enum" in schema or "const" in schema:
            return self.draw(st.sampled_from(schema.get("enum", [schema.get("const")])))
        kind = schema.get("type")
        kind = self.draw(st.sampled_from(kind)) if isinstance(kind, list) else kind
        if kind == "object" or (not kind and schema.keys() & {"properties", "required", "additionalProperties"}):
            return self._object(schema, depth)
        if kind == "array" or (not kind and schema.keys() & {"items", "prefixItems"}):
            return self._array(schema, depth)
        return self.draw(_SCALARS[kind] if kind else ANYTHING)

    def _melted(self, schema: Any, *, shallow: bool) -> dict[str, Any]:
        """Returns a schema without combinators, by one way through them."""
        out: dict[str, Any] = {}
        parts = [schema]
        while parts:
            part = parts.pop()
            if not isinstance(part, dict):
                continue
            parts += [self._target(part["$ref"])] if "$ref" in part else []
            parts += part.get("allOf", [])
            for options in (part[key] for key in ("anyOf", "oneOf") if key in part):
                null = shallow and {"type": "null"} in options
                parts.append({"type": "null"} if null else self.draw(st.sampled_from(options)))
            both = {
                "properties": {**out.get("properties", {}), **part.get("properties", {})},
                "required": [*part.get("required", []), *out.get("required", [])],
            }
            out = {**part, **out, **{key: value for key, value in both.items() if value}}
        return out

    def _target(self, reference: str) -> Any:
        definitions = self.root.get("$defs", {})
        assume(reference.removeprefix("#/$defs/") in definitions)
        return definitions[reference.removeprefix("#/$defs/")]

    def _object(self, schema: dict[str, Any], depth: int) -> Any:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        names = [n for n in properties if n in required or (depth <= 2 and self.draw(st.booleans()))]
        out = {name: self.value(properties[name], depth + 1) for name in names}
        out |= {name: self.draw(ANYTHING) for name in required if name not in properties}
        others = schema.get("additionalProperties", not properties)
        if depth <= 2 and others is not False and not (properties and others is True):
            more = self.draw(st.lists(_NAMES, max_size=2))
            out |= {name: self.value(others, depth + 1) for name in more if name not in properties}
        return out

    def _array(self, schema: dict[str, Any], depth: int) -> Any:
        first, least = schema.get("prefixItems", []), schema.get("minItems", 0)
        length = self.draw(st.integers(least, 0 if depth > 2 and not least else len(first) + 2))
        places = [*first, *[schema.get("items", {})] * 2][:length]
        return [self.value(place, depth + 1) for place in places if place is not False]
