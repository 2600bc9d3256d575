"""Reads a schema place by place for one dialect, and notes in words what that dialect cannot say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

from testronaut_llm.schema.dialects import Dialect, may_keep
from testronaut_llm.schema.document import resolve
from testronaut_llm.schema.flatten import NOTES, Flat, flatten
from testronaut_llm.schema.nodes import Choice, Entries, Items, Link, Node, Record, Text, kind_of

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_BOUNDS = {
    "string": ("minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
    "object": (
        *("minProperties", "maxProperties", "propertyNames", "patternProperties"),
        *("dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    ),
}
_BOUNDS["integer"] = _BOUNDS["number"]
_ANYWHERE = ("not", "if", "then", "else", "oneOfThese")
_IMPLIED = (
    ("object", {"properties", "required", "additionalProperties", *_BOUNDS["object"]}),
    ("array", {"items", "prefixItems", *_BOUNDS["array"]}),
    ("string", {*_BOUNDS["string"]}),
    ("number", {*_BOUNDS["number"]}),
)
_ANYTHING = {
    "{}": "any JSON value",
    '{"type":["object"]}': "any JSON object",
    '{"additionalProperties":true,"type":["object"]}': "any JSON object",
}
_MAX_PLACES = 5000
_MAX_DEPTH = 100


class TooLarge(Exception):  # noqa: N818 - a signal between two modules, not an error that leaves them
    """More places than any wire takes."""


class Places:
    """The places of one document on one wire.

    Attributes:
        table: places that `$ref` names, by name.
        rules: what the wire cannot say, in words, by the place it is about.
        refers: some words point into the caller's own schema, so the model has to see it.
    """

    def __init__(self, document: Mapping[str, Any], dialect: Dialect, *, unroll: int) -> None:
        self.table: dict[str, Node] = {}
        self.rules: dict[str, dict[str, None]] = {}
        self.refers = False
        self._document = document
        self._dialect = dialect
        self._unroll = unroll
        self._names: dict[str, str] = {}
        self._within: list[str] = []
        self._count = 0
        self._deep = 0

    def place(self, schema: Any, path: str) -> Node:
        """The place that `schema` describes. Raises TooLarge: the schema unfolds into too many places, or too deep."""
        self._count += 1
        if self._count > _MAX_PLACES or self._deep > _MAX_DEPTH:
            if self._dialect.constrains:
                raise TooLarge
            return Node()
        self._deep += 1
        node = self._placed(schema, path)
        self._deep -= 1
        return node

    def _placed(self, schema: Any, path: str) -> Node:
        flat = flatten(self._document, schema)
        notes = _notes(flat)
        if "$ref" in flat:
            return self._link(flat["$ref"], notes, path)
        if "anyOf" in flat:
            return self._choice(flat["anyOf"], notes, path)
        if schema is False or flat.get("type") == []:
            return self._never(path)
        self._bounds(flat, _ANYWHERE, path)
        if "enum" in flat:
            return self._enum(flat, notes, path)
        types = flat.get("type") or [kind for kind, keywords in _IMPLIED if keywords & flat.keys()][:1]
        if len(types) > 1:
            bare = {key: value for key, value in _bare(flat).items() if key not in _ANYWHERE}
            return self._choice([{**bare, "type": [kind]} for kind in types], notes, path)
        builders = {"object": self._object, "array": self._array}
        return builders.get(types[0], self._scalar)(flat, notes, path) if types else self._any({}, notes, path)

    def _never(self, path: str) -> Node:
        node = self._any({}, {}, path)
        node.never = True
        return node

    def _any(self, schema: Any, notes: dict[str, Any], path: str) -> Node:
        if not self._dialect.closed:
            # A grammar takes `{}`; older ones refuse a schema that holds nothing but a description.
            self._rule(path, *notes.values())
            return Node()
        words = _words(schema)
        self.refers = self.refers or '"$ref"' in words
        what = _ANYTHING.get(words, f"a JSON value that obeys {words}")
        return Text(notes={"description": f"{notes.get('description', '')} (JSON text of {what})".strip()})

    def _link(self, reference: str, notes: dict[str, Any], path: str) -> Node:
        target = resolve(self._document, reference)
        if self._dialect.references:
            return self._named(reference, target, notes)
        if self._within.count(reference) > self._unroll:
            return self._any({"$ref": reference}, notes, path)
        self._within.append(reference)
        node = self.place(target, path)
        self._within.pop()
        node.notes = {**node.notes, **notes}
        return node

    def _named(self, reference: str, target: Any, notes: dict[str, Any]) -> Node:
        if reference not in self._names:
            base = re.sub(r"\W+", "_", reference.rsplit("/", 1)[-1], flags=re.ASCII).strip("_") or "answer"
            numbered = (f"{base}_{i}" if i else base for i in count())
            name = next(name for name in numbered if name not in self._names.values())
            self._names[reference] = name
            self.table[name] = self.place(target, name)
        return Link(name=self._names[reference], table=self.table, notes=notes)

    def _choice(self, schemas: list[Any], notes: dict[str, Any], path: str) -> Node:
        options: list[tuple[Node, Callable[[Any], bool]]] = []
        for schema in schemas:
            node = self.place(schema, path)
            if not node.never:
                options += node.options if isinstance(node, Choice) else [(node, self._judge(schema))]
        nodes = [node for node, _ in options]
        if not nodes:
            return self._never(path)
        if any(not node.schema() for node in nodes if not isinstance(node, Link | Record | Items)):
            return self._any({}, notes, path)
        if len(nodes) == 1:
            nodes[0].notes = {**nodes[0].notes, **notes}
            return nodes[0]
        if any(a.encodes() and a is not b and a.kinds() & b.kinds() for a in nodes for b in nodes):
            return self._any({"anyOf": schemas}, notes, path)
        return Choice(options=tuple(options), notes=notes)

    @cached_property
    def _validator(self) -> Draft202012Validator:
        from jsonschema import Draft202012Validator

        return Draft202012Validator(self._document)

    def _judge(self, schema: Any) -> Callable[[Any], bool]:
        def accepts(value: Any) -> bool:
            try:
                return bool(self._validator.evolve(schema=schema).is_valid(value))
            except re.error:  # a pattern of pydantic's, whose regular expressions know more than Python's
                return True

        return accepts

    def _enum(self, flat: Flat, notes: dict[str, Any], path: str) -> Node:
        types = flat.get("type", ())
        allowed = [*types, "integer"] if "number" in types else types
        values = [value for value in flat["enum"] if not types or kind_of(value) in allowed]
        if not values:
            return self._never(path)
        if not self._dialect.closed:
            return Node(says={"enum": values}, notes=notes)
        groups: dict[str, list[Any]] = {}
        for value in values:
            groups.setdefault("number" if kind_of(value) == "integer" else kind_of(value), []).append(value)
        if groups.keys() & {"object", "array"}:
            return self._any({"enum": flat["enum"]}, notes, path)
        options = [(Node(says=_one_of(kind, some)), self._judge({"enum": some})) for kind, some in groups.items()]
        if len(options) > 1:
            return Choice(options=tuple(options), notes=notes)
        options[0][0].notes = notes
        return options[0][0]

    def _scalar(self, flat: Flat, notes: dict[str, Any], path: str) -> Node:
        kind = flat["type"][0] if "type" in flat else next(k for k, keys in _IMPLIED if keys & flat.keys())
        return Node(says={"type": kind, **self._bounds(flat, _BOUNDS.get(kind, ()), path)}, notes=notes)

    def _array(self, flat: Flat, notes: dict[str, Any], path: str) -> Node:
        kept = self._bounds(flat, _BOUNDS["array"], path)
        first = tuple(self.place(sub, f"{path}[{i}]") for i, sub in enumerate(flat.get("prefixItems", ())))
        if first and (flat.get("items") is False or flat.get("maxItems", len(first) + 1) <= len(first)):
            if not self._dialect.closed and flat.get("minItems") == len(first):
                return Items(first=first, says={"prefixItems": []}, notes=notes)
            return Items(first=first, says=kept, notes=notes)
        return Items(first=first, rest=self.place(flat.get("items", {}), f"{path}[]"), says=kept, notes=notes)

    def _object(self, flat: Flat, notes: dict[str, Any], path: str) -> Node:
        kept = self._bounds(flat, _BOUNDS["object"], path)
        others = flat.get("additionalProperties")
        free = [sub for sub in [*flat.get("patternProperties", {}).values(), others] if sub not in (None, False)]
        declared = {name: sub for name, sub in flat.get("properties", {}).items() if sub is not False}
        closes = others is False and not free
        typed = bool(free) and others is not None and all(isinstance(sub, dict) and sub for sub in free)
        if self._dialect.closed and not (closes or declared) and typed:
            self._bounds(flat, ("required",), path)
            return Entries(value=self.place({"anyOf": free}, f"{path}.*".lstrip(".")), notes=notes)
        if self._dialect.closed and not closes and (typed or not declared):
            return self._any(_bare(flat), notes, path)
        for name in flat.get("required", ()):
            declared.setdefault(name, others if isinstance(others, dict) else {})
        if not all(map(self._dialect.names.fullmatch, declared)):
            return self._any(_bare(flat), notes, path)
        node = Record(
            properties={name: self.place(sub, f"{path}.{name}".lstrip(".")) for name, sub in declared.items()},
            required=frozenset(flat.get("required", ())),
            all_required=self._dialect.all_required,
            others=False if self._dialect.closed or closes else (True if free or not declared else None),
            says=kept,
            notes=notes,
        )
        if typed and not self._dialect.closed:
            node.others = self.place({"anyOf": free}, f"{path}.*".lstrip("."))
        return node

    def _bounds(self, flat: Flat, keywords: tuple[str, ...], path: str) -> dict[str, Any]:
        """The bounds that the wire keeps; the others become rules."""
        kept = {}
        for keyword in keywords:
            if keyword in flat and may_keep(self._dialect, flat.get("type", []), keyword, flat[keyword]):
                kept[keyword] = flat[keyword]
            elif keyword in flat:
                self._rule(path, f"{keyword} {_words(flat[keyword])}")
        return kept

    def _rule(self, path: str, *words: str) -> None:
        self.rules.setdefault(path or "answer", {}).update(dict.fromkeys(words))


def _words(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _bare(flat: Flat) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key not in NOTES}


def _notes(flat: Flat) -> dict[str, Any]:
    examples = f"Examples: {_words(flat['examples'])}" if flat.get("examples") else ""
    text = f"{flat.get('description', '')} {examples}".strip()
    return {"description": text} if text else {}


def _one_of(kind: str, values: list[Any]) -> dict[str, Any]:
    if kind == "null":
        return {"type": "null"}
    whole = kind == "number" and all(kind_of(value) == "integer" for value in values)
    return {"type": "integer" if whole else kind, "enum": values}
