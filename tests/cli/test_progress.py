"""Waits are shown on a terminal, never on a pipe and never on stdout."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import faults
import pytest
from fixtures_local import TINY
from manager_kit import Api, Make, Run

from testronaut_llm.cli import progress, screen
from testronaut_llm.local.download import Progress

ASKING, SHOW_CURSOR = "asking a (openai/", "\x1b[?25h"
COMMANDS = {
    "run t hi": '{"result": "passed"}\n',
    "classify t hi --label passed --label failed": "passed\n",
    "compare hi --task t --models a": "agreement: fewer than two answers",
    "run t --batch in.jsonl --out out.jsonl": "",
}


@pytest.fixture
def api(project: Make) -> Api:
    """A slow model in a folder with an llm.yaml, and a file of prompts."""
    server = project(faults.late(0.3, faults.good('{"result": "passed"}')), task={"cache": "off"})
    Path("in.jsonl").write_text('"one"\n"two"\n')
    return server


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_shows_the_model_and_the_seconds_and_a_pipe_nothing(
    run: Run, request: pytest.FixtureRequest, command: str
) -> None:
    code, _, err = run(*command.split())
    assert (code, "asking" in err, "\x1b" in err) == (0, False, False)
    Path("out.jsonl").unlink(missing_ok=True)
    request.getfixturevalue("on_terminal")
    code, out, err = run(*command.split())
    shown, _, after = err.rpartition(SHOW_CURSOR)
    assert (code, COMMANDS[command] in out, "\x1b" in out) == (0, True, False)
    assert (ASKING in shown, ": 0 s" in shown, ASKING in after) == (True, True, False)
    assert progress.area.live is None


@pytest.mark.usefixtures("on_terminal")
def test_a_stream_is_its_own_progress(run: Run, api: Api) -> None:
    """A stream shows no spinner, which would overwrite its pieces."""
    api.plan(faults.dripping(0.0005))
    assert ASKING not in run("run", "t", "hi", "--stream")[2]


@pytest.mark.usefixtures("on_terminal")
def test_an_error_ends_the_display_first(run: Run, api: Api) -> None:
    api.plan(faults.late(0.3, faults.error("authentication")))
    code, out, err = run("run", "t", "hi")
    shown, _, after = err.rpartition(SHOW_CURSOR)
    assert (code, out, ASKING in shown) == (1, "", True)
    assert re.sub(r"\x1b\[\d*[AK]", "", after).strip().startswith("error (all_models_failed)")


@pytest.mark.usefixtures("tiny_offered", "api", "on_terminal")
def test_the_first_load_of_a_local_model_says_so(run: Run) -> None:
    run("models", "pull", f"embedded/{TINY}")
    err = run("run", "t", "hi", "--model", f"embedded/{TINY}", "--max-tokens", "400")[2]
    assert f"loading embedded/{TINY}: 0 s" in err


@pytest.mark.usefixtures("on_terminal")
def test_messages_stand_above_the_display(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.standard_streams(), progress.progress("a model") as report:
        report(Progress(note="pulling", total=2))
        print("a \x07 message", file=sys.stderr)  # noqa: T201 - as another library would
    err = capsys.readouterr().err
    assert err.index("pulling") < err.index("a \\u0007 message\n")
    with progress.progress("x", "seconds"), progress.progress("x", "seconds"):
        pass
    assert "x, 2 requests: " in capsys.readouterr().err
