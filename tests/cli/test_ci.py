"""For a CI job: `classify` and `compare`, exit codes by kind of failure, and a summary for its page."""

from __future__ import annotations

import json
from pathlib import Path

import faults
import pytest
from manager_kit import Api, Make, Run, model

from testronaut_llm.cli.screen import code_of
from testronaut_llm.errors import BudgetExceededError, ConnectionFailedError, LLMTimeoutError
from testronaut_llm.records import Attempt

LABELS = ("--label", " passed = as expected", "--label", "failed ")


@pytest.fixture
def endpoint(project: Make) -> Api:
    return project(faults.good('{"result": "passed"}'))


@pytest.fixture
def compare(project: Make, make: Make, run: Run) -> Run:
    """The command in a folder whose `llm.yaml` has the models `a` and `b`."""
    tasks = {"default": {"models": ["a"], "cache": "off", "retries": 0}}
    project(faults.good("Yes."), models={"b": model("openai", make("b", faults.good("yes")))}, tasks=tasks)
    return lambda *words: run("compare", *words)


def test_the_label_is_printed_and_compared(run: Run, endpoint: Api) -> None:
    """If it is not the expected one, the exit code is 1; outer spaces do not count."""
    for expect, ends in ((), 0), (("--expect", "passed "), 0), (("--expect", "failed"), 1):
        code, out, err = run("classify", "t", "-", *LABELS, *expect, stdin="All is well.")
        assert (code, out) == (ends, "passed\n")
        assert "passed 94%, failed 6% (by votes, 2 answers), $" in err
    assert "- passed: as expected\\n- failed" in json.dumps(endpoint.bodies[0])
    found = json.loads(run("classify", "t", "hi", *LABELS, "--votes", "1", "--json")[1])
    assert (found["label"], found["method"], found["votes"]) == ("passed", "votes", {"passed": 1, "failed": 0})
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert [one["model"] for one in found["verdicts"]] == ["a"]


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


def test_a_schema_is_judged_and_a_failure_is_shown(compare: Run, make: Make) -> None:
    """One answer is a success; without any, the exit code is that of failed models."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    Path("schema.json").write_text(json.dumps(schema))
    words = ("?", "-m", "a,b", "--schema", "schema.json")
    make("a", faults.good('{"a": 1}'))
    make("b", faults.good('{"a": "no"}'))
    code, out, _ = compare(*words)
    assert (code, "b\tfailed (" in out) == (0, True)
    assert [line.split("\t")[3] for line in out.splitlines()[-2:]] == ["100%", "0%"]
    make("a", faults.error("authentication"))
    assert compare(*words)[0] == 1


GONE, FILTERED, BROKEN = faults.reset_before_headers, faults.error("content_filter"), faults.error("server_error")


@pytest.mark.parametrize(
    ("first", "second", "code", "kind"),
    [
        (GONE, GONE, 5, "connection_failed"),
        (GONE, BROKEN, 1, "server_error"),
        (BROKEN, GONE, 1, "connection_failed"),
        (BROKEN, FILTERED, 4, "content_filter"),
        (FILTERED, GONE, 4, "content_filter"),
    ],
)
def test_exit_codes_tell_failures_apart(
    project: Make, make: Make, run: Run, first: faults.Reply, second: faults.Reply, code: int, kind: str
) -> None:
    """Unreachable only if no attempt reached a server; refused if the last attempt was."""
    models = {"b": model("openai", make("b", second))}
    project(first, models=models, task={"models": ["a", "b"], "strategy": "as_listed"})
    for words in ("run t hi", "classify t hi --label passed --label failed"):
        Path("summary.md").unlink(missing_ok=True)
        found, out, err = run(*words.split(), "--summary", "summary.md")
        assert (found, out) == (code, ""), err
        assert f"| {kind} | " in Path("summary.md").read_text()


def test_an_error_without_an_attempt_of_its_own_has_the_code_of_the_earlier_ones() -> None:
    tried = (Attempt(model="a", provider_model="p/a", outcome="error", error=ConnectionFailedError("x")),)
    assert code_of(LLMTimeoutError("the deadline has passed", attempts=tried)) == 5
    assert code_of(BudgetExceededError("x", attempts=tried)) == 3
    assert code_of(LLMTimeoutError("x")) == 1


def test_a_summary_is_appended_and_a_full_disk_loses_no_answer(endpoint: Api, run: Run) -> None:
    Path("summary.md").write_text("# Job\n\n")
    for _ in range(2):
        assert run("run", "t", "hi", "--summary", "summary.md")[0] == 0
    assert run("run", "t", "hi", "--model", "god", "--summary", "summary.md")[0] == 2
    head = "| calls | hits | failed | cost |\n| ---: | ---: | ---: | ---: |\n"
    failure = "| failure | calls |\n| --- | ---: |\n| config | 1 |\n\n"
    assert Path("summary.md").read_text() == (
        f"# Job\n\n### `run t`\n\n{head}| 1 | 0 | 0 | $0.000024 |\n\n"
        f"### `run t`\n\n{head}| 1 | 1 | 0 | $0 (saved $0.000024) |\n\n"
        f"### `run t`\n\n{head}| 0 | 0 | 1 | $0 |\n\n{failure}"
    )
    assert len(endpoint.asked) == 1
    code, out, err = run("run", "t", "hi", "--summary", "/dev/full")
    assert (code, out, "cannot write /dev/full: No space left" in err) == (0, '{"result": "passed"}\n', True)
