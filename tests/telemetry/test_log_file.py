"""`log:` of llm.yaml: a file of JSON lines that is whole, rotated, shared, and says no more than it may."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
import structlog
from manager_kit import KEY, Api, ask, model
from structlog.testing import capture_logs

from testronaut_llm import LLMManager, errors
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.sections import LogConfig
from testronaut_llm.telemetry.log_file import EventFile

MODES = ("complete", "acomplete", "stream", "astream")
PROMPT, ANSWER = "the secret plan of the prompt", "the secret words of the answer"
Make = Callable[..., Api]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture
def file(tmp_path: Path, api: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An llm.yaml that logs beside itself, with a model that fails and one that answers."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    bad = api("bad", faults.raw(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()))
    good = api("good", faults.good(ANSWER))
    models = {"bad": model("openai", bad), "good": model("anthropic", good)}
    write(tmp_path / "llm.yaml", models, {"file": "logs/calls.jsonl"})
    return tmp_path / "llm.yaml"


def write(path: Path, models: dict[str, Any], log: dict[str, Any] | None) -> None:
    task = {"models": list(models), "strategy": "as_listed", "cache": "off"}
    path.write_text(json.dumps({"models": models, "tasks": {"t": task}, **({"log": log} if log else {})}))


@pytest.mark.parametrize("mode", MODES)
async def test_a_line_an_attempt_and_one_a_call(file: Path, mode: str) -> None:
    """With times, what it cost and what it was for; nothing of the words, nothing of the key; for the owner's eyes."""
    async with LLMManager(file) as llm:
        assert not (file.parent / "logs").exists()
        await ask(llm, mode, PROMPT, metadata={"run": 7})
    log = file.parent / "logs" / "calls.jsonl"
    first, second, call = lines(log)
    assert [one["event"] for one in (first, second, call)] == ["llm_attempt", "llm_attempt", "llm_call"]
    assert (first["error.type"], second["llm.outcome"], call["llm.model"]) == ("authentication", "answer", "good")
    assert all(one["time"].endswith("+00:00") and one["metadata.run"] == 7 for one in (first, second, call))
    asked = f"user: {PROMPT}"
    assert call["llm.prompt.chars"] == len(asked)
    assert call["llm.prompt.sha256"] == hashlib.sha256(asked.encode()).hexdigest()[:16]
    assert call["llm.answer.chars"] == len(ANSWER)
    text = log.read_text()
    assert not [word for word in (PROMPT, ANSWER, KEY) if word in text]
    assert (stat.S_IMODE(log.stat().st_mode), stat.S_IMODE(log.parent.stat().st_mode)) == (0o600, 0o700)


def test_words_are_written_where_the_file_wants_them_and_secrets_never(file: Path, api: Make) -> None:
    """`content: true`; a key that found its way into a prompt is blotted out."""
    models = {"good": model("anthropic", api("good", faults.good(f"{ANSWER} {KEY}")))}
    write(file, models, {"file": "calls.jsonl", "content": True})
    with LLMManager(file) as llm, capture_logs() as elsewhere:
        llm.complete("t", f"{PROMPT} {KEY}")
    _, call = lines(file.parent / "calls.jsonl")
    assert call["llm.prompt"].startswith(f"user: {PROMPT} ")
    assert call["llm.answer"].startswith(ANSWER)
    assert KEY not in (file.parent / "calls.jsonl").read_text()
    assert PROMPT not in str(elsewhere)


def test_a_failed_call_is_told_too(file: Path, api: Make) -> None:
    """Whether it was sent or not."""
    write(file, {"bad": model("openai", api("bad", faults.error("server_error")))}, {"file": "calls.jsonl"})
    with LLMManager(file) as llm:
        with pytest.raises(errors.AllModelsFailedError):
            llm.complete("t", PROMPT)
        with pytest.raises(errors.CacheMissError):
            llm.complete("t", PROMPT, cache="only")
    *attempts, failed, missed = lines(file.parent / "calls.jsonl")
    assert len(attempts) == 3
    assert (failed["error.type"], failed["llm.attempts"]) == ("all_models_failed", 3)
    assert missed["error.type"] == "cache_miss"
    assert "error.message" in missed
    assert "error.message" not in failed


def test_a_call_that_was_left_is_told_too(file: Path, api: Make) -> None:
    """A stream that nobody read to its end, and a cancelled task: one event a call, whatever became of it."""
    write(file, {"good": model("anthropic", api("good", faults.stalled_stream))}, {"file": "calls.jsonl"})

    async def cancelled(llm: LLMManager) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm.acomplete("t", PROMPT), 0.3)

    with LLMManager(file) as llm:
        with llm.stream("t", PROMPT) as stream:
            next(iter(stream))
        asyncio.run(cancelled(llm))
    calls = [one for one in lines(file.parent / "calls.jsonl") if one["event"] == "llm_call"]
    assert [one["error.type"] for one in calls] == ["left", "left"]
    assert all(one["llm.prompt.chars"] for one in calls)


def test_an_edit_of_the_file_moves_the_log(file: Path, api: Make) -> None:
    """At the next call; and taken out, it ends."""
    models = {"good": model("anthropic", api("good", faults.good(ANSWER)))}
    counts = []
    with LLMManager(file) as llm:
        for log in ({"file": "one.jsonl"}, {"file": "two.jsonl"}, None):
            write(file, models, log)
            llm.complete("t", PROMPT)
            counts.append([len(lines(found)) for found in sorted(file.parent.glob("*.jsonl"))])
    assert counts == [[2], [2, 2], [2, 2]]


