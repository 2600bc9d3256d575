"""One event an attempt and one a call, in the application's log and the file of `log:`, without texts or secrets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import resource
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import faults
import pytest
import structlog
from manager_kit import KEY, MODES, Make, ask, model
from structlog.testing import capture_logs

from testronaut_llm import LLMManager, errors
from testronaut_llm.telemetry.log import NOISY_LOGGERS, EventFile, guard_logs
from testronaut_llm.telemetry.redaction import Redactor
from testronaut_llm.telemetry.telemetry import has_listener

PROMPT, ANSWER = "the secret plan of the prompt", "the secret words of the answer"
pytestmark = pytest.mark.usefixtures("provider_keys")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in file.read_text("utf-8").splitlines()]


def write(path: Path, models: dict[str, Any], log: dict[str, Any] | None) -> None:
    task = {"models": list(models), "strategy": "as_listed", "cache": "off"}
    path.write_text(json.dumps({"models": models, "tasks": {"t": task}, **({"log": log} if log else {})}))


@pytest.fixture
def file(tmp_path: Path, api: Make) -> Path:
    bad = api("bad", faults.raw(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()))
    models = {"bad": model("openai", bad), "good": model("anthropic", api("good", faults.good(ANSWER)))}
    write(tmp_path / "llm.yaml", models, {"file": "logs/calls.jsonl"})
    return tmp_path / "llm.yaml"


@pytest.fixture
def good(api: Make) -> dict[str, Any]:
    return {"good": model("anthropic", api("good", faults.good(f"{ANSWER} {KEY}")))}


@pytest.fixture
def events() -> Iterator[list[Any]]:
    with capture_logs() as captured:
        structlog.configure(processors=structlog.get_config()["processors"])
        yield captured
    structlog.reset_defaults()


@pytest.mark.parametrize("mode", MODES)
async def test_an_event_an_attempt_and_one_a_call(file: Path, events: list[Any], mode: str) -> None:
    async with LLMManager(file) as llm:
        assert not (file.parent / "logs").exists()
        await ask(llm, mode, PROMPT, metadata={"run": 7, "note": f"key {KEY}"})
    first, second, call = events
    assert [one["event"] for one in events] == ["llm_attempt", "llm_attempt", "llm_call"]
    assert all((one["llm.task"], one["metadata.run"]) == ("t", 7) for one in events)
    assert len({one["llm.call_id"] for one in events}) == 1
    assert (first["llm.model"], first["llm.outcome"], first["error.type"]) == ("bad", "error", "authentication")
    assert (second["llm.model"], second["llm.outcome"]) == ("good", "answer")
    assert second["gen_ai.request.model"] == "anthropic/claude-haiku-4-5"
    assert (second["gen_ai.usage.input_tokens"], second["gen_ai.usage.output_tokens"]) == (12, 6)
    assert (second["llm.cost_usd"], second["llm.usage.estimated"]) == ("0.000024", False)
    assert second["llm.request_id"] == "req-fault-1"
    assert (call["llm.model"], call["llm.attempts"], call["llm.cached"]) == ("good", 2, False)
    asked = f"user: {PROMPT}"
    assert (call["llm.prompt.chars"], call["llm.answer.chars"]) == (len(asked), len(ANSWER))
    assert call["llm.prompt.sha256"] == hashlib.sha256(asked.encode()).hexdigest()[:16]
    log = file.parent / "logs" / "calls.jsonl"
    written = lines(log)
    assert [one.pop("time")[-6:] for one in written] == ["+00:00"] * 3
    assert written == [{name: value for name, value in one.items() if name != "log_level"} for one in events]
    assert not [word for word in (PROMPT, ANSWER, KEY) if word in repr(events) + log.read_text()]
    assert (stat.S_IMODE(log.stat().st_mode), stat.S_IMODE(log.parent.stat().st_mode)) == (0o600, 0o700)


def test_words_are_written_only_where_the_file_wants_them_and_secrets_never(
    file: Path, good: dict[str, Any], events: list[Any]
) -> None:
    write(file, good, {"file": "calls.jsonl", "content": True})
    with LLMManager(file) as llm:
        llm.complete("t", f"{PROMPT} {KEY}")
    _, call = lines(file.parent / "calls.jsonl")
    assert call["llm.prompt"].startswith(f"user: {PROMPT} ")
    assert call["llm.answer"].startswith(ANSWER)
    assert KEY not in (file.parent / "calls.jsonl").read_text()
    assert PROMPT not in repr(events)


def test_a_failed_call_is_reported(file: Path, events: list[Any]) -> None:
    """The event has code and status; it has the message only if nothing was sent, since others may quote texts."""
    with LLMManager(file) as llm:
        for prompt, given in (
            (PROMPT, {"model": "bad"}),
            (PROMPT, {"model": "good", "schema": {"type": "object"}}),
            (PROMPT * 10_000, {"model": "good"}),
            (PROMPT, {"cache": "only"}),
        ):
            with pytest.raises(errors.LLMError):
                llm.complete("t", prompt, **given)
    calls = [one for one in events if one["event"] == "llm_call"]
    codes = ["all_models_failed", "all_models_failed", "context_window", "cache_miss"]
    assert [one["error.type"] for one in calls] == codes
    assert [one["llm.attempts"] for one in calls] == [1, 2, 0, 0]
    assert calls[0]["http.response.status_code"] == 401
    assert ["error.message" in one for one in calls] == [False, False, True, True]
    assert not [word for word in (PROMPT, ANSWER, KEY) if word in repr(events)]


async def test_a_cancelled_call_is_reported(file: Path, api: Make, events: list[Any]) -> None:
    write(file, {"good": model("anthropic", api("good", faults.stalled_stream))}, None)
    async with LLMManager(file) as llm:
        with llm.stream("t", PROMPT) as stream:
            next(iter(stream))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm.acomplete("t", PROMPT), 0.3)
    calls = [one for one in events if one["event"] == "llm_call"]
    assert [one["error.type"] for one in calls] == ["left", "left"]
    assert all(one["llm.prompt.chars"] for one in calls)


def test_an_edit_of_the_file_moves_the_log(file: Path, good: dict[str, Any]) -> None:
    counts = []
    with LLMManager(file) as llm:
        for log in ({"file": "one.jsonl"}, {"file": "two.jsonl"}, None):
            write(file, good, log)
            llm.complete("t", PROMPT)
            counts.append([len(lines(found)) for found in sorted(file.parent.glob("*.jsonl"))])
    assert counts == [[2], [2, 2], [2, 2]]


def test_writers_share_a_file_that_may_be_moved_away(tmp_path: Path) -> None:
    """Each line is one write to a newly opened file, so none is lost or torn; system tools may rotate it."""

    def log(who: int) -> None:
        own = EventFile()
        for number in range(100):
            own.write("a.jsonl", tmp_path, {"event": "x" * 200, "who": who, "n": number})
            if (who, number) == (1, 50):
                (tmp_path / "a.jsonl").rename(tmp_path / "a.jsonl.1")

    with ThreadPoolExecutor() as pool:
        list(pool.map(log, range(3)))
    found = lines(tmp_path / "a.jsonl.1") + lines(tmp_path / "a.jsonl")
    assert sorted((one["who"], one["n"]) for one in found) == [(who, n) for who in range(3) for n in range(100)]


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("/dev/full", "No space"), ("/proc/nope/calls.jsonl", "No such"), (".", "directory"), ("a\x00b", "null"),
        ("pipe", "No such device"), ("~/calls.jsonl", "HOME"), ("cut", "bytes were written"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_written_is_one_warning(
    tmp_path: Path, events: list[Any], monkeypatch: pytest.MonkeyPatch, where: str, fault: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("testronaut_llm.support.paths.os.path.expanduser", str)
    (tmp_path / "cut").write_bytes(b"x" * 10)
    one, limit = EventFile(), resource.getrlimit(resource.RLIMIT_FSIZE)
    if where == "cut":
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limit[1]))
    try:
        for _ in range(2):
            one.write(where, tmp_path, {"event": "x"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    (warning,) = events
    assert (warning["event"], fault in warning["error"]) == ("log_not_written", True)


def test_a_strangers_file_has_nothing_written(
    file: Path, good: dict[str, Any], events: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The `log:` of an untrusted file could name any file, so it is ignored with a warning until `trust`."""
    write(file, good, {"file": "../stolen.jsonl"})
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    with LLMManager() as llm:
        assert not llm.config.trusted
        for _ in range(2):
            assert llm.complete("t", PROMPT).text.startswith(ANSWER)
    assert [one["event"] for one in events].count("log_ignored") == 1
    assert not (tmp_path.parent / "stolen.jsonl").exists()


