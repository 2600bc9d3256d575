"""One schema gives the same value over four kinds of wire."""

from __future__ import annotations

import itertools
import json
from typing import Annotated, Any

import pytest
from fixtures_local import post
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, ValidationError
from schema_instances import answers
from schema_speech import said
from schema_table import INTEGER, NULL, STRING, TABLE, Case, Option, Run, Verdict, closed, free, many, obj
from wire_rules import faults

from testronaut_llm.errors import ConfigError, OutputInvalidError
from testronaut_llm.local.local_provider import Endpoint
from testronaut_llm.schema.output_schema import OutputSchema

SENT_IN = ("openai", "azure", "strict", "anthropic", "free")
DIALECTS = (*SENT_IN, "none")
SCHEMAS = {name: OutputSchema.of(schema) for name, (schema, _, _) in TABLE.items()}


def instance(schema: OutputSchema, value: Any) -> Any:
    """Returns the value in the caller's form: an instance if the schema is a class."""
    return value if schema._adapter is None else schema._adapter.validate_python(value)


def agree(sent: Any, back: Any) -> bool:
    """True if both are equal; an optional field that may be null may be null instead of absent."""
    if isinstance(sent, dict) and isinstance(back, dict):
        added = back.keys() - sent.keys()
        return all(back[name] is None for name in added) and all(
            name in back and agree(value, back[name]) for name, value in sent.items()
        )
    if isinstance(sent, list) and isinstance(back, list):
        return len(sent) == len(back) and all(map(agree, sent, back))
    return type(sent) is type(back) and bool(sent == back)


@pytest.mark.parametrize("name", TABLE)
def test_a_schema_travels_on_every_wire(name: str) -> None:
    """A wire gets only what it documents, valid answers are unchanged, wrong ones are refused with their text.

    A server that does not enforce the wire's form may answer plainly, inside the wrapper if one was requested.
    """
    schema, (_, right, wrong) = SCHEMAS[name], TABLE[name]
    for dialect in DIALECTS:
        wire = schema.wire(dialect)
        if dialect != "none":
            assert wire.schema is not None
            Draft202012Validator.check_schema(wire.schema)
            assert faults(dialect, wire.schema) == [], dialect

        def plain(value: Any, wrapped: bool = wire.wrapped) -> str:
            return json.dumps({"result": value} if wrapped else value)

        for value in right:
            survives(schema, value, dialect)
            back = schema.read(plain(value), dialect)
            assert agree(value, back) if schema._adapter is None else back == instance(schema, value), dialect
        for value in wrong:
            with pytest.raises(OutputInvalidError) as caught:
                schema.read(plain(value), dialect)
            assert caught.value.text == plain(value)


def survives(schema: OutputSchema, value: Any, dialect: str) -> None:
    sent = instance(schema, value)
    text = said(schema, sent, dialect)
    if (wire := schema.wire(dialect).schema) is not None:
        Draft202012Validator(wire).validate(json.loads(text))
    back = schema.read(text, dialect)
    assert agree(sent, back) if schema._adapter is None else back == sent, (value, text, back)


SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=SLOW, derandomize=True)
LEAVES = st.sampled_from([
    STRING, INTEGER, NULL, {"type": "number", "minimum": 0}, {"type": "boolean"},
    {"enum": ["a", 1, None]}, {"const": "k"}, {}, {"type": ["string", "null"]}, {"type": "string", "maxLength": 3},
    {"type": "object"}, {"type": "object", "additionalProperties": {"type": "integer"}},
])  # fmt: skip
NAMES = st.sampled_from(["a", "b", "a_", "b_", "values", "result_", "key"])
ANY_SCHEMA = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, max_size=3).map(lambda places: closed(**places)),
        inner.map(lambda items: many(items, maxItems=3)),
        inner.map(lambda value: free(value, maxProperties=2)),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        inner.map(lambda one: {"allOf": [one]}),
    ),
    max_leaves=6,
)


@QUICK
@given(data=st.data())
def test_any_answer_to_any_schema_travels(data: st.DataObject) -> None:
    schema = data.draw(st.sampled_from([*SCHEMAS.values()]) | ANY_SCHEMA.map(OutputSchema.of))
    value = data.draw(answers(schema.json_schema))
    try:
        instance(schema, value)
    except ValidationError:  # a date, a time: what no keyword of the schema says
        reject()
    for dialect in DIALECTS:
        sent = schema.wire(dialect).schema
        assert sent is None or faults(dialect, sent) == []
        survives(schema, value, dialect)


@QUICK
@given(schema=st.sampled_from([*SCHEMAS.values()]), dialect=st.sampled_from(SENT_IN), data=st.data())
def test_what_the_wire_lets_through_is_judged(schema: OutputSchema, dialect: str, data: st.DataObject) -> None:
    text = json.dumps(data.draw(answers(schema.wire(dialect).schema or {})))
    try:
        value = schema.read(text, dialect)
    except OutputInvalidError:
        return
    assert schema._adapter is not None or Draft202012Validator(schema.json_schema).is_valid(value)


