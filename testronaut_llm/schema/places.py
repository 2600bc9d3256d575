"""Turns a schema node by node into what one wire takes, and keeps the way back of each value.

What a wire cannot say is left off there and said in words. A wire may let a wrong answer through, since the caller's
schema is checked in the end, but it must never forbid a right one.
"""

from __future__ import annotations

import re
from functools import cached_property, partial
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any

from testronaut_llm.schema.document import Json, resolve
from testronaut_llm.schema.nodes import (
    BOUNDS,
    KEYWORDS,
    OBJECT,
    Place,
    core_of,
    described,
    either,
    from_text,
    kind_of,
    without_nulls,
    words_of,
)

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

    from testronaut_llm.schema.wire import Dialect

_MAX_PLACES, _MAX_DEPTH = 5000, 100


class TooLarge(Exception):  # noqa: N818 - a signal between two modules, not an error that leaves them
    """The schema unfolds into more places than any wire takes."""


class Places:
    """The places of one document on one wire.

    Attributes:
        table: places that `$ref` names, by name.
        rules: what the wire cannot say, in words, by the place it is about.
        refers: True if the words hold a `$ref`, so that the model has to see the caller's schema.
    """

    def __init__(self, document: Json, dialect: Dialect, *, unroll: int) -> None:
        self.table: dict[str, Place] = {}
        self.rules: dict[str, dict[str, None]] = {}
        self.refers = False
        self._document, self._dialect, self._unroll = document, dialect, unroll
        self._names: dict[str, str] = {}
        self._within: list[str] = []
        self._count = self._deep = 0

    def place(self, schema: Any, path: str) -> Place:
        """Returns the place that `schema` describes. Raises TooLarge."""
        self._count += 1
        if self._count > _MAX_PLACES or self._deep > _MAX_DEPTH:
            raise TooLarge
        core, notes = core_of(schema)
        self._deep += 1
        place = (self._placed(core, path) if core else None) or self._any(schema)
        self._deep -= 1
        return described(place, notes)

    def _placed(self, core: Json, path: str) -> Place | None:
        """Returns the place of a node without combinators; None if the wire has no form for it."""
        if "$ref" in core:
            return self._link(core["$ref"], path)
        if "anyOf" in core:
            return self._choice(core["anyOf"], path)
        if "enum" in core:
            return self._enum(core["enum"])
        types = core.get("type") or ["object" if any(key in core for key in OBJECT) else "array"]
        if len(types) > 1:
            return self._choice([{**core, "type": kind} for kind in types], path)
        if types == ["object"]:
            return self._object(core, path)
        return self._array(core, path) if types == ["array"] else Place(self._says(types[0], core, path))

    def _any(self, schema: Any) -> Place:
        """Returns a place of any JSON value: on a wire of closed objects it is JSON text in a string."""
        if not self._dialect.closed:
            return Place({})
        words = self._words({key: value for key, value in schema.items() if key in KEYWORDS} if schema else {})
        what = "any JSON value" if words == "{}" else f"a JSON value that obeys {words}"

        def decode(value: Any) -> Any:
            meant = from_text(value)
            return meant if _obeys(self._validators[0], schema, meant) else without_nulls(meant)

        return Place({"type": "string", "description": f"(JSON text of {what})"}, decode, encodes=True)

    def _link(self, reference: str, path: str) -> Place:
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
        return Place({"$ref": f"#/$defs/{name}"}, partial(self._decoded, name), encodes)

    def _decoded(self, name: str, value: Any) -> Any:
        return self.table[name].decode(value)

    def _choice(self, schemas: list[Any], path: str) -> Place | None:
        options = [(self.place(schema, path), schema) for schema in schemas if schema is not False]
        places = [place for place, _ in options]
        kinds = [self._kinds(place.schema) for place in places]
        overlaps = any(
            place.encodes and any(kinds[i] & other for j, other in enumerate(kinds) if i != j)
            for i, place in enumerate(places)
        )
        if overlaps or not all(place.schema for place in places):
            return None
        if len(places) < 2:
            return places[0] if places else None

        def decode(value: Any) -> Any:
            callers, wires = self._validators
            for place, schema in sorted(options, key=lambda option: not _obeys(wires, option[0].schema, value)):
                meant = place.decode(value)
                if _obeys(callers, schema, meant):
                    return meant
            return value

        return Place(either([place.schema for place in places]), decode, any(place.encodes for place in places))

    def _enum(self, values: list[Any]) -> Place | None:
        if not self._dialect.closed:
            return Place({"enum": values})
        kinds: dict[str, list[Any]] = {}
        for value in values:
            kinds.setdefault("number" if kind_of(value) == "integer" else kind_of(value), []).append(value)
        if kinds.keys() & {"object", "array"}:
            return None
        enums = [{"type": kind, **({} if kind == "null" else {"enum": some})} for kind, some in kinds.items()]
        return Place(either(enums))

    def _array(self, core: Json, path: str) -> Place:
        first = [self.place(sub, f"{path}[{i}]") for i, sub in enumerate(core.get("prefixItems", ()))]
        ends = bool(first) and (core.get("items") is False or core.get("maxItems", len(first) + 1) <= len(first))
        rest = None if ends else self.place(core.get("items", {}), f"{path}[]")

        def decode(value: Any) -> Any:
            if not isinstance(value, list):
                return value
            places = chain(first, repeat(rest))
            return [place.decode(sub) if place else sub for place, sub in zip(places, value, strict=False)]

        items = either([place.schema for place in [*first, *([rest] if rest else [])]])
        return Place({**self._says("array", core, path), "items": items}, decode)

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
        """Returns the place of an object with these properties."""
        places = {name: self.place(sub, f"{path}.{name}".lstrip(".")) for name, sub in declared.items()}
        properties = {name: place.schema for name, place in places.items()}
        optional = properties.keys() - core.get("required", ())
        for name in optional if self._dialect.all_required else ():
            if not self._takes_null(places[name]):
                properties[name] = either([properties[name], {"type": "null"}])

        def decode(value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            left_out = {name for name in optional if value.get(name) is None and not self._takes_null(places[name])}
            kept = {name: sub for name, sub in value.items() if name not in left_out}
            return {name: places[name].decode(sub) if name in places else sub for name, sub in kept.items()}

        schema = {**self._says("object", core, path), "properties": properties}
        needed = [name for name in places if self._dialect.all_required or name not in optional]
        return Place({**schema, "required": needed} if needed or self._dialect.all_required else schema, decode)

    def _entries(self, core: Json, schema: Json, path: str) -> Place:
        """Returns the place of an object with free keys, as a list of `key` and `value`."""
        inner = self.place(schema, f"{path}.*".lstrip("."))
        self._says("object", core, path)

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

    def _says(self, kind: str, core: Json, path: str) -> Json:
        """Returns the type with the bounds that the wire keeps; the others are said in words."""
        kept = {"type": kind}
        for key in [key for key in core if key in BOUNDS]:
            if self._dialect.may_keep(kind, key, core[key]):
                kept[key] = core[key]
            else:
                self.rules.setdefault(path or "answer", {})[f"{key} {self._words(core[key])}"] = None
        return kept

    def _words(self, value: Any) -> str:
        words = words_of(value)
        self.refers = self.refers or '"$ref"' in words
        return words

    def _takes_null(self, place: Place) -> bool:
        return not place.schema or "null" in self._kinds(place.schema)

    def _kinds(self, schema: Json) -> set[str]:
        """Returns the JSON types that a wire's schema admits; none for a reference that is not finished."""
        if "$ref" in schema:
            place = self.table.get(schema["$ref"].rsplit("/", 1)[-1])
            return self._kinds(place.schema) if place else set()
        if "anyOf" in schema:
            return set().union(*map(self._kinds, schema["anyOf"]))
        return {schema["type"]} if "type" in schema else set(map(kind_of, schema.get("enum", ())))

    @cached_property
    def _validators(self) -> tuple[Draft202012Validator, Draft202012Validator]:
        """The validators of the caller's schema and of the wire's."""
        from jsonschema import Draft202012Validator

        wire = {"$defs": {name: place.schema for name, place in self.table.items()}}
        return Draft202012Validator(self._document), Draft202012Validator(wire)


def _obeys(validator: Draft202012Validator, schema: Any, value: Any) -> bool:
    try:
        return bool(validator.evolve(schema=schema).is_valid(value))
    except re.error:  # a pattern of pydantic's, whose regular expressions know more than Python's
        return True
