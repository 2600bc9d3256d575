"""The places of an answer as a wire says them: each knows its schema there, and the way back of a value.

The way back is generous: a value that already has the caller's form is left as it is. What comes out is judged
by the caller's schema in any case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, ClassVar

from testronaut_llm.support.text import parse_json


@dataclass(slots=True, kw_only=True)
class Node:
    """A place that says any value as it is, by the schema `says`."""

    kind: ClassVar[str | None] = None
    """The JSON type on the wire, where all places of the class have the same."""
    encoded: ClassVar[bool] = False
    """Does every value look different on the wire?"""

    says: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    never: bool = False
    """No value obeys the caller's schema here."""

    def schema(self) -> dict[str, Any]:
        return {**self.says, **self.notes}

    def decode(self, value: Any) -> Any:
        """The value in the caller's form."""
        return value

    def kinds(self) -> set[str]:
        """JSON types on the wire; empty where it may be any."""
        kind = self.kind or self.says.get("type")
        return {kind} if kind else set()

    def encodes(self) -> bool:
        """Does a value look different on the wire?"""
        return self.encoded

    def takes_null(self) -> bool:
        return self.kinds() <= {"null"} and None in self.says.get("enum", [None])

    def fits(self, value: Any) -> bool:
        """Could the wire mean this place by that value? Judged by its outermost form."""
        kinds, kind = self.kinds(), kind_of(value)
        return not kinds or kind in kinds or (kind == "integer" and "number" in kinds)


@dataclass(slots=True, kw_only=True)
class Text(Node):
    """JSON in a string: the way to say, on a wire of closed objects, what is not one."""

    kind = "string"
    encoded = True

    def schema(self) -> dict[str, Any]:
        return {"type": "string", **self.notes}

    def decode(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_json(value)
        except ValueError:
            return value


@dataclass(slots=True, kw_only=True)
class Record(Node):
    """An object with declared properties."""

    kind = "object"
    properties: Mapping[str, Node]
    required: frozenset[str]
    all_required: bool = False
    others: Node | bool | None = None
    """Undeclared properties: their place, forbidden, or (None) not mentioned."""

    def schema(self) -> dict[str, Any]:
        places = {name: self._property(name, node) for name, node in self.properties.items()}
        required = [name for name in places if self.all_required or name in self.required]
        out = {"type": "object", **self.notes, **self.says}
        if places or self.others is False:
            out["properties"] = places
        if required or self.all_required:
            out["required"] = required
        if self.others is not None:
            out["additionalProperties"] = self.others.schema() if isinstance(self.others, Node) else self.others
        return out

    def _property(self, name: str, node: Node) -> dict[str, Any]:
        if not self.all_required or name in self.required or node.takes_null():
            return node.schema()
        return either([node.schema(), {"type": "null"}])

    def decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        out = {}
        for name, sub in value.items():
            node = self.properties.get(name)
            if node is None:
                out[name] = sub
            elif sub is not None or name in self.required or node.takes_null():
                out[name] = node.decode(sub)
        return out

    def fits(self, value: Any) -> bool:
        needed = self.properties.keys() if self.all_required else self.required
        return isinstance(value, dict) and needed <= value.keys() <= self.properties.keys()


@dataclass(slots=True, kw_only=True)
class Entries(Node):
    """An object with free keys, as a list of `key` and `value`."""

    kind = "array"
    encoded = True
    value: Node

    def schema(self) -> dict[str, Any]:
        places = {"key": {"type": "string"}, "value": self.value.schema()}
        entry = {"type": "object", "properties": places, "required": ["key", "value"], "additionalProperties": False}
        about = self.notes.get("description", "")
        return {
            "type": "array",
            "description": f"{about} (an object, as the list of its entries)".strip(),
            "items": entry,
        }

    def decode(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.value.decode(sub) for key, sub in value.items()}
        if not isinstance(value, list) or not all(isinstance(e, dict) and e.keys() == {"key", "value"} for e in value):
            return value
        keys = [entry["key"] for entry in value]
        if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
            return value
        return {entry["key"]: self.value.decode(entry["value"]) for entry in value}


@dataclass(slots=True, kw_only=True)
class Items(Node):
    """An array: `first` by position, then the `rest`."""

    kind = "array"
    first: tuple[Node, ...] = ()
    rest: Node | None = None

    def schema(self) -> dict[str, Any]:
        if "prefixItems" in self.says:
            says = {**self.says, "prefixItems": [node.schema() for node in self.first]}
        else:
            nodes = [*self.first, *([self.rest] if self.rest else [])]
            says = {**self.says, "items": either([node.schema() for node in nodes])}
        return {"type": "array", **self.notes, **says}

    def decode(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        nodes = chain(self.first, repeat(self.rest))
        return [node.decode(sub) if node else sub for node, sub in zip(nodes, value, strict=False)]


@dataclass(slots=True, kw_only=True)
class Choice(Node):
    """One of several places; `accepts` asks the caller's schema of the option."""

    options: tuple[tuple[Node, Callable[[Any], bool]], ...]

    def schema(self) -> dict[str, Any]:
        return _noted(either([node.schema() for node, _ in self.options]), self.notes)

    def decode(self, value: Any) -> Any:
        for node, accepts in sorted(self.options, key=lambda option: not option[0].fits(value)):
            meant = node.decode(value)
            if accepts(meant):
                return meant
        return value

    def kinds(self) -> set[str]:
        return {kind for node, _ in self.options for kind in node.kinds()}

    def encodes(self) -> bool:
        return any(node.encodes() for node, _ in self.options)

    def takes_null(self) -> bool:
        return any(node.takes_null() for node, _ in self.options)

    def fits(self, value: Any) -> bool:
        return any(node.fits(value) for node, _ in self.options)


@dataclass(slots=True, kw_only=True)
class Link(Node):
    """A place that is defined once and may hold itself."""

    name: str
    table: Mapping[str, Node]

    def schema(self) -> dict[str, Any]:
        return _noted({"$ref": f"#/$defs/{self.name}"}, self.notes)

    def decode(self, value: Any) -> Any:
        return self.table[self.name].decode(value)

    def kinds(self) -> set[str]:
        return self.table[self.name].kinds() if self.name in self.table else set()

    def encodes(self) -> bool:
        return self.name in self.table and self.table[self.name].encodes()

    def takes_null(self) -> bool:
        return self.table[self.name].takes_null()

    def fits(self, value: Any) -> bool:
        return self.table[self.name].fits(value)


def _noted(schema: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    """A reference stands alone: what is said about it goes around it."""
    return {"anyOf": [schema], **notes} if notes and "$ref" in schema else {**schema, **notes}


def either(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """A schema that admits what any of them does; nested unions melt, and equals are said once."""
    flat: dict[str, dict[str, Any]] = {}
    for schema in schemas:
        for option in schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]:
            flat.setdefault(json.dumps(option, sort_keys=True), option)
    options = list(flat.values())
    return options[0] if len(options) == 1 else {"anyOf": options}


def kind_of(value: Any) -> str:
    for kind, types in (("boolean", bool), ("null", type(None)), ("string", str), ("array", list), ("object", dict)):
        if isinstance(value, types):
            return kind
    return "integer" if isinstance(value, int) or value.is_integer() else "number"
