"""`testronaut-llm compare`: models side by side on the screen, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml
from manager_kit import KEY, Api, apis, model
from typer.testing import CliRunner, Result

from testronaut_llm.cli import app
from testronaut_llm.errors import ConfigError, InvalidRequestError, LLMError

Run = Callable[..., Result]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def api() -> Iterator[Callable[..., Api]]:
    with apis() as make:
        yield make


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Callable[..., Api]) -> Run:
    """The command in a folder whose `llm.yaml` has the models `a` and `b`."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    models = {name: model("openai", api(name, faults.good("Yes."))) for name in "ab"}
    task = {"models": ["a"], "cache": "off", "retries": 0}
    file = {"version": 1, "models": models, "tasks": {"default": task, "judge": {**task, "max_tokens": 9}}}
    Path("llm.yaml").write_text(yaml.safe_dump(file))
    return lambda *words: CliRunner().invoke(app, ["compare", *words, "--config", "llm.yaml"])


def test_answers_stand_side_by_side(run: Run, api: Callable[..., Api]) -> None:
    """Each model's answer, how far they agree, and what each took; the same as JSON."""
    api("b", faults.good("yes"))
    done = run("Is it so?", "--models", "a, b")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "model\tanswer",
        "a\tYes.",
        "b\tyes",
        "agreement: same words",
    ]
    assert [line.split("\t")[:5] for line in lines[-2:]] == [
        ["a", "1", "0", "-", "$0.000024"],
        ["b", "1", "0", "-", "$0.000024"],
    ]
    shown = json.loads(run("Is it so?", "-m", "a,b", "--json", "--task", "judge").stdout)
    assert (shown["task"], shown["models"], shown["exact"]) == ("judge", ["a", "b"], False)
    assert shown["prompts"][0]["results"]["b"]["text"] == "yes"


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("x", "x", "agreement: same text"),
        ("x", "y", "agreement: none"),
        ('{"a": 1}', '{"a":1}', "agreement: same JSON values"),
        ('{"a": 1, "c": 2}', '{"a": 1, "c": 3}', "agreement: 1 of 2 values, not $.c"),
        (json.dumps(list(range(12))), json.dumps([0] * 12), "$[10], ..."),
    ],
)
def test_agreement_is_told_in_words(run: Run, api: Callable[..., Api], a: str, b: str, says: str) -> None:
    """How far the answers agree, down to the values that differ."""
    api("a", faults.good(a))
    api("b", faults.good(b))
    assert says in run("?", "-m", "a,b").stdout


def test_a_file_of_prompts(run: Run, api: Callable[..., Api]) -> None:
    """Each line of a JSONL file is a prompt: a string, messages, or an object with either."""
    turns = [{"role": "user", "content": "four"}]
    lines = ['"one\u2028half"', '{"prompt": "two", "id": 7}', "", json.dumps(turns), json.dumps({"prompt": turns})]
    Path("prompts.jsonl").write_text("\n".join(lines), "utf-8")
    a = api("a", faults.good("x"))
    done = run("--file", "prompts.jsonl", "-m", "a", "--no-cache")
    assert done.exit_code == 0
    assert sorted(body["messages"][-1]["content"] for body in a.bodies) == ["four", "four", "one\u2028half", "two"]
    assert done.stdout.count("agreement: fewer than two answers") == 4


def test_a_schema_is_judged(run: Run, api: Callable[..., Api]) -> None:
    """The share of answers that obey the schema, and the failure of the one that does not."""
    Path("schema.json").write_text(json.dumps(SCHEMA))
    api("a", faults.good('{"a": 1}'))
    api("b", faults.good('{"a": "no"}'))
    done = run("?", "-m", "a,b", "--schema", "schema.json")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[3] for row in rows[-2:]] == ["100%", "0%"]
    assert any(row[0] == "b" and row[1].startswith("failed (") for row in rows)


def test_one_failure_is_shown_all_are_an_exit_code(run: Run, api: Callable[..., Api]) -> None:
    """An answer from one model is a success; without any the exit code says that models failed."""
    api("b", faults.error("authentication"))
    done = run("?", "-m", "a,b")
    assert (done.exit_code, "b\tfailed (" in done.stdout) == (0, True)
    api("a", faults.error("authentication"))
    assert run("?", "-m", "a,b").exit_code == 1


WRONG: list[tuple[tuple[str, ...], str | None, type[LLMError], str]] = [
    (("-m", "a"), None, InvalidRequestError, "--file"),
    (("?", "-f", "p.jsonl", "-m", "a"), '"x"', InvalidRequestError, "--file"),
    (("?",), None, InvalidRequestError, "--models"),
    (("?", "-m", "a,nobody"), None, ConfigError, "nobody"),
    (("-f", "p.jsonl", "-m", "a"), None, ConfigError, "cannot read p.jsonl"),
    (("-f", "p.jsonl", "-m", "a"), "\n\n", ConfigError, "no prompt"),
    (("-f", "p.jsonl", "-m", "a"), '"x"\n{', ConfigError, "p.jsonl:2 is not JSON"),
    (("-f", "p.jsonl", "-m", "a"), '{"text": "x"}', ConfigError, "p.jsonl:1 holds no prompt"),
    (("-f", "p.jsonl", "-m", "a"), "[1]", ConfigError, "p.jsonl:1 holds no prompt"),
]


@pytest.mark.parametrize(("words", "text", "kind", "says"), WRONG)
def test_what_is_wrong_is_named(
    run: Run, words: tuple[str, ...], text: str | None, kind: type[LLMError], says: str
) -> None:
    """A wrong call says what to give, and a wrong line of a file its number."""
    if text is not None:
        Path("p.jsonl").write_text(text)
    error: Any = run(*words).exception
    assert isinstance(error, kind)
    assert says in str(error)
