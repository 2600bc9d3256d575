"""Turns the caller's schema into what a wire takes; what the wire cannot say is left off, and said in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testronaut_llm.schema.dialects import DIALECTS, Dialect, exceeds
from testronaut_llm.schema.document import map_subschemas, walk
from testronaut_llm.schema.nodes import Link, Node, Record
from testronaut_llm.schema.places import Places, TooLarge

WRAP = "result"
_MISREAD = "values"
"""LiteLLM takes a root property of this name for the whole answer of a forced tool call."""
_ONLY_JSON = "Answer with one JSON value and nothing else: no explanation, no code fence. It obeys this JSON Schema:\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSchema:
    """What goes to a provider for one schema.

    `schema` is None where the wire takes none; `instructions` belong into the prompt, and are empty where
    the wire says all; `wrapped` says that the value travels inside `{"result": ...}`.
    """

    schema: dict[str, Any] | None
    name: str
    instructions: str
    wrapped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One schema on one wire: its form there, and the way back of a value."""

    wire: WireSchema
    root: Node

    def decode(self, value: Any) -> Any:
        if self.wire.wrapped and isinstance(value, dict) and value.keys() == {WRAP}:
            value = value[WRAP]
        return self.root.decode(value)


def plan(document: Mapping[str, Any], name: str, dialect: Dialect) -> Plan:
    """The plan of a canonical document for a dialect.

    A schema that the wire is known to refuse for its size is sent in words only.
    """
    for unroll in (1, 0) if dialect.constrains and not dialect.references else (0,) * dialect.constrains:
        try:
            made = _constrained(document, name, dialect, unroll)
        except TooLarge:
            continue
        if not exceeds(dialect, made.wire.schema or {}):
            return made
    wire = WireSchema(schema=None, name=name, instructions=_ONLY_JSON + _words(document), wrapped=False)
    # Nothing is encoded without a wire that asks for it; only a stray null is taken out.
    return Plan(wire=wire, root=Places(document, DIALECTS["none"], unroll=0).place(document, ""))


def _constrained(document: Mapping[str, Any], name: str, dialect: Dialect, unroll: int) -> Plan:
    places = Places(document, dialect, unroll=unroll)
    root = places.place(document, "")
    while isinstance(root, Link):
        root = places.table[root.name]
    wrapped = _needs_wrap(root, dialect)
    top = Record(properties={WRAP: root}, required=frozenset({WRAP}), others=False) if wrapped else root
    schema = _with_definitions(top.schema(), places.table)
    lines = [_ONLY_JSON + _words(schema)] if dialect.in_prompt else []
    if places.rules:
        rules = [f"- `{place}`: {', '.join(words)}" for place, words in places.rules.items()]
        lines.append("\n".join(["The answer also obeys:", *rules]))
    if places.refers:
        lines.append("The schema that `$ref` points into:\n" + _words(document))
    wire = WireSchema(schema=schema, name=name, instructions="\n\n".join(lines), wrapped=wrapped)
    return Plan(wire=wire, root=root)


def _needs_wrap(root: Node, dialect: Dialect) -> bool:
    if not dialect.closed:
        return not root.schema()  # LiteLLM drops an empty schema
    return not isinstance(root, Record) or _MISREAD in root.properties


def _with_definitions(schema: dict[str, Any], table: Mapping[str, Node]) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    unread = [schema]
    while unread:
        for _, node in walk(unread.pop()):
            name = node.get("$ref", "").rsplit("/", 1)[-1]
            if name and name not in definitions:
                definitions[name] = table[name].schema()
                unread.append(definitions[name])
    return {**schema, "$defs": definitions} if definitions else schema


def _words(schema: Mapping[str, Any]) -> str:
    return json.dumps(_untitled(schema), ensure_ascii=False, separators=(",", ":"))


def _untitled(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return map_subschemas({key: value for key, value in node.items() if key != "title"}, _untitled)
