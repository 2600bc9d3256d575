"""`testronaut-llm compare`: models side by side on the screen, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import faults
import pytest
from manager_kit import Make, Run, model

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def compare(project: Make, make: Make, run: Run) -> Run:
    """The command in a folder whose `llm.yaml` has the models `a` and `b`."""
    tasks = {"default": {"models": ["a"], "cache": "off", "retries": 0}}
    project(faults.good("Yes."), models={"b": model("openai", make("b", faults.good("yes")))}, tasks=tasks)
    return lambda *words: run("compare", *words)


def test_answers_stand_side_by_side(compare: Run) -> None:
    code, out, err = compare("Is it so?", "--models", "a, b")
    assert (code, "this run cost $0.000048\n" in err) == (0, True)
    lines = out.splitlines()
    assert lines[:4] == ["model\tanswer", "a\tYes.", "b\tyes", "agreement: same words"]
    assert [line.split("\t")[:5] for line in lines[-2:]] == [[name, "1", "0", "-", "$0.000024"] for name in "ab"]
    shown = json.loads(compare("Is it so?", "-m", "a,b", "--json", "--task", "t")[1])
    assert (shown["task"], shown["models"], shown["exact"]) == ("t", ["a", "b"], False)
    assert shown["prompts"][0]["results"]["b"]["text"] == "yes"


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("x", "x", "agreement: same text"),
        ("x", "y", "agreement: none"),
        ('{"a": 1}', '{"a":1}', "agreement: same JSON values"),
        ('{"a": 1, "c": 2}', '{"a": 1, "c": 3}', "agreement: 1 of 2 values, not $.c"),
        (json.dumps(list(range(12))), json.dumps([0] * 12), "$[10], and 1 more"),
    ],
)
def test_agreement_is_said_in_words(compare: Run, make: Make, a: str, b: str, says: str) -> None:
    make("a", faults.good(a))
    make("b", faults.good(b))
    assert says in compare("?", "-m", "a,b")[1]


def test_a_file_of_prompts(compare: Run, make: Make) -> None:
    turns = [{"role": "user", "content": "four"}]
    lines = ['"one\u2028half"', '{"prompt": "two", "id": 7}', "", json.dumps(turns), json.dumps({"prompt": turns})]
    Path("prompts.jsonl").write_text("\n".join(lines), "utf-8")
    a = make("a", faults.good("x"))
    code, out, _ = compare("--file", "prompts.jsonl", "-m", "a", "--no-cache")
    assert (code, out.count("agreement: fewer than two answers")) == (0, 4)
    assert sorted(body["messages"][-1]["content"] for body in a.bodies) == ["four", "four", "one\u2028half", "two"]


def test_a_schema_is_judged(compare: Run, make: Make) -> None:
    Path("schema.json").write_text(json.dumps(SCHEMA))
    make("a", faults.good('{"a": 1}'))
    make("b", faults.good('{"a": "no"}'))
    rows = [line.split("\t") for line in compare("?", "-m", "a,b", "--schema", "schema.json")[1].splitlines()]
    assert [row[3] for row in rows[-2:]] == ["100%", "0%"]
    assert any(row[0] == "b" and row[1].startswith("failed (") for row in rows)


def test_one_failure_is_shown_all_are_an_exit_code(compare: Run, make: Make) -> None:
    make("b", faults.error("authentication"))
    code, out, _ = compare("?", "-m", "a,b")
    assert (code, "b\tfailed (" in out) == (0, True)
    make("a", faults.error("authentication"))
    assert compare("?", "-m", "a,b")[0] == 1


@pytest.mark.parametrize(
    ("words", "text", "says"),
    [
        ("? -f p.jsonl -m a", '"x"', "--file"),
        ("?", "", "--models"),
        ("? -m a,nobody", "", "nobody"),
        ("-f none -m a", "", "cannot read none"),
        ("-f p.jsonl -m a", "\n\n", "no prompt"),
        ("-f p.jsonl -m a", '"x"\n{', "p.jsonl:2 is not JSON"),
    ],
)
def test_what_is_wrong_is_named(compare: Run, words: str, text: str, says: str) -> None:
    Path("p.jsonl").write_text(text)
    code, out, err = compare(*words.split())
    assert (code, out, says in err) == (2, "", True), err
