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
from unittest.mock import Mock, patch

import faults
import pytest
import structlog
from manager_kit import KEY, MODES, Make, ask, manager, model, program
from structlog.testing import capture_logs

from testronaut_llm import LLMManager, errors
from testronaut_llm.telemetry.log import NOISY_LOGGERS, EventFile, guard_logs, logger
from testronaut_llm.telemetry.redaction import Redactor
from testronaut_llm.telemetry.telemetry import has_listener

PROMPT, ANSWER = "the secret plan of the prompt", f"the secret words of the answer, {KEY}"
pytestmark = pytest.mark.usefixtures("provider_keys")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture
def file(tmp_path: Path, api: Make) -> Path:
    good = api("good", faults.good(ANSWER))
    bad = api("bad", faults.raw(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()))
    models = {"bad": model("openai", bad), "good": model("anthropic", good)}
    task, log = {"models": [*models], "strategy": "as_listed", "cache": "off"}, {"file": "logs/calls.jsonl"}
    models["gone"] = model("ollama", good, model="ollama/no-such")
    (tmp_path / "llm.yaml").write_text(json.dumps({"models": models, "tasks": {"t": task}, "log": log}))
    return tmp_path / "llm.yaml"


def change_log(file: Path, log: dict[str, Any] | None) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "log": log}))


@pytest.fixture
def events() -> Iterator[list[Any]]:
    with capture_logs() as captured:
        structlog.configure(processors=structlog.get_config()["processors"])
        yield captured


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


def test_words_where_the_file_wants_them_and_any_metadata_are_written_without_secrets(
    file: Path, events: list[Any]
) -> None:
    change_log(file, {"file": "calls.jsonl", "content": True})
    odd = {"nan": float("nan"), "inf": float("inf"), "huge": 2**64, "path": Path("a"), "inside": ["a", {1: KEY}]}
    with LLMManager(file) as llm:
        llm.complete("t", PROMPT, metadata=odd)
    *_, call = written = lines(file.parent / "calls.jsonl")
    assert (call["llm.prompt"], call["llm.answer"]) == (f"user: {PROMPT}", ANSWER.replace(KEY, "[redacted]"))
    for one in written:
        assert [one[f"metadata.{name}"] for name in ("nan", "inf", "huge", "path")] == ["nan", "inf", str(2**64), "a"]
        assert one["metadata.inside"] == ["a", "{1: '[redacted]'}"]
    assert KEY not in (file.parent / "calls.jsonl").read_text()
    assert PROMPT not in repr(events)


def test_a_failed_call_is_reported(file: Path, events: list[Any]) -> None:
    """The event has code and status; it has the message only if nothing was sent, since others may quote texts."""
    with LLMManager(file) as llm:
        for given in ({"model": "bad"}, {"model": "good", "schema": {"type": "object"}}, {"cache": "only"}):
            with pytest.raises(errors.LLMError):
                llm.complete("t", PROMPT, **given)
    calls = [one for one in events if one["event"] == "llm_call"]
    assert [one["error.type"] for one in calls] == ["all_models_failed", "all_models_failed", "cache_miss"]
    assert [one["llm.attempts"] for one in calls] == [1, 2, 0]
    assert [one["llm.cost_usd"] for one in calls] == ["0", "0.000048", "0"]
    assert all(one["llm.latency_s"] >= 0 for one in calls)
    assert calls[0]["http.response.status_code"] == 401
    assert ["error.message" in one for one in calls] == [False, False, True]
    assert not [word for word in (PROMPT, ANSWER, KEY) if word in repr(events)]


def test_a_call_that_the_callers_own_code_ends_is_reported(file: Path, events: list[Any]) -> None:
    with LLMManager(file) as llm, pytest.raises(ZeroDivisionError):
        llm.complete("t", PROMPT, accept=lambda _: 1 / 0 > 0)
    assert [(one["event"], one.get("error.type")) for one in events][1:] == [
        ("llm_attempt", None),
        ("llm_call", "ZeroDivisionError"),
    ]


async def test_a_cancelled_call_is_reported(api: Make, events: list[Any]) -> None:
    async with manager({"m": model("anthropic", api("stalled", faults.stalled_stream))}) as llm:
        with llm.stream("t", PROMPT) as stream:
            next(iter(stream))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm.acomplete("t", PROMPT), 0.3)
    calls = [one for one in events if one["event"] == "llm_call"]
    assert [(one["error.type"], one["llm.prompt.chars"]) for one in calls] == [("left", len(f"user: {PROMPT}"))] * 2


def test_an_edit_of_the_file_moves_the_log(file: Path) -> None:
    counts = []
    with LLMManager(file) as llm:
        for log in ({"file": "one.jsonl"}, {"file": "two.jsonl"}, None):
            change_log(file, log)
            llm.complete("t", PROMPT)
            counts.append([len(lines(found)) for found in sorted(file.parent.glob("*.jsonl"))])
    assert counts == [[3], [3, 3], [3, 3]]


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