@pytest.mark.parametrize("name", TABLE)
def test_llama_cpp_takes_each_free_schema(name: str, embedded_server: Endpoint) -> None:
    form = {"name": "answer", "schema": SCHEMAS[name].wire("free").schema}
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 150}
    body |= {"response_format": {"type": "json_schema", "json_schema": form}}
    choice = post(embedded_server, "/chat/completions", body)["choices"][0]
    if choice["finish_reason"] == "stop":
        json.loads(choice["message"]["content"])


def test_a_null_that_the_schema_forbids_is_unpacked() -> None:
    """A null in place of an absent optional field is removed; an allowed null is kept."""
    schema = OutputSchema.of(obj(a=STRING, n_=INTEGER, m_={"type": ["integer", "null"]}))
    text = '{"a": "x", "n": null, "m": null}'
    assert [schema.read(text, dialect) for dialect in DIALECTS] == [{"a": "x", "m": None}] * 6
    text = '{"flags": ["-a"], "takes_value": null, "default": null, "choices": null}'  # the defaults of the class
    assert OutputSchema.of(Option).read(text, "strict") == Option(flags=["-a"])


def test_a_map_is_read_only_from_a_list_of_its_entries() -> None:
    schema = OutputSchema.of(obj(env={"type": "object", "additionalProperties": STRING}))
    entry = {"key": "A", "value": "1"}
    assert schema.read(json.dumps({"env": [entry]}), "strict") == {"env": {"A": "1"}}
    for wrong in ([entry, entry], [{"key": "A"}], [{"key": 1, "value": "1"}], ["A"], [{**entry, "value": 1}]):
        with pytest.raises(OutputInvalidError, match=r"\$\.env"):
            schema.read(json.dumps({"env": wrong}), "strict")


def test_what_looks_alike_is_told_apart() -> None:
    """A string that looks like JSON, and a null that is no text."""
    for dialect in DIALECTS:
        survives(OutputSchema.of({"anyOf": [many(STRING), many({})]}), [None], dialect)
        for value in ("5", 5, "{}", '{"a": 1}', "[", None):
            survives(OutputSchema.of({}), value, dialect)


def test_a_wrapper_that_was_not_asked_for_is_refused() -> None:
    for name, dialect in itertools.product(("response", "result"), DIALECTS):
        with pytest.raises(OutputInvalidError, match=r"\$\.outcome"):
            OutputSchema.of(Verdict).read(json.dumps({name: {"outcome": "passed", "confidence": 1}}), dialect)
    for dialect in ("free", "none"):
        with pytest.raises(OutputInvalidError):
            OutputSchema.of({"type": "array"}).read('{"result": []}', dialect)


def test_what_the_wire_cannot_say_is_said_in_words() -> None:
    assert OutputSchema.of(Verdict).wire("strict").instructions == "\n".join(
        ["The answer also obeys:", "- `confidence`: maximum 1, minimum 0", "- `Option.flags`: minItems 1"]
    )
    assert "`[].timeout`: exclusiveMinimum 0, maximum 600" in OutputSchema.of(list[Case]).wire("anthropic").instructions
    assert OutputSchema.of(Run).wire("strict").instructions == ""


def test_a_model_that_does_not_see_the_schema_is_told_in_the_prompt() -> None:
    for dialect in ("free", "none"):
        words = OutputSchema.of(Case).wire(dialect).instructions
        assert "JSON" in words
        assert '"expected_exit":{"' in words
        assert '"title":"Case"' not in words


def test_a_name_is_what_every_wire_takes() -> None:
    names = [(Case, "Case"), (list[Case], "list_Case"), (dict[str, list[int]], "dict_str_list_int"), ({}, "answer")]
    names += [({"title": "A plan, in short!"}, "A_plan_in_short"), ({"title": "é" * 3}, "answer")]
    for schema, name in [*names, ({"title": 80 * "x"}, 64 * "x")]:
        assert OutputSchema.of(schema).name == name


NESTED = list(itertools.accumulate(range(11), lambda inner, _: obj(properties=inner), initial=STRING))
TWICE = {f"d{i}": obj(a={"$ref": f"#/$defs/d{i + 1}"}, b={"$ref": f"#/$defs/d{i + 1}"}) for i in range(30)}
# The schema, and the wires that would refuse it.
LARGE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "25 optional fields": ({"type": "object", "properties": {f"p{i}": STRING for i in range(25)}}, {"anthropic"}),
    "1001 enum values": (obj(a={"enum": [f"v{i}" for i in range(1001)]}), {"openai", "azure", "strict"}),
    "250 long enum values": (obj(a={"enum": [f"{i:060}" for i in range(250)]}), set()),
    "251 long enum values": (obj(a={"enum": [f"{i:060}" for i in range(251)]}), {"openai", "azure", "strict"}),
    "10 levels": (NESTED[10], {"azure"}),
    "11 levels": (NESTED[11], {"openai", "azure", "strict"}),
    "101 properties": (obj(**{f"p{i}": STRING for i in range(101)}), {"azure"}),
    "2**30 when inlined": ({"$ref": "#/$defs/d0", "$defs": {**TWICE, "d30": STRING}}, {"anthropic"}),
}


