"""Waits are shown on a terminal, never on a pipe and never on stdout."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
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


def words_of(text: str) -> str:
    """Returns the text without the codes that move the cursor and erase the line."""
    return re.sub(r"\x1b\[\d*[AK]", "", text).strip()


@pytest.mark.usefixtures("api", "on_terminal")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_shows_the_model_and_the_seconds(run: Run, command: str) -> None:
    code, out, err = run(*command.split())
    shown, _, after = err.rpartition(SHOW_CURSOR)
    assert (code, COMMANDS[command] in out, "\x1b" in out) == (0, True, False)
    assert ASKING in shown
    assert ": 0 s" in shown
    assert ASKING not in after
    assert progress.area.live is None


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_shows_no_wait(run: Run, command: str) -> None:
    """A pipe gets only messages; a spinner would fill a log."""
    code, _, err = run(*command.split())
    assert (code, "asking" in err, "\x1b" in err) == (0, False, False)


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
    assert words_of(after).startswith("error (all_models_failed)")


def test_ctrl_c_ends_the_display(api: Api) -> None:
    api.plan(faults.silent)
    outer, inner = pty.openpty()
    code = "from testronaut_llm.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "run", "t", "hi"], stderr=inner, stdout=inner)
    os.close(inner)
    shown, sent = b"", False
    while True:
        try:
            piece = os.read(outer, 65536)
        except OSError:  # the end of a terminal, on Linux
            break
        if api.asked and not sent:  # the display is drawn some times a second
            process.send_signal(signal.SIGINT)
            sent = True
        shown += piece
    os.close(outer)
    assert process.wait(60) == 130
    last = words_of(shown.decode().rpartition(SHOW_CURSOR)[2])
    assert last.startswith("this run cost $0.0")
    assert "\n" not in last


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
