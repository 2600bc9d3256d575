"""Whole calls to an Ollama server: the context that is asked for, and models that are fetched when they are needed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from manager_kit import ask, manager
from ollama_kit import Ollama

from testronaut_llm import AllModelsFailedError, LocalModelError, NoReadyModelError

MAIN = "from testronaut_llm.cli import main; main()"
MODES = ("complete", "acomplete", "stream", "astream")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("listed", "shown"), [(2048, None), (None, 2048)])
async def test_no_context_is_larger_than_the_model_was_made_for(
    ollama: Ollama, mode: str, listed: int | None, shown: int | None
) -> None:
    """`num_ctx` is cut to it (P07), as is a context sized to the prompt; `/api/show` is asked once, if at all."""
    ollama.listed, ollama.shown = listed, shown
    rows = {"m": ollama.row(num_ctx=1_000_000), "sized": ollama.row()}
    async with manager(rows, max_tokens=100) as llm:
        for name in ("m", "sized", "m"):
            await ask(llm, mode, "Say hello.", model=name)
        route = llm.route("t", "Say hello.", model="m")
    assert [body["options"]["num_ctx"] for body in ollama.bodies()] == [2048] * 3
    assert route.candidates[0].context_window == 2048
    assert ollama.paths.count("/api/show") == (0 if listed else 1)


@pytest.mark.parametrize(("num_ctx", "sent"), [(1024, 1024), (4096, 4096), (None, 4096)])
async def test_a_context_that_the_model_has_is_sent_as_it_is_written(
    ollama: Ollama, num_ctx: int | None, sent: int
) -> None:
    """A smaller one stays small."""
    async with manager({"m": ollama.row(num_ctx=num_ctx)}, max_tokens=100) as llm:
        await ask(llm, "complete", "Say hello.")
    assert [body["options"]["num_ctx"] for body in ollama.bodies()] == [sent]


async def test_a_server_that_does_not_say_gets_what_is_written(ollama: Ollama) -> None:
    """`/api/show` answers nothing of use: the call goes on."""
    ollama.shown = None
    async with manager({"m": ollama.row(num_ctx=50_000)}, max_tokens=100) as llm:
        assert (await ask(llm, "complete", "Say hello.")).text == "Hello."
    assert [body["options"]["num_ctx"] for body in ollama.bodies()] == [50_000]


@pytest.mark.parametrize("mode", MODES)
async def test_a_missing_model_is_pulled_by_the_call_that_needs_it(ollama: Ollama, mode: str) -> None:
    """`auto_pull: true`: one pull, before the first attempt."""
    ollama.has = False
    async with manager({"m": ollama.row(auto_pull=True)}) as llm:
        for _ in range(2):
            assert (await ask(llm, mode, "Say hello.")).text == "Hello."
    assert ollama.paths.count("/api/pull") == 1
    assert ollama.paths.index("/api/pull") < ollama.paths.index("/api/chat")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("auto_pull", [False, "ask"])
async def test_without_leave_nothing_is_pulled(ollama: Ollama, mode: str, auto_pull: Any) -> None:
    """A program cannot be asked, so `ask` is `false` there; the error names the command."""
    ollama.has = False
    async with manager({"m": ollama.row(auto_pull=auto_pull)}) as llm:
        with pytest.raises(NoReadyModelError, match="ollama pull small:1b"):
            await ask(llm, mode, "Say hello.")
    assert set(ollama.paths) == {"/api/tags"}


@pytest.mark.parametrize("mode", ["complete", "acomplete"])
async def test_a_pull_ends_with_the_time_of_its_attempt(ollama: Ollama, mode: str) -> None:
    """What has come is the server's to keep; the call goes on to its next model, or fails in time."""
    ollama.has, ollama.pace = False, 0.3
    async with manager({"m": ollama.row(auto_pull=True)}, retries=0) as llm:
        with pytest.raises(AllModelsFailedError) as caught:
            await ask(llm, mode, "Say hello.", timeout=0.8)
    assert len(caught.value.attempts) == 1
    assert "/api/chat" not in ollama.paths


def test_a_pull_that_takes_too_long_says_how_to_go_on(ollama: Ollama) -> None:
    """The error holds the command."""
    from testronaut_llm.local.ollama_pull import pull_in_time
    from testronaut_llm.model_config import ModelConfig

    ollama.pace = 0.2
    row = ModelConfig(alias="m", model="ollama/small:1b", api_base=ollama.url)
    with pytest.raises(LocalModelError, match="ollama pull small:1b"):
        pull_in_time(row, 0.5)


@pytest.mark.parametrize(("says", "pulls", "code"), [("y", 1, 0), ("n", 0, 2)])
def test_a_person_at_a_terminal_is_asked(ollama: Ollama, tmp_path: Path, says: str, pulls: int, code: int) -> None:
    """`auto_pull: ask`: `run` asks before it fetches."""
    ollama.has = False
    file = tmp_path / "llm.yaml"
    file.write_text(json.dumps({"models": {"m": ollama.row(auto_pull="ask")}, "tasks": {"t": {"models": "m"}}}))
    outer, inner = pty.openpty()
    command = [sys.executable, "-c", MAIN, "run", "t", "Say hello.", "--config", str(file)]
    run = subprocess.Popen(command, stdin=inner, stderr=inner, stdout=subprocess.PIPE, text=True)
    os.close(inner)
    os.write(outer, f"{says}\n".encode())
    out, _ = run.communicate(timeout=100)
    os.close(outer)
    assert (run.returncode, out) == (code, "Hello.\n" if pulls else "")
    assert ollama.paths.count("/api/pull") == pulls


def test_models_of_the_server_are_listed_and_removed(
    ollama: Ollama, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With their digest, size, context, and until when they are loaded; a second removal says that there is none."""
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    ollama.listed = 8192
    assert command("models", "list") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ollama/"))
    assert line == f"ollama/small:1b\t1\tloaded until 2026-11-23T05:14\t{ollama.digest[:12]}, 8,192 tokens"
    assert command("models", "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["ollama"][0]["digest"], listed["loaded"][0]["name"]) == (ollama.digest, "small:1b")
    assert [command("models", "remove", "ollama/small:1b") for _ in range(2)] == [0, 1]
    assert "Ollama has no model 'small:1b'" in capsys.readouterr().err


def command(*arguments: str) -> int:
    """The exit code of a command of this process."""
    from testronaut_llm.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["testronaut-llm", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0
