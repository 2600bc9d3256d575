"""One event an attempt and one a call: facts, never words or secrets, and never on stdout."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import faults
import pytest
import structlog
from manager_kit import KEY, Api, apis, manager, model

from testronaut_llm import LLMManager, errors
from testronaut_llm.gateway.gateway import load_litellm
from testronaut_llm.telemetry.log import is_heard

PROMPT, ANSWER = "the secret plan of the prompt", "the secret words of the answer"


@pytest.fixture(scope="module")
def api() -> Iterator[Callable[..., Api]]:
    load_litellm()
    with apis() as make:
        yield make


@pytest.fixture
def llm(api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMManager]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    a = api("a", faults.raw(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()))
    b = api("b", faults.good(ANSWER))
    with manager({"a": model("openai", a), "b": model("anthropic", b)}) as made:
        yield made


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """What an application sees that has set structlog up."""
    with structlog.testing.capture_logs() as captured:
        structlog.configure(processors=structlog.get_config()["processors"])
        yield captured
    structlog.reset_defaults()


def test_one_event_an_attempt_and_one_a_call(llm: LLMManager, events: list[Any]) -> None:
    """The attempts in order, then the call, under OpenTelemetry's names."""
    llm.complete("t", PROMPT, metadata={"run": 7})
    first, second, call = events
    assert [one["event"] for one in events] == ["llm_attempt", "llm_attempt", "llm_call"]
    assert all(one["llm.task"] == "t" and one["metadata.run"] == 7 for one in events)
    assert len({one["llm.call_id"] for one in events}) == 1
    assert (first["llm.model"], first["llm.outcome"], first["error.type"]) == ("a", "error", "authentication")
    assert (second["llm.model"], second["llm.outcome"]) == ("b", "answer")
    assert second["gen_ai.request.model"] == "anthropic/claude-haiku-4-5"
    assert (second["gen_ai.usage.input_tokens"], second["gen_ai.usage.output_tokens"]) == (12, 6)
    assert second["llm.cost_usd"] == "0.000024"
    assert second["llm.usage.estimated"] is False
    assert second["llm.request_id"] == "req-fault-1"
    assert (call["llm.model"], call["llm.attempts"], call["llm.cached"]) == ("b", 2, False)
    llm.complete("t", PROMPT)
    assert events[3]["llm.call_id"] == events[5]["llm.call_id"] != call["llm.call_id"]


async def test_an_event_loop_and_streams_tell_the_same(llm: LLMManager, events: list[Any]) -> None:
    """Each way to ask tells its attempts and itself once."""
    await llm.acomplete("t", PROMPT)
    list(llm.stream("t", PROMPT))
    async for _ in llm.astream("t", PROMPT):
        pass
    assert [one["event"] for one in events] == ["llm_attempt", "llm_attempt", "llm_call"] * 3


def test_no_words_and_no_secrets(llm: LLMManager, events: list[Any]) -> None:
    """Neither prompt nor answer nor a key that the provider echoes, in a success or a failure."""
    llm.complete("t", PROMPT, metadata={"note": f"key {KEY}"})
    with pytest.raises(errors.AllModelsFailedError):
        llm.complete("t", PROMPT, model="a")
    with pytest.raises(errors.LLMError):
        llm.complete("t", PROMPT, schema={"type": "object"})
    said = repr(events)
    assert "llm_call" in said
    for secret in (PROMPT, ANSWER, KEY):
        assert secret not in said


def test_a_failed_call_is_told(llm: LLMManager, events: list[Any]) -> None:
    """The error's code and status are there, and its message where nothing was sent."""
    with pytest.raises(errors.AllModelsFailedError):
        llm.complete("t", PROMPT, model="a")
    with pytest.raises(errors.ContextWindowError):
        llm.complete("t", PROMPT * 10_000, model="b")
    calls = [one for one in events if one["event"] == "llm_call"]
    assert [one["error.type"] for one in calls] == ["all_models_failed", "context_window"]
    assert [one["llm.attempts"] for one in calls] == [1, 0]
    assert calls[0]["http.response.status_code"] == 401
    assert ["error.message" in one for one in calls] == [False, True]


def test_without_structlog_it_is_pythons_logging(
    llm: LLMManager, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """An application that has not set structlog up gets records of `testronaut_llm`, and a clean stdout."""
    assert not structlog.is_configured()
    llm.complete("t", PROMPT)
    assert capfd.readouterr() == ("", "")
    with caplog.at_level(logging.INFO, "testronaut_llm"):
        llm.complete("t", PROMPT)
    assert [record.name for record in caplog.records] == ["testronaut_llm"] * 3
    assert capfd.readouterr().out == ""


def test_an_event_that_nobody_hears_is_not_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A level of INFO, or structlog, is a listener; a structlog that another thread is just importing is not yet."""
    monkeypatch.setitem(sys.modules, "structlog", ModuleType("structlog"))
    assert not is_heard()
    with caplog.at_level(logging.INFO, logger="testronaut_llm"):
        assert is_heard()
    monkeypatch.setitem(sys.modules, "structlog", structlog)
    with structlog.testing.capture_logs():
        assert is_heard()