UNWRITABLE = {".": "directory", "a\x00b": "null", "pipe": "No such device", "~/x": "HOME", "cut": "bytes were written"}


def test_a_file_that_cannot_be_written_is_one_warning(
    tmp_path: Path, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cut").write_bytes(b"x" * 10)
    monkeypatch.setattr("testronaut_llm.support.paths.os.path.expanduser", str)
    file, limit = EventFile(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limit[1]))
    try:
        for where in [*UNWRITABLE] * 2:
            file.write(where, tmp_path, {"event": "x"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    for warning, fault in zip(events, UNWRITABLE.values(), strict=True):
        assert (warning["event"], fault in warning["error"]) == ("log_not_written", True)


def test_a_strangers_file_has_nothing_written(file: Path, events: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The `log:` of an untrusted file could name any file, so it is ignored with a warning until `trust`."""
    change_log(file, {"file": "stolen.jsonl"})
    monkeypatch.chdir(file.parent)
    with LLMManager() as llm:
        assert [llm.complete("t", PROMPT).text for _ in range(2)] == [ANSWER] * 2
    assert [one["event"] for one in events].count("log_ignored") == 1
    assert not (file.parent / "stolen.jsonl").exists()


def test_a_listener_that_raises_fails_no_call(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    structlog.configure(processors=[Mock(side_effect=RuntimeError(PROMPT))])
    with LLMManager(file) as llm:
        assert llm.complete("t", PROMPT).text == ANSWER
    assert "an event was lost: RuntimeError" in caplog.text
    assert PROMPT not in caplog.text


def test_without_structlog_it_is_pythons_logging(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with LLMManager(file) as llm, caplog.at_level(logging.INFO, "testronaut_llm"):
        llm.complete("t", PROMPT)
    assert [record.name for record in caplog.records] == ["testronaut_llm"] * 3
    assert caplog.messages[-1].startswith("llm_call (llm.task='t' ")


def test_a_warning_for_pythons_logging_is_one_readable_line(caplog: pytest.LogCaptureFixture) -> None:
    logger().warning("file_lost", error="line 1\nline 2\x1b[1m 100%", fix="run it again", file="a b")
    assert caplog.messages == ["file_lost: line 1 line 2\\u001b[1m 100%; run it again (file='a b')"]


def test_a_structlog_that_another_thread_is_importing_is_no_listener() -> None:
    with patch.dict(sys.modules, structlog=ModuleType("structlog")):
        assert not has_listener()


def test_what_the_libraries_log_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    redactor, secret, names = Redactor(), "canarySecretValue", NOISY_LOGGERS[::4]
    redactor.add(secret)
    guard_logs(redactor.redact)
    for name in names:
        with caplog.at_level(logging.DEBUG, name):
            logging.getLogger(name).debug("headers %s", {"x": secret})
            logging.getLogger(name).error("failed", exc_info=ValueError(secret))
    assert caplog.text.count("[redacted]") == 2 * len(names)
    assert secret not in caplog.text
    del redactor
    logging.getLogger(names[0]).error("as it is: %s", secret)
    assert secret in caplog.text


DOCUMENTED = {
    "LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "LITELLM_MODE",
    "DISABLE_AIOHTTP_TRANSPORT", "TIKTOKEN_CACHE_DIR",
}  # fmt: skip
HOST = """
import asyncio, email.message, importlib.metadata, json, logging, os, socket, sys, threading
before, root = dict(os.environ), list(logging.getLogger().handlers)
from testronaut_llm import LLMError, LLMManager
loops = []
new_loop = asyncio.events.new_event_loop
asyncio.events.new_event_loop = lambda: loops.append(1) or new_loop()
with LLMManager("llm.yaml") as llm:
    assert "litellm" not in sys.modules
    print(llm.complete("t", "hi").text, file=sys.stderr)
    for model in ("bad", "gone"):
        try:
            list(llm.stream("t", "hi", model=model))
        except LLMError as error:
            print(type(error).__name__, file=sys.stderr)
assert loops == []  # LiteLLM would make one at each call, for nothing
assert list(logging.getLogger().handlers) == root
assert not [thread for thread in threading.enumerate() if thread.name.startswith("litellm")]
assert "opentelemetry" not in sys.modules
changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
print(json.dumps(sorted(changed)), file=sys.stderr)
"""


def test_a_host_program_stays_as_it_was(file: Path) -> None:
    """Stdout is empty, `.env` unread, and the environment unchanged but for the documented switches (P16, P17)."""
    (file.parent / ".env").write_text("LEAKED_FROM_DOTENV=yes\nOPENAI_BASE_URL=http://192.0.2.1\n")
    done = program("-B", "-W", "error::ResourceWarning", "-c", HOST, cwd=file.parent)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    *said, changed = done.stderr.splitlines()
    assert said == [ANSWER, "AllModelsFailedError", "NoReadyModelError"]
    assert set(json.loads(changed)) <= DOCUMENTED