def test_a_file_that_a_tool_moved_away_is_made_anew(tmp_path: Path) -> None:
    """Rotation is left to the system's tools: whatever the size, lines are appended to the file of that name."""
    config = LLMConfig(tasks={"t": {"models": ["openai/m"]}})  # type: ignore[dict-item]
    log, settings = EventFile(), LogConfig(file=str(tmp_path / "a.jsonl"), max_bytes=10, backups=0)
    for number in range(4):
        log.write(config, settings, {"event": "x" * 30, "n": number})
        if number == 1:
            (tmp_path / "a.jsonl").rename(tmp_path / "a.jsonl.1")
    log.close()
    assert [[one["n"] for one in lines(tmp_path / name)] for name in ("a.jsonl.1", "a.jsonl")] == [[0, 1], [2, 3]]
    assert len(list(tmp_path.iterdir())) == 2


WRITER = """
import sys
from testronaut_llm.config.sections import LogConfig
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.telemetry.log_file import EventFile
config, log = LLMConfig(tasks={"t": {"models": ["openai/m"]}}), EventFile()
settings = LogConfig(file=sys.argv[1])
for number in range(300):
    log.write(config, settings, {"event": "x" * 200, "who": sys.argv[2], "n": number})
"""


def test_processes_share_a_file_without_losing_a_line(tmp_path: Path) -> None:
    """Three of them, at once."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "a.jsonl"), str(n)]) for n in range(3)]
    assert [one.wait(100) for one in writers] == [0, 0, 0]
    found = lines(tmp_path / "a.jsonl")
    assert sorted((one["who"], one["n"]) for one in found) == [(str(w), n) for w in range(3) for n in range(300)]


@pytest.mark.parametrize("where", ["/dev/full", "/proc/nope/calls.jsonl", ".", "a\x00b", "pipe"])
def test_a_file_that_cannot_be_written_fails_no_call(file: Path, api: Make, where: str) -> None:
    """One warning for all of them; a pipe that nobody reads is not waited for."""
    os.mkfifo(file.parent / "pipe")
    write(file, {"good": model("anthropic", api("good", faults.good(ANSWER)))}, {"file": where})
    with capture_logs() as events, LLMManager(file) as llm:
        assert llm.complete("t", PROMPT).text == ANSWER
        assert llm.complete("t", PROMPT).text == ANSWER
    assert [one["event"] for one in events].count("log_not_written") == 1


def test_a_strangers_file_has_nothing_written(
    file: Path, api: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Found by walking upwards, it could name any file of the user's; until `trust`, it is told and ignored."""
    write(file, {"good": model("anthropic", api("good", faults.good(ANSWER)))}, {"file": "../stolen.jsonl"})
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    with capture_logs() as events, LLMManager() as llm:
        assert not llm.config.trusted
        for _ in range(2):
            assert llm.complete("t", PROMPT).text == ANSWER
    assert [one["event"] for one in events].count("log_ignored") == 1
    assert not (tmp_path.parent / "stolen.jsonl").exists()


class Odd:
    """What an application may put into `metadata`."""

    def __repr__(self) -> str:
        raise RuntimeError


ODD = {"NaN": float("nan"), "infinite": float("inf"), "huge": 10**5000, "no repr": Odd(), "inside": ["a", Odd()]}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_any_metadata_is_told_in_json(file: Path, api: Make, value: Any) -> None:
    """In a reader's JSON, which has no NaN."""
    write(file, {"good": model("anthropic", api("good", faults.good(ANSWER)))}, {"file": "calls.jsonl"})
    with LLMManager(file) as llm:
        assert llm.complete("t", PROMPT, metadata={"x": value}).text == ANSWER
    found = (file.parent / "calls.jsonl").read_text().splitlines()
    assert all("metadata.x" in json.loads(line, parse_constant=pytest.fail) for line in found)
    assert len(found) == 2


def test_a_listener_that_raises_fails_no_call(file: Path, api: Make) -> None:
    """A processor of the application's; the answer is worth more than its event."""

    def broken(*_: object) -> Any:
        raise RuntimeError

    write(file, {"good": model("anthropic", api("good", faults.good(ANSWER)))}, None)
    structlog.configure(processors=[broken])
    with LLMManager(file) as llm:
        assert llm.complete("t", PROMPT).text == ANSWER


def test_what_a_full_disk_tears_off_spoils_no_other_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The torn line ends where it was torn, and the next one is whole."""
    config = LLMConfig(tasks={"t": {"models": ["openai/m"]}})  # type: ignore[dict-item]
    log, settings, room = EventFile(), LogConfig(file=str(tmp_path / "a.jsonl")), [20]
    really = os.write

    def full(handle: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(handle, data[: room.pop()])

    log.write(config, settings, {"event": "before"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(2):
            log.write(config, settings, {"event": "torn"})
    log.write(config, settings, {"event": "after"})
    log.close()
    first, torn, last = (tmp_path / "a.jsonl").read_text().splitlines()
    assert (json.loads(first)["event"], json.loads(last)["event"]) == ("before", "after")
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(torn)
