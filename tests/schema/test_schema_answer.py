"""The text of an answer is JSON, or it is refused with the reason."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from schema_table import INTEGER, STRING, closed, many, obj, ref

from testronaut_llm.errors import OutputInvalidError
from testronaut_llm.schema import document, places
from testronaut_llm.schema.output_schema import OutputSchema

OBJECT = OutputSchema.of(obj(name=STRING))
GOOD = '{"name": "a"}'

BAD = [
    ("", "empty"),
    ("I cannot do that.", "not JSON"),
    ('{"name": "a"', "not JSON"),
    (f"```json\n{GOOD}\n```", "is not JSON"),
    (f"Sure! {GOOD}", "not JSON"),
    ('{"name": "a"' + " " * 1000, "runaway whitespace"),
    ('{"name": NaN}', "NaN"),
    ('{"name": 1e999}', "1e999 is not a number"),
    ('{"name": "a", "name": "b"}', "twice"),
    ('{"name": "\\ud800"}', "surrogate"),
    ("[" * 100_000, "nested too deeply"),
    ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
    ('{"name": 5}', r"\$\.name: 5 is not of type 'string'"),
]


def test_what_is_not_the_answer_is_refused() -> None:
    for text, words in BAD:
        with pytest.raises(OutputInvalidError, match=words) as caught:
            OBJECT.read(text, "free")
        assert caught.value.text == text
        assert len(str(caught.value)) < 400
    with pytest.raises(OutputInvalidError) as caught:
        NUMBERS.read(json.dumps(["x" * 1000] * 100), "free")
    assert len(str(caught.value)) < 3000


VERDICT = OutputSchema.of(obj(verdict={"enum": ["pass", "fail"]}))
OPTIONS = OutputSchema.of(many(obj(flag=STRING, meaning=STRING)))
TREE = OutputSchema.of(ref("command", command=obj(name=STRING, children=many(ref("command")))))
NUMBER, WORD, NUMBERS = OutputSchema.of(INTEGER), OutputSchema.of(STRING), OutputSchema.of(many(INTEGER))
PASS, FAIL, FAILED = '{"verdict": "pass"}', '{"verdict": "fail"}', {"verdict": "fail"}
ALL, THE_ALL = '[{"flag": "-a", "meaning": "all"}]', [{"flag": "-a", "meaning": "all"}]

# The schema, what the model wrote, and what it says or what is wrong with it.
READ: dict[str, tuple[OutputSchema, str, Any]] = {
    "a check box before it": (OPTIONS, f"- [ ] read the help\n- [x] answer\n{ALL}", THE_ALL),
    "an empty list in prose after it": (OPTIONS, f"{ALL}\nArguments: [] (none)", THE_ALL),
    "usage of all kinds": (OPTIONS, f"git [-C <path>] [--exec-path[=<path>]] {{a|b}} [1-9] [<n>...]\n{ALL}", THE_ALL),
    "an index": (NUMBERS, "Since `argv[0]`, argv[ 1 ], a[:2] and m[] are names:\n[4, 5]", [4, 5]),
    "braces in prose": (VERDICT, f"Set ${{HOME}} and {{name}}, {{}} and {{'x': 1}}: {FAIL}", FAILED),
    "other JSON before it": (VERDICT, f'It printed {{"verdict": "maybe"}} and [1, 2]:\n{FAIL}', FAILED),
    "other JSON after it": (VERDICT, f'{FAIL}\nIt printed {{"status": "pass"}}.', FAILED),
    "the same twice": (OPTIONS, f'{ALL} or:\n```\n[{{"meaning": "all", "flag": "-a"}}]\n```', THE_ALL),
    "JSON in a string of it": (OBJECT, f"\ufeff {json.dumps({'name': GOOD})}", {"name": GOOD}),
    "a fence in a string of it": (OBJECT, '```json\n{"name": "```json [1] ```"}\n```', {"name": "```json [1] ```"}),
    "a fence that is not closed": (VERDICT, f"```\nnot this\n```\n```json\n{FAIL}", FAILED),
    "a text in a fence": (WORD, 'It is\n```\n"[a] {b}"\n```', "[a] {b}"),
    "an empty list at the end of a sentence": (OPTIONS, "No options, so the list is [].", []),
    "a quoted list that goes on": (VERDICT, f'It printed {{"items": [1, 2, ... and so on.\n{FAIL}', FAILED),
    "reasoning before it": (VERDICT, f"Is it {PASS}? No.\n</think>\n\n{FAIL}", FAILED),
}


def test_the_answer_is_the_value_that_obeys_the_schema() -> None:
    for case, (schema, text, value) in READ.items():
        assert schema.read(text, "none") == value, case


REFUSED: dict[str, tuple[OutputSchema, str, str]] = {
    "two that differ": (VERDICT, f"```json\n{PASS}\n```\nBut no: {FAIL}.", "2 different JSON values"),
    "one and an empty one": (OPTIONS, f"It printed {ALL}, so the list is:\n[]", "different"),
    "true is not one": (OutputSchema.of({}), "```\n1\n```\n```\ntrue\n```", "different"),
    "brackets that do not match": (OBJECT, 'So: {"name": ["a"}, {"name": "a"]}', "not JSON"),
    "only an empty list in prose": (OPTIONS, "Arguments: [] none.", "not JSON"),
    "a part of a broken tree": (TREE, '{"name": "a", "children": [{"name": "b", "children": []} {}]}', "not JSON"),
    "a part of a cut tree": (TREE, 'So: {"name": "git", "children": [{"name": "add", "children": []}, ', "not JSON"),
    "a part of a value": (OBJECT, 'It is {"answer": {"name": "a"}}.', "required property"),
    "more than anybody means": (VERDICT, "".join(f"[{n}]\n" for n in range(1001)), "more than 1,000"),
}


def test_no_value_is_taken_by_its_place() -> None:
    for schema, text, words in REFUSED.values():
        with pytest.raises(OutputInvalidError, match=words) as caught:
            schema.read(text, "none")
        assert caught.value.text == text


def test_reasoning_is_cut_off_where_the_wire_was_given_the_schema_too() -> None:
    """A grammar starts after the reasoning; prose is still refused there."""
    assert VERDICT.read(f"hmm\n</think>\n\n{FAIL}", "free") == FAILED
    with pytest.raises(OutputInvalidError):
        VERDICT.read(f"hmm\n</think>\n\nSo: {FAIL}", "free")
    assert OBJECT.read('{"name": "a </think> b"}', "free") == {"name": "a </think> b"}


PIECES = [
    "[", "{", "[1,", '{"a":', '["', '[1 \\"', '["\\" ', "a[   ", "[]", "{} ", "[{", "```\n", "```json\n1 ",
    '{"a":"', "</think>",
]  # fmt: skip


def test_no_text_takes_longer_than_its_length_asks_for() -> None:
    def work(piece: str, size: int) -> float:
        text, began = piece * (size // len(piece)), time.process_time()
        with contextlib.suppress(OutputInvalidError):
            VERDICT.read(text, "none")
        return time.process_time() - began

    for piece in PIECES:
        assert work(piece, 100_000) <= 40 * min(work(piece, 10_000) for _ in range(3)) + 0.1, piece


def test_deep_and_huge_values_never_break_the_reader() -> None:
    tree, text = OutputSchema.of(obj(k_={"$ref": "#"})), '{"k":' * 400 + "{}" + "}" * 400
    for dialect in ("strict", "free"):
        with pytest.raises(OutputInvalidError):
            tree.read(json.dumps({"result": json.loads(text)}) if tree.wire(dialect).wrapped else text, dialect)


@pytest.mark.parametrize(("step", "right", "wrong"), [
    (0.01, (0.07, 19.99, 1, "1" + "0" * 400), (0.075, 0.1 + 0.2)), (0.5, (1.5, 10**400), (0.25,)), (3, (9, 9.0), (10,)),
])  # fmt: skip
def test_multiples_are_computed_in_decimals(step: float, right: tuple[Any, ...], wrong: tuple[Any, ...]) -> None:
    schema = OutputSchema.of(obj(n={"type": ["number", "string"], "multipleOf": step}))
    for value in right:
        assert schema.read(json.dumps({"n": value}), "free") == {"n": value}
    for value in wrong:
        with pytest.raises(OutputInvalidError, match="not a multiple of"):
            schema.read(json.dumps({"n": value}), "free")


@pytest.mark.parametrize("dialect", ["strict", "openai", "anthropic", "free", "none"])
def test_recursive_alternatives_take_no_exponential_work(dialect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level of the value is looked at a few times, also if its deepest value is wrong."""
    names, looks, may_be = ("pipe", "both"), list[int](), document.may_be
    node = {"anyOf": [ref(name) for name in ("leaf", *names)]}
    kinds = {name: closed(kind={"const": name}, left=ref("node")) for name in names}
    kinds |= {"node": node, "leaf": closed(kind={"const": "leaf"}, name=STRING)}
    schema = OutputSchema.of({**closed(root=ref("node")), "$defs": kinds})
    for module in (document, places):
        monkeypatch.setattr(module, "may_be", lambda *given: (looks.append(1), may_be(*given))[1])
    for name in ("ls", 7):
        value: Any = {"kind": "leaf", "name": name}
        for depth in range(16):
            value = {"kind": names[depth % 2], "left": value}
        looks.clear()
        with contextlib.nullcontext() if name == "ls" else pytest.raises(OutputInvalidError):
            assert schema.read(json.dumps({"root": value}), dialect) == {"root": value}
        assert len(looks) < 2000


