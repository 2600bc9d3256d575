"""A broken schema is an error with its place before any cost; a valid one is sent in the provider's form."""

from __future__ import annotations

import re
import threading
from typing import Any, NamedTuple

import faults
import pytest
from manager_kit import Make, manager, model
from pydantic import BaseModel
from schema_table import NULL, obj, ref

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.schema.output_schema import OutputSchema

LOOP: dict[str, Any] = {"type": "array"}
LOOP["items"] = LOOP


BROKEN = [
    (obj(a={"type": "strnig"}), "$.properties.a.type", "did you mean `string`"),
    ({"properties": {"a b": {"items": 1}}}, "$.properties['a b'].items", "1"),
    ({"anyOf": [{}, {"required": "a"}]}, "$.anyOf[1].required", "array"),
    (obj(a={"$ref": "#/$defs/gone"}), "$.properties.a.$ref", "'#/$defs/gone' leads nowhere"),
    ({"prefixItems": [{}], "items": {"$ref": "#/prefixItems/7"}}, "$.items.$ref", "leads nowhere"),
    ({"items": {"$ref": "#/x-types/a"}, "x-types": {"a": {}}}, "$.items.$ref", "put its target into `$defs`"),
    ({"items": {"$ref": "https://example.com/s.json"}}, "$.items.$ref", "copy its target into `$defs`"),
    ({"items": {"$ref": 7}}, "$.items.$ref", "7"),
    ({"$dynamicRef": "#x"}, "$.$dynamicRef", "use `$ref`"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "$ref", "leads back to itself"),
    (obj(a={"pattern": "["}), "$.properties.a.pattern", "regex"),
    ({"items": {"enum": []}}, "$.items.enum", "no answer"),
    ({"const": {1, 2}}, "$.const", "not a JSON value"),
    ({"enum": [float("inf")]}, "$.enum[0]", "inf"),
    ({"properties": {1: {}}}, "$.properties", "the key 1 is not a string"),
    ({"components": {"schemas": {"A": {"type": "x"}}}}, "$.components.schemas.A.type", "unknown type"),
    ({"enum": "x" * 300}, "$.enum", "xxx"),
    (LOOP, "$", "nested deeper than 100 levels"),
]


def test_a_fault_is_named_with_its_path() -> None:
    for schema, path, words in BROKEN:
        with pytest.raises(InvalidRequestError, match=re.escape(words)) as caught:
            OutputSchema.of(schema)
        assert f"{path}`" in str(caught.value)
        assert len(str(caught.value)) < 500


def chain(length: int) -> OutputSchema[Any]:
    steps = {f"d{i}": ref(f"d{i + 1}") for i in range(length)}
    return OutputSchema.of(ref("d0", **steps, **{f"d{length}": NULL}))


def test_a_long_chain_of_references_is_no_crash() -> None:
    """A chain of references either works or is refused before anything is sent."""
    assert chain(50).read("null", "strict") is chain(400).read("null", "strict") is None
    assert chain(400).wire("strict").schema is None
    with pytest.raises(InvalidRequestError, match="too long a chain"):
        chain(5000)


class HoldsLock(BaseModel, arbitrary_types_allowed=True):
    lock: threading.Event


class Unfinished(BaseModel):
    other: NoSuchClass  # type: ignore[name-defined]  # noqa: F821 - the point of it


MISSING = list["NoSuch"]  # type: ignore[name-defined]  # noqa: F821 - the point of it


def test_what_is_no_schema_is_refused() -> None:
    for schema in (HoldsLock, Unfinished, threading.Event, MISSING, "Case", 5, None, [str], HoldsLock.__init__):
        with pytest.raises(InvalidRequestError, match="a JSON Schema as a dict"):
            OutputSchema.of(schema)


def test_a_default_that_json_cannot_hold_is_no_fault() -> None:
    class Model(BaseModel, arbitrary_types_allowed=True):
        pairs: dict[str, int] = {}
        first: Any = threading

    class Pair(NamedTuple):
        a: int
        b: str = "x"

    assert OutputSchema.of(Model).read('{"pairs": null}', "strict") == Model()
    assert OutputSchema.of(Pair).read("[1]", "free") == Pair(1)


OLDER = [
    ({"$id": "#word", "type": "string"}, {"$anchor": "word", "type": "string"}),
    ({"$id": "https://example.com/a", "$schema": "x"}, {}),
    ({"minimum": 1, "exclusiveMinimum": True}, {"exclusiveMinimum": 1}),
    ({"minimum": 1, "exclusiveMinimum": False}, {"minimum": 1}),
    ({"items": [{}], "additionalItems": {"type": "null"}}, {"prefixItems": [{}], "items": {"type": "null"}}),
    ({"dependencies": {"a": ["b"]}}, {"dependentRequired": {"a": ["b"]}}),
    ({"dependencies": {"c": {"required": ["d"]}}}, {"dependentSchemas": {"c": {"required": ["d"]}}}),
    ({"nullable": True}, {}),
    ({"nullable": True, "type": "string", "const": "x"}, {"type": ["string", "null"], "enum": ["x", None]}),
    ({"nullable": True, "properties": {}}, {"anyOf": [{"properties": {}}, {"type": "null"}]}),
]


def test_older_forms_are_rewritten() -> None:
    for old, new in OLDER:
        assert OutputSchema.of(old).json_schema == new


FINE_TUNED = {"model": "openai/ft:gpt-4o-mini:me::1"}
BOUNDED = [("openai", {}, True), ("openai", FINE_TUNED, False), ("azure", {}, False)]


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize(("wire", "fields", "bounded"), BOUNDED)
def test_openai_is_sent_the_bounds_that_it_takes(api: Make, wire: str, fields: Any, bounded: bool) -> None:
    """OpenAI's fine-tuned models and Azure refuse bounds, so their prompt holds the bounds."""
    a = api("a", faults.good('{"n": 3}'))
    with manager({"m": model(wire, a, **fields)}) as llm:
        assert llm.complete("t", "hi", schema=obj(n={"type": "integer", "minimum": 1})).parsed == {"n": 3}
    (body,) = a.bodies
    sent = body["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert ("minimum" in sent["schema"]["properties"]["n"]) is bounded
    assert ("minimum 1" in str(body["messages"])) is not bounded
