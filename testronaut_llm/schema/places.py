"""Converts a schema, node by node, to the form of one wire, and values back to the caller's form.

Constraints that a wire cannot express are sent as words. A wire may allow a wrong answer, since the caller's schema is
checked at the end, but must never forbid a right one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cached_property
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from testronaut_llm.schema.document import BOUNDS, KEYWORDS, TYPES, Json, core_of, may_be, resolve, validator_of
from testronaut_llm.support.text import parse_json

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

    from testronaut_llm.schema.wire import Dialect

_MAX_PLACES, _MAX_DEPTH = 5000, 100
_KINDS = {bool: "boolean", type(None): "null", str: "string", list: "array", dict: "object", int: "integer"}


Decode = Callable[[Any], Any]
"""Converts a value of the wire to the caller's form."""


class TooLarge(Exception):  # noqa: N818 - a signal between two modules, not an error that leaves them
    """The schema expands to more places than any wire takes."""


class Place(NamedTuple):
    """One node of a schema on the wire.

    `decode` does not change a value in the caller's form. `encodes`: True if values have another form on the wire.
    """

    schema: Json
    decode: Decode = lambda value: value
    encodes: bool = False


class Places:
    """The places of one document on one wire."""

    def __init__(self, document: Json, dialect: Dialect, *, unroll: int) -> None:
        self.table: dict[str, Place] = {}  # places that `$ref` names, by name
        self.rules: dict[str, dict[str, None]] = {}  # constraints that the wire cannot express, as words, by place
        self._document, self._dialect, self._unroll = document, dialect, unroll
        self._names: dict[str, str] = {}
        self._within: list[str] = []
        self._count = self._deep = 0

    def place(self, schema: Any, path: str) -> Place:
        """Returns the place of a schema. Raises TooLarge."""
        self._count += 1
        if self._count > _MAX_PLACES or self._deep > _MAX_DEPTH:
            raise TooLarge
        core, notes = core_of(schema)
        self._deep += 1
        place = (self._placed(core, path) if core else None) or self._any(schema)
        self._deep -= 1
        examples = f"Examples: {words_of(notes['examples'])}" if notes.get("examples") else ""
        text = f"{notes.get('description', '')} {examples}".strip()
        if not text or not place.schema:
            return place
        own = place.schema.get("description", "") if place.encodes else ""
        whole = {"anyOf": [place.schema]} if "$ref" in place.schema else place.schema  # a reference is alone
        return place._replace(schema={**whole, "description": f"{text} {own}".strip()})

    def _placed(self, core: Json, path: str) -> Place | None:
        """Returns the place of a node without combinators; None if the wire has no form for it."""
        if "$ref" in core:
            return self._reference(core["$ref"], path)
        if "anyOf" in core:
            return self._choice(core["anyOf"], path)
        if "enum" in core:
            return self._enum(core["enum"])
        if len(core["type"]) > 1:
            return self._choice([{**core, "type": kind} for kind in core["type"]], path)
        (kind,) = core["type"]
        if kind == "object":
            return self._object(core, path)
        return self._array(core, path) if kind == "array" else Place(self._typed(kind, core, path))

    def _any(self, schema: Any) -> Place:
        """Returns a place for any JSON value; with closed objects it is JSON text in a string."""
        if not self._dialect.closed:
            return Place({})
        items = schema.items() if isinstance(schema, dict) else ()
        words = words_of({key: value for key, value in items if key in KEYWORDS})
        what = "any JSON value" if words == "{}" else f"a JSON value that obeys {words}"

        def decode(value: Any) -> Any:
            try:
                meant = parse_json(value) if isinstance(value, str) else value
            except ValueError:
                meant = value
            return meant if _obeys(self._validators[0], schema, meant) else _without_nulls(meant)

        return Place({"type": "string", "description": f"(JSON text of {what})"}, decode, encodes=True)

    def _reference(self, reference: str, path: str) -> Place:
        target = resolve(self._document, reference)
        if not self._dialect.references:
            if self._within.count(reference) > self._unroll:
                return self._any({"$ref": reference})
            self._within.append(reference)
            place = self.place(target, path)
            self._within.pop()
            return place
        if reference not in self._names:
            base = re.sub(r"\W+", "_", reference.rsplit("/", 1)[-1], flags=re.ASCII).strip("_") or "answer"
            numbered = (f"{base}_{i}" if i else base for i in count())
            self._names[reference] = next(name for name in numbered if name not in self._names.values())
            self.table[self._names[reference]] = self.place(target, self._names[reference])
        name = self._names[reference]
        encodes = name in self.table and self.table[name].encodes

        def decode(value: Any) -> Any:
            return self.table[name].decode(value)  # which may not exist yet

        return Place({"$ref": f"#/$defs/{name}"}, decode, encodes)

    def _choice(self, schemas: list[Any], path: str) -> Place | None:
        options = [(self.place(schema, path), schema) for schema in schemas if schema is not False]
        places = [place for place, _ in options]
        kinds = [self._kinds(place.schema) for place in places]
        for i, place in enumerate(places):
            if not place.schema or (place.encodes and kinds[i] & set().union(*kinds[:i], *kinds[i + 1 :])):
                return None
        if len(places) < 2:
            return places[0] if places else None

        def decode(value: Any) -> Any:
            callers, wires = self._validators
            fitting = [one for one in options if may_be(wires.schema, one[0].schema, value)]
            if len(fitting) == 1:
                return fitting[0][0].decode(value)
            for place, schema in sorted(fitting, key=lambda option: not _obeys(wires, option[0].schema, value)):
                meant = place.decode(value)
                if _obeys(callers, schema, meant):
                    return meant
            return value

        return Place(_either([place.schema for place in places]), decode, any(place.encodes for place in places))

    def _enum(self, values: list[Any]) -> Place | None:
        if not self._dialect.closed:
            return Place({"enum": values})
        kinds: dict[str, list[Any]] = {}
        for value in values:
            kind = _kind_of(value)
            kinds.setdefault("number" if kind == "integer" else kind, []).append(value)
        if kinds.keys() & {"object", "array"}:
            return None
        return Place(
            _either([{"type": kind, **({} if kind == "null" else {"enum": some})} for kind, some in kinds.items()])
        )

    def _array(self, core: Json, path: str) -> Place:
        first = [self.place(sub, f"{path}[{i}]") for i, sub in enumerate(core.get("prefixItems", ()))]
        ends = bool(first) and (core.get("items") is False or core.get("maxItems", len(first) + 1) <= len(first))
        rest = Place({}) if ends else self.place(core.get("items", {}), f"{path}[]")

        def decode(value: Any) -> Any:
            if not isinstance(value, list):
                return value
            return [place.decode(sub) for place, sub in zip(chain(first, repeat(rest)), value, strict=False)]

        parts = first if ends else [*first, rest]
        items = _either([place.schema for place in parts])
        return Place({**self._typed("array", core, path), "items": items}, decode, any(one.encodes for one in parts))

    def _object(self, core: Json, path: str) -> Place | None:
        others, required = core.get("additionalProperties"), core.get("required", [])
        free = [sub for sub in [*core.get("patternProperties", {}).values(), others] if sub not in (None, False)]
        declared = {name: sub for name, sub in core.get("properties", {}).items() if sub is not False}
        is_closed = others is False and not free
        is_typed = others is not None and bool(free) and all(isinstance(sub, dict) and sub for sub in free)
        if self._dialect.closed and not is_closed and (is_typed or not declared):
            return self._entries(core, {"anyOf": free}, path) if is_typed and not (declared or required) else None
        for name in required:
            declared.setdefault(name, others if isinstance(others, dict) else {})
        if not all(map(self._dialect.names.fullmatch, declared)):
            return None
        record = self._record(declared, core, path)
        if self._dialect.closed or is_closed:
            record.schema["additionalProperties"] = False
        elif free or not declared:
            inner = self.place({"anyOf": free}, f"{path}.*") if is_typed else None
            record.schema["additionalProperties"] = inner.schema if inner else True
        return record

    def _record(self, declared: Json, core: Json, path: str) -> Place:
        """Returns the place of an object with these properties. Null means that an optional one is absent."""
        places = {name: self.place(sub, f"{path}.{name}".lstrip(".")) for name, sub in declared.items()}
        properties = {name: place.schema for name, place in places.items()}
        optional = properties.keys() - core.get("required", ())
        for name in optional if self._dialect.all_required else ():
            if "null" not in self._kinds(properties[name]):
                properties[name] = _either([properties[name], {"type": "null"}])

        def decode(value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            nulls = (name for name in optional if value.get(name) is None)
            left_out = {name for name in nulls if "null" not in self._kinds(places[name].schema)}
            kept = {name: sub for name, sub in value.items() if name not in left_out}
            return {name: places[name].decode(sub) if name in places else sub for name, sub in kept.items()}

        schema = {**self._typed("object", core, path), "properties": properties}
        needed = [name for name in places if self._dialect.all_required or name not in optional]
        return Place({**schema, "required": needed} if needed or self._dialect.all_required else schema, decode)

    def _entries(self, core: Json, schema: Json, path: str) -> Place:
        """Returns the place of an object with free keys, as a list of `key` and `value`."""
        inner = self.place(schema, f"{path}.*".lstrip("."))
        self._typed("object", core, path)

        def decode(value: Any) -> Any:
            if isinstance(value, list) and all(isinstance(e, dict) and e.keys() == {"key", "value"} for e in value):
                keys = [entry["key"] for entry in value]
                if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
                    value = {entry["key"]: entry["value"] for entry in value}
            return {key: inner.decode(sub) for key, sub in value.items()} if isinstance(value, dict) else value

        properties = {"key": {"type": "string"}, "value": inner.schema}
        entry = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
        about = "(an object, as the list of its entries)"
        return Place({"type": "array", "description": about, "items": entry}, decode, encodes=True)

    def _typed(self, kind: str, core: Json, path: str) -> Json:
        """Returns the type with the bounds that the wire supports; the others are sent as words."""
        kept = {"type": kind}
        for key in [key for key in core if key in BOUNDS]:
            if self._dialect.may_keep(kind, key, core[key]):
                kept[key] = core[key]
            else:
                self.rules.setdefault(path or "answer", {})[f"{key} {words_of(core[key])}"] = None
        return kept

    def _kinds(self, schema: Json) -> set[str]:
        """Returns the JSON types that a wire's schema allows; none for an unfinished reference."""
        if not schema:
            return set(TYPES)
        if "$ref" in schema:
            place = self.table.get(schema["$ref"].rsplit("/", 1)[-1])
            return self._kinds(place.schema) if place else set()
        if "anyOf" in schema:
            return set().union(*map(self._kinds, schema["anyOf"]))
        return {schema["type"]} if "type" in schema else set(map(_kind_of, schema.get("enum", ())))

    @cached_property
    def _validators(self) -> tuple[Draft202012Validator, Draft202012Validator]:
        """Returns validators of the caller's schema and of the wire's."""
        wire = {"$defs": {name: place.schema for name, place in self.table.items()}}
        return validator_of(self._document), validator_of(wire)


def _either(schemas: list[Json]) -> Json:
    """Returns the union of schemas; nested unions are flattened, duplicates removed."""
    options = [option for one in schemas for option in (one["anyOf"] if one.keys() == {"anyOf"} else [one])]
    flat = list({words_of(option): option for option in options}.values())
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _kind_of(value: Any) -> str:
    """Returns the JSON type of a value; a whole number is an integer."""
    return _KINDS.get(type(value)) or ("integer" if value.is_integer() else "number")


def _without_nulls(value: Any) -> Any:
    """Returns a value without the nulls that stand for absent properties."""
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return value


def words_of(value: Any) -> str:
    """Returns a value as short JSON, the same for equal values."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _obeys(validator: Draft202012Validator, schema: Any, value: Any) -> bool:
    try:
        return bool(validator.evolve(schema=schema).is_valid(value))
    except re.error:  # a pattern for pydantic, whose regular expressions differ from Python's
        return True
