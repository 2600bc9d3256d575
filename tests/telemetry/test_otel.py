"""OpenTelemetry: spans under the caller's, metrics of each attempt, and nothing if it is not configured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import faults
import httpx
import pytest
from manager_kit import KEY, MODES, Make, ask, manager, model
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from testronaut_llm import LLMManager, errors
from testronaut_llm.telemetry import telemetry


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


@pytest.fixture
def llm(api: Make, provider_keys: None) -> Iterator[LLMManager]:
    bad = api("bad", faults.raw(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()))
    with manager({"a": model("openai", bad), "b": model("anthropic", api("good", faults.good("fine")))}) as made:
        yield made


def of(one: ReadableSpan) -> dict[str, Any]:
    return dict(one.attributes or {})


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_is_a_span_of_the_callers_with_one_for_each_attempt(
    llm: LLMManager, spans: InMemorySpanExporter, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending, send = [], httpx.AsyncClient.send

    async def instrumented(*args: Any, **given: Any) -> httpx.Response:
        sending.append(trace.get_current_span().get_span_context().span_id)
        return await send(*args, **given)

    monkeypatch.setattr(httpx.AsyncClient, "send", instrumented)
    with trace.get_tracer("app").start_as_current_span("mine") as mine, capture_logs() as events:
        answer = await ask(llm, mode, "hi", metadata={"run": "r7"})
        assert trace.get_current_span() is mine
    first, second, call, _ = spans.get_finished_spans()
    names = [f"chat {one.provider_model}" for one in answer.attempts]
    assert [one.name for one in (first, second, call)] == [*names, "testronaut_llm t"]
    assert call.parent.span_id == mine.get_span_context().span_id
    under = {(one.kind, one.parent and one.parent.span_id) for one in (first, second)}
    assert under == {(SpanKind.CLIENT, call.context.span_id)}
    assert sending == [call.context.span_id] * 2
    ids = trace.format_trace_id(call.context.trace_id), trace.format_span_id(call.context.span_id)
    assert [(one["trace_id"], one["span_id"]) for one in events] == [ids] * 3
    assert (of(first)["error.type"], first.status.status_code) == ("authentication", StatusCode.ERROR)
    assert (of(second)["gen_ai.provider.name"], of(second)["gen_ai.request.model"]) == ("anthropic", "claude-haiku-4-5")
    ended = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons")
    assert [of(second)[name] for name in ended] == [12, 6, ("stop",)]
    assert (of(call)["llm.task"], of(call)["metadata.run"], of(call)["llm.model"]) == ("t", "r7", "b")
    assert call.start_time <= first.start_time < first.end_time <= second.start_time  # type: ignore[operator]
    assert KEY not in " ".join(span.to_json() for span in spans.get_finished_spans())
    assert not llm._telemetry._watched, "an ended call stays in memory"


def test_a_failed_call_is_a_failed_span(llm: LLMManager, spans: InMemorySpanExporter) -> None:
    for ask_for in (llm.complete, llm.embed):
        with pytest.raises(errors.AllModelsFailedError):
            ask_for("t", "hi", model="a")
    chat, call, vectors, other = spans.get_finished_spans()
    assert of(call)["error.type"] == of(other)["error.type"] == "all_models_failed"
    assert call.status.status_code is StatusCode.ERROR
    assert (chat.name.split()[0], vectors.name.split()[0]) == ("chat", "embeddings")


def test_tokens_and_seconds_of_each_attempt_are_measured(llm: LLMManager, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    with capture_logs() as events:
        llm.complete("t", "hi")
    assert "trace_id" not in {*events[0]}
    found = {one.name: one for one in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics}
    units = {"gen_ai.client.token.usage": "{token}", "gen_ai.client.operation.duration": "s"}
    assert {name: one.unit for name, one in found.items()} == units
    usage = [(dict(p.attributes or {}), p.sum) for p in found["gen_ai.client.token.usage"].data.data_points]
    assert sorted((one["gen_ai.token.type"], total) for one, total in usage if total) == [("input", 12), ("output", 6)]
    lasted = [dict(p.attributes or {}) for p in found["gen_ai.client.operation.duration"].data.data_points]
    assert sorted(one.get("error.type", "") for one in lasted) == ["", "authentication"]


def test_a_tracer_that_raises_fails_no_call(
    llm: LLMManager, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace, "get_tracer", lambda *_: 1 / 0)
    assert llm.complete("t", "hi").text == "fine"
    assert "an event was lost: ZeroDivisionError" in caplog.text


def test_nothing_is_loaded_without_a_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not telemetry.has_opentelemetry()
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert not telemetry.has_opentelemetry()
    assert "opentelemetry.trace" not in sys.modules