def test_any_metadata_is_written_as_json(file: Path, good: dict[str, Any]) -> None:
    write(file, good, {"file": "calls.jsonl"})
    odd = {"nan": float("nan"), "inf": float("inf"), "huge": 2**64, "path": Path("a"), "inside": ["a", {1: KEY}]}
    with LLMManager(file) as llm:
        assert llm.complete("t", PROMPT, metadata=odd).text.startswith(ANSWER)
    for one in lines(file.parent / "calls.jsonl"):
        assert [one[f"metadata.{name}"] for name in ("nan", "inf", "huge", "path")] == ["nan", "inf", str(2**64), "a"]
        assert one["metadata.inside"] == ["a", "{1: '[redacted]'}"]


def test_a_listener_that_raises_fails_no_call(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    structlog.configure(processors=[Mock(side_effect=RuntimeError(PROMPT))])
    with LLMManager(file) as llm:
        assert llm.complete("t", PROMPT).text == ANSWER
    assert "an event was lost: RuntimeError" in caplog.text
    assert PROMPT not in caplog.text


def test_without_structlog_it_is_pythons_logging(
    file: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with LLMManager(file) as llm:
        llm.complete("t", PROMPT)
        assert capfd.readouterr() == ("", "")
        with caplog.at_level(logging.INFO, "testronaut_llm"):
            llm.complete("t", PROMPT)
    assert [record.name for record in caplog.records] == ["testronaut_llm"] * 3
    assert capfd.readouterr().out == ""


def test_a_structlog_that_is_being_imported_is_no_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may import it during a call; once it is configured, it gets the events."""
    monkeypatch.setitem(sys.modules, "structlog", ModuleType("structlog"))
    assert not has_listener()
    monkeypatch.setitem(sys.modules, "structlog", structlog)
    with capture_logs():
        assert has_listener()


@pytest.mark.parametrize("name", NOISY_LOGGERS[::4])
def test_what_the_libraries_log_holds_no_secret(name: str, caplog: pytest.LogCaptureFixture) -> None:
    redactor = Redactor()
    redactor.add("canarySecretValue")
    guard_logs(redactor.redact)
    library = logging.getLogger(name)
    with caplog.at_level(logging.DEBUG, name):
        library.debug("headers %s", {"x": "canarySecretValue"})
        try:
            raise ValueError("canarySecretValue")
        except ValueError:
            library.exception("failed")
        del redactor
        library.debug("as it is: %s", "canarySecretValue")
    guarded, after = caplog.text.split("as it is: ")
    assert guarded.count("[redacted]") == 3
    assert "canarySecretValue" not in guarded
    assert "canarySecretValue" in after
