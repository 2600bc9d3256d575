"""Schemas as callers write them, each with valid and invalid answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field
from typing_extensions import TypedDict


class Option(BaseModel):
    flags: list[str] = Field(min_length=1, examples=[["-a", "--all"]])
    takes_value: bool = False
    default: str | None = None
    choices: list[str] = []


class Command(BaseModel):
    """A command of the tool, or of another command."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    summary: str = ""
    options: list[Option] = []
    subcommands: list[Command] = []


class Case(BaseModel):
    title: str
    timeout: float = Field(default=10, gt=0, le=600)
    expected_exit: int = Field(ge=0, le=255)


Outcome = StrEnum("Outcome", ["passed", "failed", "unclear"])


class Verdict(BaseModel):
    outcome: Outcome
    confidence: float = Field(ge=0, le=1)
    culprit: Option | None = None


class Loose(BaseModel, extra="allow"):
    id: int
    anything: Any = None
    on: date | None = None


class Run(TypedDict):
    argv: list[str]
    code: int


@dataclass
class Span:
    run: Run
    pair: tuple[int, str]


def obj(**properties: Any) -> dict[str, Any]:
    """An object schema; a name that ends in `_` is optional."""
    required = [name for name in properties if not name.endswith("_")]
    return {"type": "object", "properties": {n.rstrip("_"): s for n, s in properties.items()}, "required": required}


def closed(**properties: Any) -> dict[str, Any]:
    return {**obj(**properties), "additionalProperties": False}