def test_a_large_schema_goes_in_words_where_the_wire_would_refuse_it() -> None:
    """A schema above the provider's limits is sent as text and checked here. Azure's limits are lower than OpenAI's."""
    for case, (document, refused_by) in LARGE.items():
        wires = {dialect: OutputSchema.of(document).wire(dialect) for dialect in SENT_IN}
        assert {dialect for dialect, wire in wires.items() if wire.schema is None} == refused_by, case
        for wire in wires.values():
            assert len(json.dumps(wire.schema)) < 50_000  # also if it would be 2**30 places
            assert wire.schema is not None or json.dumps(document, separators=(",", ":")) in wire.instructions


def test_a_class_whose_patterns_python_does_not_know() -> None:
    class Word(BaseModel):
        w: str = Field(pattern=r"^\p{Lu}$")

    schema = OutputSchema.of(list[Word | int])
    assert schema.read(said(schema, [Word(w="É"), 1], "strict"), "strict") == [Word(w="É"), 1]


def test_an_unknown_dialect_is_a_fault_of_the_provider_row() -> None:
    with pytest.raises(ConfigError, match="openai, azure, strict, anthropic, free, none"):
        OutputSchema.of({}).wire("sloppy")  # type: ignore[arg-type]  # what a registered row may hold


def test_schemas_that_only_look_the_same_are_separate() -> None:
    schema = obj(a=INTEGER)
    assert OutputSchema.of(schema) is OutputSchema.of(json.loads(json.dumps(schema)))
    assert OutputSchema.of(int | str) is not OutputSchema.of(str | int)
    assert OutputSchema.of({"const": 1}) is not OutputSchema.of({"const": True})
    unhashable = Annotated[int, Field(json_schema_extra={"x": 1}), []]
    assert OutputSchema.of(unhashable).read("1", "none") == 1


MAP_OR_LIST = {"anyOf": [{"$ref": "#/$defs/m"}, {"type": "array"}],
               "$defs": {"m": {"type": "object", "additionalProperties": NULL}}}  # fmt: skip
BECOMES: list[tuple[dict[str, Any], dict[str, Any] | str]] = [
    ({"anyOf": [False, STRING]}, STRING),
    ({"enum": ["a", 1, None]}, {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "number", "enum": [1]}, NULL]}),
    ({"allOf": [obj(a=STRING), obj(b=STRING)]}, "JSON text"),
    ({**obj(a=STRING), "not": {"required": ["b"]}}, "JSON text"),
    (MAP_OR_LIST, "JSON text"),
    ({"anyOf": [STRING, {}]}, "JSON text"),
    ({"type": "array", "items": True}, "JSON text of any JSON value"),
    ({"description": "d", "anyOf": [{"type": "string", "description": "e"}]}, {"type": "string", "description": "d"}),
    ({"type": "string", "examples": ["a"]}, {"type": "string", "description": 'Examples: ["a"]'}),
]  # fmt: skip


def test_what_a_place_becomes() -> None:
    for schema, wire in BECOMES:
        sent = OutputSchema.of(schema).wire("strict").schema or {}
        result = sent["properties"].get("result", sent)
        assert wire in json.dumps(result) if isinstance(wire, str) else result == wire


SIMPLE = ("^[a-z]+$", r"^--?[a-z]\w*=\d{1,3}$", "^(yes|no)$")
OTHER = ("abc", "^a|b$", "^(?=a)a$", r"^\bx$", "^.*$", "^[^/]+$", "^" + "a/" * 90 + ".*$", f"^{'a' * 200}$")


def test_only_simple_patterns_reach_a_wire() -> None:
    """They mean the same in every engine; others are said in words. A long pattern is judged as fast."""
    for pattern in (*SIMPLE, *OTHER):
        schema = OutputSchema.of(obj(a={"type": "string", "pattern": pattern}))
        sent = [dialect for dialect in SENT_IN if "pattern" in str(schema.wire(dialect).schema)]
        assert sent == (["openai", "free"] if pattern in SIMPLE else []), pattern
        assert all(json.dumps(pattern) in schema.wire(dialect).instructions for dialect in {*SENT_IN} - {*sent})


BOUNDED = obj(
    n={"type": "number", "minimum": 0.5, "multipleOf": 0.5}, i={"type": "integer", "maximum": 9},
    s={"type": "string", "minLength": 1, "format": "email"}, l={"type": "array", "items": STRING, "maxItems": 5000},
)  # fmt: skip
TAKEN = {
    "openai": {"minimum", "maximum", "multipleOf", "format"}, "azure": set(), "strict": set(), "anthropic": {"format"},
    "free": {"maximum", "minLength"},
}  # fmt: skip


def test_each_wire_gets_the_bounds_that_it_takes() -> None:
    """OpenAI accepts most, Azure and similar servers none, Anthropic some formats, grammars small whole numbers."""
    for dialect, taken in TAKEN.items():
        wire = OutputSchema.of(BOUNDED).wire(dialect)
        assert {key for place in wire.schema["properties"].values() for key in place} - {"type", "items"} == taken
        words = {"minimum", "maximum", "minLength", "maxItems", "format"} - taken
        assert all(word in wire.instructions for word in words)