@pytest.mark.parametrize("values", [["1", 1], ["false", False, 0], ["null", None], ['"a"', "a"]])
def test_a_value_that_is_json_is_not_taken_for_a_label(values: list[Any]) -> None:
    for dialect, value in itertools.product(("free", "none"), values):
        found = OutputSchema.of({"enum": values}).read(json.dumps(value), dialect)
        assert (found, type(found)) == (value, type(value))


LABELS = ("passed", " Passed.\n", "**PASSED**", '"passed"', "`passed`", '{"result": "passed"}')


def test_a_label_is_read_however_it_is_written() -> None:
    for schema, text in itertools.product(({"enum": ["passed", "failed"]}, Literal["passed", "failed"]), LABELS):
        assert OutputSchema.of(schema).read(text, "strict") == "passed"
    alike = OutputSchema.of({"enum": ["a", "A", "*"]})
    assert alike.read("A", "strict") == "A"
    for other in ("*a*", "**", "", "passed or failed"):
        with pytest.raises(OutputInvalidError):
            alike.read(other, "strict")


@given(st.text() | st.text('{}[]":,.0e-tfn \\`\n', max_size=40))
@example("0E400")
def test_no_text_breaks_the_reader(text: str) -> None:
    for dialect in ("strict", "free", "none"):
        with contextlib.suppress(OutputInvalidError):
            json.dumps(OutputSchema.of({}).read(text, dialect), allow_nan=False).encode()