def many(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def free(values: Any = True, **more: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values, **more}


def ref(name: str, **definitions: Any) -> dict[str, Any]:
    """A reference to a definition, at the root beside the definitions."""
    return {"$ref": f"#/$defs/{name}", **({"$defs": definitions} if definitions else {})}


STRING, INTEGER, NULL = {"type": "string"}, {"type": "integer"}, {"type": "null"}
KEYWORDS = ("nullable", "$ref", "items", "$id", "definitions", "type", "enum", "required")

TABLE: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "command tree": (
        Command,
        [{"name": "git", "options": [{"flags": ["-C"], "default": None, "choices": ["a"]}],
          "subcommands": [{"name": "remote", "subcommands": [{"name": "add"}]}]}],
        [{"name": "Git"}, {"name": "git", "subcommands": [{"name": "remote", "subcommands": [{"name": "A!"}]}]}, {}],
    ),
    "open class": (
        Loose, [{"id": 1}, {"id": 2, "anything": {"a": [None, {"b": 1}]}, "on": "2024-02-29"}], [{"id": 1, "on": "x"}],
    ),
    "optional union of anything": (
        list[int | str | dict[str, bool] | None],
        [[1, "1", None, {"a": True}, '{"a": true}', {}]], [[1.5], {"a": True}],
    ),
    "optional values under keys of an enum class": (
        dict[Outcome, int | None], [{}, {"passed": 1, "failed": None}], [{"other": 1}, {"passed": "x"}, 1],
    ),
    "dataclass": (
        Span,
        [{"run": {"argv": ["ls"], "code": 0}, "pair": [1, "x"]}],
        [{"run": {"argv": ["ls"], "code": 0}, "pair": [1]}, {"run": {"argv": ["ls"]}, "pair": [1, "x"]}],
    ),
    "condition": (
        {**obj(mode={"enum": ["on", "off"]}),
         "if": {"properties": {"mode": {"const": "on"}}},
         "then": {"properties": {"level": INTEGER}, "required": ["level"]},
         "else": {"properties": {"level": NULL, "why": STRING}}},
        [{"mode": "on", "level": 3}, {"mode": "off"}, {"mode": "off", "why": "x"}],
        [{"mode": "on"}, {"mode": "on", "level": "x"}],
    ),
    "map or list": (dict[str, int] | list[int], [{}, [], {"a": 1}, [1]], ["a", {"a": "b"}]),
    "anything": ({}, [None, 1, "x", [1], {"a": {"b": [None]}}, {"result": 1}], []),
    "odd names": (
        obj(**{"--all": STRING, "exit code": INTEGER, "": NULL}), [{"--all": "x", "exit code": 1, "": None}], [{}],
    ),
    "names of keywords": (
        obj(**dict.fromkeys(KEYWORDS, STRING)), [dict.fromkeys(KEYWORDS, "x")], [dict.fromkeys(KEYWORDS, 1)],
    ),
    "beside a reference": (
        {**obj(a={**ref("s"), "maxLength": 1}), "$defs": {"s": STRING}}, [{"a": "x"}], [{"a": "xy"}],
    ),
    "enum": ({"enum": ["a", 1, None, 2.5, True]}, ["a", 1, None, 2.5, True], ["b", False, 2]),
    "enum of values": ({"enum": [{"a": 1}, [1], "x"]}, [{"a": 1}, [1], "x"], [{"a": 2}, []]),
    "root union": ({"anyOf": [obj(a=STRING), obj(b=INTEGER), NULL]}, [{"a": "x"}, {"b": 1}, None], [{"a": 1}, "x"]),
    "all of": (
        {"allOf": [ref("base"), obj(b=INTEGER, c_=STRING)], "$defs": {"base": obj(a=STRING)}},
        [{"a": "x", "b": 1}, {"a": "x", "b": 1, "c": "y"}],
        [{"b": 1}, {"a": "x"}, {"a": "x", "b": "y"}],
    ),
    "fields beside a union": (
        {**obj(kind=STRING), "oneOf": [closed(kind={"const": "a"}, x=INTEGER), closed(kind={"const": "b"}, y_=STRING)]},
        [{"kind": "a", "x": 1}, {"kind": "b"}, {"kind": "b", "y": "z"}],
        [{"kind": "a"}, {"kind": "c"}],
    ),
    "draft 7": (
        {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/tree.json",
         "$ref": "#/definitions/node",
         "definitions": {
             "node": {"type": "object", "required": ["v"], "dependencies": {"next": ["at"]}, "properties": {
                 "v": {"$ref": "#/definitions/value", "type": "ignored beside a reference"},
                 "next": {"$ref": "#/definitions/node"},
                 "at": {"type": "array", "items": [INTEGER, STRING], "additionalItems": False}}},
             "value": {"type": ["integer", "string"], "exclusiveMinimum": True, "minimum": 0}}},
        [{"v": 1}, {"v": "x", "next": {"v": 2, "at": [1]}, "at": [1, "x"]}],
        [{"v": None}, {"v": 0}, {"v": 1, "next": {"v": 1}}, {"v": 1, "at": [1, "x", 2]}],
    ),
    "nullable": (
        {**many(obj(
            a={"type": "string", "nullable": True}, b_={"type": "string", "enum": ["x"], "nullable": True},
            c_={"allOf": [{"$ref": "#/components/schemas/C"}], "nullable": True},
            d_={"type": "integer", "nullable": False},
        )), "components": {"schemas": {"C": {**obj(k=INTEGER), "nullable": True}}}},
        [[{"a": None}, {"a": "x", "b": "x", "c": {"k": 1}, "d": 1}, {"a": "", "b": None, "c": None}]],
        [[{"b": "x"}], [{"a": 1}], [{"a": None, "b": "y"}]],
    ),
    "free form inside": (
        obj(env={"type": "object"}, words=free(STRING), any_={}, none_={"default": 1}),
        [{"env": {"A": [1]}, "words": {"a": "b"}}, {"env": {}, "words": {}, "any": {"x": None}, "none": False}],
        [{"env": 1, "words": {}}, {"env": {}, "words": {"a": 1}}],
    ),
    "names by pattern": (
        free(False, patternProperties={"^[A-Z]+$": STRING}, minProperties=1),
        [{"PATH": "/bin"}, {"A": "", "B": "x"}], [{}, {"a": "x"}, {"A": 1}],
    ),
    "declared and free": (obj(id=INTEGER) | free(STRING), [{"id": 1}, {"id": 1, "x": "y"}], [{"id": 1, "x": 1}]),
    "property of that name": (
        obj(values=many(INTEGER), result_=STRING), [{"values": [1]}, {"values": [], "result": "x"}], [[1]],
    ),
    "tuple": (
        many(False, prefixItems=[STRING, {"type": "object"}], minItems=2),
        [["a", {}], ["a", {"b": 1}]], [["a"], ["a", {}, 1], [{}, "a"]],
    ),
    "array bounds": (many(INTEGER, minItems=1, maxItems=2, uniqueItems=True), [[1], [1, 2]], [[], [1, 1], [1, 2, 3]]),
    "references in a chain": (
        ref("a", **{"a": ref("b~1c"), "b/c": {"$ref": "#named"}, "d": {"$anchor": "named", **obj(x=INTEGER)}}),
        [{"x": 1}], [{"x": "1"}],
    ),
    "mutual recursion": (
        ref("expr", expr={"anyOf": [{"type": "number"}, ref("sum")]}, sum=obj(op={"const": "+"}, of=many(ref("expr")))),
        [1, {"op": "+", "of": [1, {"op": "+", "of": [{"op": "+", "of": []}]}]}],
        [{"op": "-", "of": []}, {"op": "+", "of": ["x"]}],
    ),
    "negation": (obj(a={"type": "string", "not": {"enum": ["x"]}}), [{"a": "y"}], [{"a": "x"}]),
}  # fmt: skip
