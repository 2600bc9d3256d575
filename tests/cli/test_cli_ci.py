"""For CI: exit codes by kind of failure, and a summary for the page of the job."""

from __future__ import annotations

from pathlib import Path

import faults
import pytest
from manager_kit import Api, Make, Run

from testronaut_llm import errors
from testronaut_llm.cli import screen
from testronaut_llm.errors import LLMError
from testronaut_llm.records import Attempt


@pytest.mark.parametrize(
    ("words", "reply", "code", "kind"),
    [
        ("run t hi", faults.error("content_filter"), 4, "content_filter"),
        ("run t hi", faults.reset_before_headers, 5, "connection_failed"),
        ("run t hi", faults.error("server_error"), 1, "server_error"),
        ("classify t hi --label passed --label failed", faults.error("content_filter"), 4, "content_filter"),
    ],
)
def test_exit_codes_tell_failures_apart(
    project: Make, run: Run, words: str, reply: faults.Reply, code: int, kind: str
) -> None:
    project(reply)
    found, out, err = run(*words.split(), "--summary", "summary.md")
    assert (found, out) == (code, ""), err
    assert f"| {kind} | " in Path("summary.md").read_text()


def test_a_server_that_does_not_run_is_unreachable(project: Make, run: Run) -> None:
    project(models={"a": {"model": "ollama/qwen3:8b", "api_base": "http://127.0.0.1:9"}})
    code, _, err = run("run", "t", "hi")
    assert (code, "no Ollama answers" in err) == (5, True), err


def failed(*tried: LLMError) -> LLMError:
    made = [Attempt(model="a", provider_model="p/a", outcome="error", error=error) for error in tried]
    return errors.AllModelsFailedError("all failed", last=tried[-1], attempts=tuple(made))


GONE, REFUSED, BROKEN = errors.ConnectionFailedError("x"), errors.ContentFilteredError("x"), errors.ServerError("x")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (failed(GONE, GONE), 5),
        (failed(GONE, BROKEN), 1),
        (failed(BROKEN, GONE), 1),
        (failed(BROKEN, REFUSED), 4),
        (failed(REFUSED, GONE), 1),
        (errors.LLMTimeoutError("the deadline has passed", attempts=failed(GONE).attempts), 5),
        (errors.LLMTimeoutError("x"), 1),
        (errors.BudgetExceededError("x", attempts=failed(GONE).attempts), 3),
        (errors.NoReadyModelError("x"), 2),
        (errors.InvalidRequestError("x"), 2),
        (errors.InvalidRequestError("x", model="a"), 1),
    ],
)
def test_the_code_of_an_error(error: LLMError, code: int) -> None:
    assert screen.code_of(error) == code


@pytest.fixture
def server(project: Make) -> Api:
    return project(faults.good("passed"))


def test_a_summary_is_appended(server: Api, run: Run) -> None:
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
    assert len(server.asked) == 1


def test_a_summary_that_cannot_be_written_stops_before_anything_is_sent(server: Api, run: Run) -> None:
    code, _, err = run("run", "t", "hi", "--summary", "no/summary.md")
    assert (code, "cannot write no/summary.md" in err, server.asked) == (2, True, [])
    code, out, err = run("run", "t", "hi", "--summary", "/dev/full")
    assert (code, out, "cannot write /dev/full: No space left" in err) == (0, "passed\n", True)
