"""Calls to an Ollama server: the requested context, and models that are pulled when needed."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults import silent
from manager_kit import MODES, Make, Run, ask, manager, model
from ollama_kit import Ollama
from pytest_httpserver import HTTPServer

from testronaut_llm import AllModelsFailedError, LLMTimeoutError, NoReadyModelError, OutputTruncatedError

MAIN = "from testronaut_llm.cli import main; main()"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("listed", "shown", "num_ctx", "sent"),
    [
        (2048, None, 1_000_000, 2048), (None, 2048, 1_000_000, 2048), (None, 2048, None, 2048),
        (None, 8192, 1024, 1024), (None, 8192, 4096, 4096), (None, 8192, None, 4096), (None, None, 50_000, 50_000),
    ],
)  # fmt: skip
async def test_the_context_is_what_is_written_and_never_more_than_the_model_was_made_for(
    ollama: Ollama, mode: str, listed: int | None, shown: int | None, num_ctx: int | None, sent: int
) -> None:
    """P07. Without `num_ctx` the context fits the prompt; `/api/show` is asked once, if the list has no context."""
    ollama.listed, ollama.shown = listed, shown
    async with manager({"m": ollama.row(num_ctx=num_ctx)}, max_tokens=100) as llm:
        for _ in range(2):
            assert (await ask(llm, mode, "Say hello.")).text == "Hello."
    assert [body["options"]["num_ctx"] for body in ollama.bodies()] == [sent] * 2
    assert ollama.paths.count("/api/show") == (0 if listed else 1)


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize("mode", MODES)
async def test_a_missing_model_is_pulled_by_the_call_that_needs_it(ollama: Ollama, mode: str) -> None:
    ollama.has, ollama.pace = False, 0.04
    async with manager({"m": ollama.row(auto_pull=True)}, retries=0) as llm:
        first = await ask(llm, mode, "Say hello.", timeout=1)
        second = await ask(llm, mode, "Say hello.")
    assert (first.text, second.text) == ("Hello.", "Hello.")
    assert first.attempts[0].waited > 1
    assert ollama.paths.count("/api/pull") == 1
    assert ollama.paths.index("/api/pull") < ollama.paths.index("/api/chat")


@pytest.mark.parametrize("auto_pull", [False, "ask"])
async def test_without_leave_nothing_is_pulled(ollama: Ollama, auto_pull: Any) -> None:
    """A program cannot be asked, so `ask` acts as `false`; the error names the command."""
    ollama.has = False
    async with manager({"m": ollama.row(auto_pull=auto_pull)}) as llm:
        with pytest.raises(NoReadyModelError, match="testronaut-llm models pull m"):
            await ask(llm, "acomplete", "Say hello.")
    assert set(ollama.paths) == {"/api/tags"}


@pytest.mark.parametrize("mode", MODES)
async def test_a_pull_that_the_deadline_ends_is_named_with_the_command(ollama: Ollama, mode: str) -> None:
    ollama.has = False
    ollama.holds_pull.clear()
    async with manager({"m": ollama.row(auto_pull=True)}) as llm:
        with pytest.raises(LLMTimeoutError, match=r"still being pulled.*llm models pull m;") as caught:
            await ask(llm, mode, "Say hello.", deadline=0.3)
        assert ollama.pulled == 0  # the call ended while the server still said nothing
        ollama.holds_pull.set()
    assert [attempt.model for attempt in caught.value.attempts] == ["m"]
    assert "/api/chat" not in ollama.paths


async def test_calls_at_once_wait_for_one_pull_and_its_events_are_reported(
    ollama: Ollama, caplog: pytest.LogCaptureFixture
) -> None:
    ollama.has, ollama.pace = False, 0.01
    caplog.set_level("INFO", "testronaut_llm")
    async with manager({"m": ollama.row(auto_pull=True)}) as llm:
        answers = await asyncio.gather(*(ask(llm, "acomplete", f"Say {number}.") for number in range(4)))
    assert [answer.text for answer in answers] == ["Hello."] * 4
    assert ollama.paths.count("/api/pull") == 1
    told = [line for line in caplog.messages if "model_pull" in line]
    assert ["model_pull_ended" in line for line in told] == [False, True]
    assert "llm.outcome='pulled'" in told[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("remote_host", "digest", "said"),
    [("", "0123456789", "llm.yaml pins 0123456789"), ("https://ollama.com:443", None, "does not run here")],
)
async def test_what_was_pulled_is_looked_at_before_a_prompt_is_sent(
    ollama: Ollama, mode: str, remote_host: str, digest: str | None, said: str
) -> None:
    ollama.has, ollama.remote_host = False, remote_host
    async with manager({"m": ollama.row(auto_pull=True, digest=digest)}) as llm:
        with pytest.raises(AllModelsFailedError, match=said):
            await ask(llm, mode, "Say hello.")
        with pytest.raises(NoReadyModelError):
            await ask(llm, mode, "Say hello.")
    assert ollama.paths.count("/api/pull") == 1
    assert "/api/chat" not in ollama.paths


def a_file(folder: Path, ollama: Ollama, auto_pull: Any) -> str:
    ollama.has, file = False, folder / "llm.yaml"
    file.write_text(json.dumps({"models": {"m": ollama.row(auto_pull=auto_pull)}, "tasks": {"t": {"models": "m"}}}))
    return str(file)


def test_a_pull_by_run_shows_its_progress(run: Run, ollama: Ollama, tmp_path: Path) -> None:
    code, out, err = run("run", "t", "Say hello.", "--config", a_file(tmp_path, ollama, auto_pull=True))
    assert (code, out, "pulling" in err) == (0, "Hello.\n", True)


@pytest.mark.parametrize(("says", "pulls", "code"), [("y", 1, 0), ("n", 0, 2)])
def test_a_person_at_a_terminal_is_asked(ollama: Ollama, tmp_path: Path, says: str, pulls: int, code: int) -> None:
    outer, inner = pty.openpty()
    os.write(outer, f"{says}\n".encode())
    command = [sys.executable, "-c", MAIN, "run", "t", "Say hello.", "--config", a_file(tmp_path, ollama, "ask")]
    process = subprocess.Popen(command, stdin=inner, stderr=inner, stdout=subprocess.PIPE, text=True)
    os.close(inner)
    with suppress(OSError):  # the end of a terminal, on Linux
        while os.read(outer, 65536):  # a terminal that nobody reads stops the process
            pass
    out, _ = process.communicate(timeout=100)
    os.close(outer)
    assert (process.returncode, out) == (code, "Hello.\n" if pulls else "")
    assert ollama.paths.count("/api/pull") == pulls


async def test_calls_with_other_caps_do_not_load_a_model_again(ollama: Ollama) -> None:
    ollama.listed = 32768
    async with manager({"m": ollama.row(extra={"num_thread": 2})}) as llm:
        llm.warm_up("m")
        for mode, cap in zip(MODES, (24, 4096, 24, 24), strict=True):
            await ask(llm, mode, "Say hello.", max_tokens=cap)
    assert ollama.loads == [{"num_ctx": 6144, "num_thread": 2}]


@pytest.mark.parametrize(
    ("loaded", "caps", "sent"),
    [(None, (24, 12000, 24), [4096, 12288, 12288]), (4608, (2048,), [4608]), (2048, (2048,), [4096])],
)
async def test_a_context_grows_and_never_shrinks(
    ollama: Ollama, loaded: int | None, caps: tuple[int, ...], sent: list[int]
) -> None:
    ollama.listed = 32768
    if loaded:
        ollama.load(num_ctx=loaded)
    async with manager({"m": ollama.row()}, max_tokens=24) as llm:
        for cap in caps:
            await ask(llm, "complete", "Say hello.", max_tokens=cap)
    assert [body["options"]["num_ctx"] for body in ollama.bodies()] == sent
    assert ollama.paths.count("/api/ps") == 1


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_fills_the_window_is_truncated(ollama: Ollama, mode: str) -> None:
    ollama.answer = lambda _: {"done_reason": "length", "prompt_eval_count": 400, "eval_count": 112}
    async with manager({"m": ollama.row(num_ctx=512)}, max_tokens=200) as llm:
        with pytest.raises(OutputTruncatedError, match=r"filled its window of 512 tokens; raise `num_ctx`"):
            await ask(llm, mode, "Say hello. " * 40)
    assert [(body["shift"], body["truncate"]) for body in ollama.bodies()] == [(False, False)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("listed", [True, False])
async def test_a_model_that_cannot_think_is_not_asked_to(ollama: Ollama, mode: str, listed: bool) -> None:
    ollama.tagged = ["completion"] if listed else None
    async with manager({"m": ollama.row(reasoning="low")}) as llm:
        answer = await ask(llm, mode, "Say hello.")
        said = [answer.attempts[0].dropped_params, llm.route("t", "hi").candidates[0].dropped_params]
        assert [*said, llm.dropped_params("m")] == [("reasoning",)] * 3
    assert [body.get("think") for body in ollama.bodies()] == [None]


@pytest.mark.parametrize("mode", MODES)
async def test_where_only_the_answer_tells_the_next_attempt_asks_without(ollama: Ollama, mode: str) -> None:
    ollama.shown, ollama.capabilities = None, ["completion"]
    async with manager({"m": ollama.row(reasoning="high")}, retries=0) as llm:
        first, second = await ask(llm, mode, "Say hello."), await ask(llm, mode, "Say more.")
    assert [attempt.dropped_params for attempt in first.attempts] == [(), ("reasoning",)]
    assert len(second.attempts) == 1
    assert [body.get("think") for body in ollama.bodies()] == ["high", None, None]


@pytest.mark.parametrize(("level", "sent"), [("off", False), ("medium", "medium"), (None, None)])
async def test_a_model_that_thinks_gets_the_amount_to_think(ollama: Ollama, level: str | None, sent: Any) -> None:
    ollama.tagged = ollama.capabilities = ["completion", "thinking"]
    async with manager({"m": ollama.row(reasoning=level)}) as llm:
        answer = await ask(llm, "complete", "Say hello.")
        assert answer.attempts[0].dropped_params == llm.dropped_params("m") == ()
    assert [body.get("think") for body in ollama.bodies()] == [sent]


NO_ROOM = "all 64 tokens went into reasoning; set `reasoning: off` for the model, or raise `max_tokens`"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("message", "schema", "lenient", "said"),
    [
        ({"content": "", "thinking": "Hm."}, None, True, NO_ROOM),
        ({"content": "", "thinking": "Hm."}, None, False, NO_ROOM),
        ({"content": "12"}, {}, True, "cut at max_tokens"),
        ({"content": '{"a": 1'}, {}, True, "cut at max_tokens"),
    ],
    ids=["thoughts", "thoughts, strict", "valid JSON", "half of an object"],
)
async def test_a_cut_answer_is_never_taken_for_a_whole_one(
    ollama: Ollama, mode: str, message: dict[str, str], schema: Any, lenient: bool, said: str
) -> None:
    ollama.answer = lambda body: {
        "message": message, "done_reason": "length", "eval_count": body["options"]["num_predict"],
    }  # fmt: skip
    async with manager({"m": ollama.row()}, max_tokens=32, allow_truncated=lenient) as llm:
        with pytest.raises(OutputTruncatedError) as caught:
            await ask(llm, mode, "How many?", **({} if schema is None else {"schema": schema}))
    assert (said in str(caught.value), "allow_truncated" in str(caught.value)) == (True, False)
    assert caught.value.text == message["content"]
    assert all(len(body["messages"]) == 1 for body in ollama.bodies())  # it is not repaired


@pytest.mark.parametrize(("num_ctx", "sent"), [(8192, 8192), (None, 6144)])
async def test_an_embedding_model_gets_its_window(ollama: Ollama, num_ctx: int | None, sent: int) -> None:
    """It is in `options`, and `warm_up` loads by `/api/embed`, since `/api/generate` refuses such a model."""
    ollama.capabilities, ollama.tagged = ["embedding"], ["completion"]
    async with manager({"m": ollama.row(num_ctx=num_ctx, keep_alive="10m")}) as llm:
        llm.warm_up("m")
        vectors = [llm.embed("t", ["a", "bb"]).vectors, (await llm.aembed("t", ["a", "bb"])).vectors]
    assert [[vector[0] for vector in found] for found in vectors] == [[1.0, 2.0]] * 2
    assert ollama.loads == [{"num_ctx": sent}]
    load, *calls = ollama.bodies("/api/embed")
    assert load == {"model": "small:1b", "input": [], "keep_alive": "10m", "options": {"num_ctx": sent}}
    assert calls == [{**load, "input": ["a", "bb"], "truncate": False}] * 2


async def test_a_long_text_gets_a_window_that_holds_it(ollama: Ollama) -> None:
    ollama.listed = 32768
    async with manager({"m": ollama.row()}) as llm:
        llm.embed("t", ["word " * 2000] * 8)
        llm.embed("t", ["word " * 9000])
    first, second = (body["options"]["num_ctx"] for body in ollama.bodies("/api/embed"))
    assert first == 6144
    assert second > 9000


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("local", [True, False])
async def test_a_time_out_while_the_model_loads_says_so_and_is_not_tried_again(
    api: Make, mode: str, local: bool
) -> None:
    """Each try would restart the load, also on a server of the local network."""
    server = api("loading", silent)
    async with manager({"m": model("ollama", server, local=local)}) as llm:
        with pytest.raises(AllModelsFailedError, match=r"may still have been loading.*llm.warm_up\('m'\)"):
            await ask(llm, mode, "Say hello.", timeout=0.3)
    assert len(server.asked) == 1


async def test_a_server_that_ends_between_two_calls_is_named_with_the_command() -> None:
    with HTTPServer() as server:
        ollama = Ollama(server)
        async with manager({"m": ollama.row()}, retries=0) as llm:
            await ask(llm, "complete", "Say hello.")
            server.stop()
            for mode in MODES:
                with pytest.raises(AllModelsFailedError, match=f"is `ollama serve` running at {ollama.url}"):
                    await ask(llm, mode, "Say hello.")


def test_models_of_the_server_are_listed_and_removed(ollama: Ollama, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    ollama.listed = 8192
    line = next(line for line in run("models", "list")[1].splitlines() if line.startswith("ollama/"))
    assert line == f"ollama/small:1b\t1\tloaded until 2026-11-23T05:14\t\t{ollama.digest[:12]}, 8,192 tokens"
    listed = json.loads(run("models", "list", "--json")[1])
    assert (listed["ollama"][0]["digest"], listed["loaded"][0]["name"]) == (ollama.digest, "small:1b")
    assert run("models", "remove", "ollama/small:1b")[0] == 0
    code, _, err = run("models", "remove", "ollama/small:1b")
    assert (code, "Ollama has no model 'small:1b'" in err) == (1, True)
