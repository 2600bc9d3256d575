"""The text of an answer is JSON, or it is refused with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testronaut_llm.errors import OutputInvalidError
from testronaut_llm.output_schema import OutputSchema
from testronaut_llm.schema.answer import is_runaway_whitespace

OBJECT = OutputSchema.of({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})
GOOD = '{"name": "a"}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("I cannot do that.", "not JSON"),
        ('{"name": "a"', "not JSON"),
        (f"```json\n{GOOD}\n```", "code fence"),
        (f"Here you are:\n```\n{GOOD}\n```\nAnything else?", "code fence"),
        (f"Sure! {GOOD}", "not JSON"),
        (GOOD + GOOD, "not JSON"),
        ('{"name": "a"' + " " * 4000, "runaway whitespace"),
        ('{"name": ' + "\n" * 4000, "runaway whitespace"),
        ('{"name": NaN}', "NaN"),
        ('{"name": -Infinity}', "Infinity"),
        ('{"name": 1e999}', "too large"),
        ('{"name": "a", "name": "b"}', "twice"),
        ('{"name": "\\ud800"}', "surrogate"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("9" * 5000, "not JSON"),
        ('{"name": 5}', r"\$\.name: 5 is not of type 'string'"),
        ('{"response": {"name": "a"}}', "'name' is a required property"),
        ('["a"]', "is not of type 'object'"),
    ],
)
def test_what_is_not_the_answer_is_refused(text: str, words: str) -> None:
    """Prose, fences, cut or doubled JSON, numbers that are none, runaway blanks: each has its own reason."""
    with pytest.raises(OutputInvalidError, match=words) as caught:
        OBJECT.read(text, "free")
    assert caught.value.text == text
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```",
        f"Here it is [as asked]:\n\n{GOOD}\n\nHope that helps {{really}}!",
        f"```\nnot this\n```\n```json\n{GOOD}\n```",
        f"\ufeff {GOOD}\n",
        GOOD,
    ],
)
def test_prose_is_tolerated_where_nothing_constrained_the_answer(text: str) -> None:
    """Behind a wire that takes no schema a fence or a sentence around the JSON does no harm."""
    assert OBJECT.read(text, "none") == {"name": "a"}


def test_prose_without_json_is_refused_there_too() -> None:
    """Lenient is not blind."""
    for text in ("```json\n{broken\n```", "see [1] and {2}", "no", "[" * 100_000, 'Sure: {"name": 5}'):
        with pytest.raises(OutputInvalidError):
            OBJECT.read(text, "none")


def test_deep_and_huge_values_never_break_the_reader() -> None:
    """A value deeper than Python's stack, or a number larger than a float: refused, not a crash."""
    tree = OutputSchema.of(
        {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"k": {"$ref": "#/$defs/t"}}}}}
    )
    deep = '{"k":' * 400 + "{}" + "}" * 400
    halves = OutputSchema.of({"type": "number", "multipleOf": 0.5})
    for schema, text in ((tree, deep), (halves, "1" + "0" * 400)):
        for dialect in ("strict", "free"):
            with pytest.raises(OutputInvalidError):
                schema.read(json.dumps({"result": json.loads(text)}) if schema.wire(dialect).wrapped else text, dialect)


@pytest.mark.parametrize(
    ("text", "runaway"),
    [('{"a": 1' + " " * 1000, True), (" " * 499, False), ("x" * 1000, False), ("x y " * 300, False)],
)
def test_runaway_whitespace_is_told_apart(text: str, runaway: bool) -> None:
    """Long and mostly blank is runaway; short, or long and full, is not."""
    assert is_runaway_whitespace(text) is runaway


def test_faults_are_few_and_short() -> None:
    """A wholly wrong answer does not fill the screen, nor the repair's prompt."""
    schema = OutputSchema.of({"type": "array", "items": {"type": "integer"}})
    with pytest.raises(OutputInvalidError) as caught:
        schema.read(json.dumps(["x" * 1000] * 100), "free")
    assert len(str(caught.value)) < 3000


@given(st.text() | st.text('{}[]":,.0e-tfn \\`\n', max_size=40))
@example("0E400")
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever the text, there is a value or our error."""
    anything = OutputSchema.of({})
    for dialect in ("strict", "free", "none"):
        try:
            value: Any = anything.read(text, dialect)
        except OutputInvalidError:
            continue
        json.dumps(value, allow_nan=False).encode()
