"""The standard streams: UTF-8, no control codes, a message at each failure; waits are shown on a terminal only."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import faults
import pytest
from fixtures_local import TINY
from manager_kit import Api, Make, Run

from testronaut_llm import LLMManager
from testronaut_llm.cli import screen
from testronaut_llm.local.download import Progress
from testronaut_llm.support.text import visible

NASTY = "\x1b]0;title\x07\x1b[2J\x9b31m\x00\x08\x7f\r\u202eevil\u2066\u200f\u061c\u2028\ud800"
"""OSC, CSI, C1, NUL, BS, DEL, CR, bidirectional controls, a separator and half a character."""
ANSWER = f"a \u2713 mark, tab\tand {NASTY[:-1]} end"
PROGRAM = "from testronaut_llm.cli import main; main()"
Shell = Callable[..., subprocess.CompletedProcess[bytes]]


def controls(text: str) -> set[str]:
    """All characters that a terminal may obey: controls except newline and tab, and changes of text direction."""
    kinds = {one: unicodedata.category(one) for one in set(text) - set("\n\t")}
    return {one for one, kind in kinds.items() if kind in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.fixture
def endpoint(project: Make) -> Api:
    """A server whose answers to two prompts are in the cache: a hit loads no LiteLLM."""
    server = project(faults.good(ANSWER))
    with LLMManager() as llm:
        assert [llm.complete("t", prompt).text for prompt in ("hi", "caf\u00e9?")] == [ANSWER] * 2
    return server.plan(faults.good(ANSWER))


@pytest.fixture
def shell(endpoint: Api, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs `testronaut-llm WORDS` with the streams that bash gives it."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)

    def running(words: str, *, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        line = f"set -o pipefail; {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} {words}"
        command, given = ["bash", "-c", line], {**os.environ, **environment}
        return subprocess.run(command, input=stdin, capture_output=True, env=given, timeout=90, check=False)

    return running


C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ASCII = {"PYTHONIOENCODING": "ascii:strict", "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("locale", [C_LOCALE, ASCII], ids=str)
def test_an_answer_goes_into_a_pipe_unchanged(shell: Shell, locale: dict[str, str]) -> None:
    """It is the UTF-8 text in any locale, or escaped in JSON; a prompt is read the same way, without its mark."""
    done = shell("run t - --cache only", stdin="\ufeffcaf\u00e9?".encode(), **locale)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ANSWER}\n".encode()
    assert controls(done.stderr.decode()) == set()
    said = shell("run t hi --json", **locale).stdout.decode()
    assert (json.loads(said)["text"], controls(said)) == (ANSWER, set())


FULL, CLOSED = b"No space left on device", b"Bad file descriptor"


@pytest.mark.parametrize(
    ("words", "code", "says", "unbuffered"),
    [
        ("run t hi > /dev/full", 1, FULL, ""),
        ("run t hi --stream > /dev/full", 1, FULL, ""),
        ("run t hi >&-", 1, CLOSED, "1"),
        ("--help > /dev/full", 1, FULL, "1"),
        ("--version >&-", 1, CLOSED, ""),
        ("run t hi | true", 0, b"", ""),
        ("run t hi --stream | head -c 1", 0, b"", "1"),
    ],
)
def test_a_stdout_that_takes_nothing_is_one_line(
    shell: Shell, words: str, code: int, says: bytes, unbuffered: str
) -> None:
    done = shell(words, PYTHONUNBUFFERED=unbuffered)
    own = re.compile(rb"Ollama|^from | tokens, ")  # the command's own messages
    told = [line for line in done.stderr.splitlines() if not own.search(line)]
    assert done.returncode == code, done.stderr
    assert len(told) == code, done.stderr
    assert not code or b"cannot write to stdout: " + says in told[0]


def test_what_was_paid_is_not_lost(shell: Shell, endpoint: Api) -> None:
    done = shell("run t new > /dev/full")
    assert (b"the answer is in the cache" in done.stderr, done.stderr.count(b"\n")) == (True, 1)
    assert shell("run t new").stdout == f"{ANSWER}\n".encode()
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("to", ["2> /dev/full", "2>&-", "2> >(true)"])
def test_a_stderr_that_takes_nothing_changes_nothing(shell: Shell, to: str) -> None:
    done = shell(f"run t hi {to}")
    assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n".encode())


def test_a_stdin_that_gives_no_text_is_reported(shell: Shell) -> None:
    closed, latin = shell("run t - <&-"), shell("run t -", stdin=b"one\ncaf\xe9")
    assert (closed.returncode, latin.returncode) == (2, 2)
    assert b"cannot read stdin: it is closed" in closed.stderr
    assert b"stdin:2: is not UTF-8 text: save it as UTF-8 (byte 4 of the line is 0xe9)" in latin.stderr


def in_terminal(*words: str, during: Callable[[subprocess.Popen[bytes]], object] = bool) -> tuple[int, str]:
    """Runs `testronaut-llm WORDS` on a terminal; `during` is called at each piece of its output."""
    main, side = pty.openpty()
    given = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stdin=side, stdout=side, stderr=side, env=given)
    os.close(side)
    shown = b""
    with suppress(OSError):  # its end, on Linux
        while piece := os.read(main, 65536):
            during(process)
            shown += piece
    os.close(main)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(
    "words",
    [
        ["run", "t", "hi"],
        ["run", "t", "hi", "--stream"],
        ["run", f"t{NASTY[1:-1]}".replace("\0", ""), "hi"],
        ["run", "t", "hi", "--model", "\x1b]8;;http://evil\x07a"],
        ["\x1b[31mred"],
        ["compare", "hi", "--models", "a", "--task", "t"],
        ["prices", "update", "/\x1b[2J"],
        ["--help"],
    ],
    ids=lambda words: " ".join(map(visible, words)),
)
def test_nothing_on_a_terminal_holds_a_control_character(words: list[str]) -> None:
    _, shown = in_terminal(*words)
    assert "Traceback" not in shown
    assert shown.strip()
    assert words != ["--help"] or visible("\x1b") not in shown, "nor does it say so of what is ours"
    assert controls(shown) == set()


@pytest.mark.usefixtures("shell")
def test_ctrl_c_ends_the_display(endpoint: Api) -> None:
    endpoint.plan(faults.silent)
    interrupted: list[None] = []

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        if endpoint.requests and not interrupted:  # the display is drawn some times a second
            interrupted.append(process.send_signal(signal.SIGINT))

    code, shown = in_terminal("run", "t", "never answered", during=interrupt)
    last = re.sub(r"\x1b\[\d*[AK]", "", shown.rpartition("\x1b[?25h")[2]).strip()
    assert (code, last.startswith("this run cost $0.0"), "\n" in last) == (130, True, False)


def test_names_of_a_strangers_file_and_errors_of_a_server_are_escaped(shell: Shell, endpoint: Api) -> None:
    body = json.dumps({"error": {"message": f"no {NASTY} and [bold red]markup[/]", "type": "x"}}).encode()
    endpoint.plan(faults.raw(400, body))
    name = "\x1b[2Jm\u202e"
    row = {"model": "openai/\x9bm", "api_base": f"{endpoint.url}/v1", "price": {"input": 1, "output": 1}}
    text = {"models": {name: row}, "tasks": {f"t{name}": {"models": [name]}, "t": {"models": [name]}}}
    Path("llm.yaml").write_text(json.dumps(text))
    done = shell("run t hi")
    assert b"[bold red]markup[/]" in done.stderr
    assert controls(done.stderr.decode()) == set()
    for words in ("check", "config show", "spend"):
        assert controls(in_terminal(*words.split())[1]) == set(), words
    text["models"]["x"] = {"model": "openai/x", f"api{name}": 1}
    Path("llm.yaml").write_text(json.dumps(text))
    assert controls(shell("config show").stderr.decode()) == set()


def test_visible_leaves_text_alone() -> None:
    plain = "a\tb\n\u00e9\u4e2d\u05d0\U0001f468\u200d\U0001f469"
    assert visible(plain) == plain
    assert json.loads(f'"{visible(NASTY)}"') == NASTY
    assert controls(visible(NASTY)) == set()


ASKING, SHOW_CURSOR = "asking a (openai/", "\x1b[?25h"
COMMANDS = {
    "run t hi": '{"result": "passed"}\n',
    "classify t hi --label passed --label failed": "passed\n",
    "compare hi --task t --models a": "agreement: fewer than two answers",
    "run t --batch in.jsonl --out out.jsonl": "",
}


@pytest.fixture
def slow(project: Make) -> Api:
    server = project(faults.late(0.3, faults.good('{"result": "passed"}')), task={"cache": "off"})
    Path("in.jsonl").write_text('"one"\n"two"\n')
    return server


@pytest.mark.usefixtures("slow")
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
    assert screen.area.live is None


@pytest.mark.usefixtures("on_terminal")
def test_a_stream_is_its_own_progress(run: Run, slow: Api) -> None:
    """A stream shows no spinner, which would overwrite its pieces."""
    slow.plan(faults.dripping(0.0005))
    assert ASKING not in run("run", "t", "hi", "--stream")[2]


@pytest.mark.usefixtures("on_terminal")
def test_an_error_ends_the_display_first(run: Run, slow: Api) -> None:
    slow.plan(faults.late(0.3, faults.error("authentication")))
    code, out, err = run("run", "t", "hi")
    shown, _, after = err.rpartition(SHOW_CURSOR)
    assert (code, out, ASKING in shown) == (1, "", True)
    assert re.sub(r"\x1b\[\d*[AK]", "", after).strip().startswith("error (all_models_failed)")


@pytest.mark.usefixtures("tiny_offered", "slow", "on_terminal")
def test_the_first_load_of_a_local_model_says_so(run: Run) -> None:
    run("models", "pull", f"embedded/{TINY}")
    err = run("run", "t", "hi", "--model", f"embedded/{TINY}", "--max-tokens", "400")[2]
    assert f"loading embedded/{TINY}: 0 s" in err


@pytest.mark.usefixtures("on_terminal")
def test_messages_stand_above_the_display(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.standard_streams(), screen.progress("a model") as report:
        report(Progress(note="pulling", total=2))
        print("a \x07 message", file=sys.stderr)  # noqa: T201 - as another library would
    err = capsys.readouterr().err
    assert err.index("pulling") < err.index("a \\u0007 message\n")
    with screen.progress("x", "seconds"), screen.progress("x", "seconds"):
        pass
    assert "x, 2 requests: " in capsys.readouterr().err
