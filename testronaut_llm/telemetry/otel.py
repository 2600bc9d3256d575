"""Events as OpenTelemetry spans and metrics, in the words of its conventions for generative AI.

Costs nothing where the application has not loaded OpenTelemetry itself. Spans are made when a call has ended, with the
times that it took, under whatever span is active then: the caller's own.
Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testronaut_llm.records import Attempt

if TYPE_CHECKING:
    from opentelemetry.trace import Span

NAME = "testronaut_llm"
NANO = 1_000_000_000
PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""By the names of the conventions, where they are others."""
TOKENS, SECONDS = [4**n for n in range(14)], [0.01 * 2**n for n in range(14)]
"""Limits of the buckets, as the conventions want them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A call that has ended: its attempts in order (none of a cache hit), all the `seconds` that it took.

    `operation` is `chat` or `embeddings`, `error` a code (None for an answer), `fields` are attributes of its span.
    """

    task: str
    operation: str
    attempts: Sequence[Attempt]
    seconds: float
    error: str | None
    fields: Mapping[str, Any]


def is_heard() -> bool:
    """Has the application set OpenTelemetry up? Costs next to nothing where it has not so much as loaded it."""
    if "opentelemetry.trace" not in sys.modules:
        return False
    from opentelemetry import metrics, trace

    providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
    return not all("Proxy" in type(one).__name__ for one in providers)  # what stands there until somebody sets one


def active_ids() -> dict[str, str]:
    """Trace and span that are active, as logs name them; nothing where there are none."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def tell(call: Told, redact: Callable[[str], str]) -> None:
    """A span of the call, one of each attempt under it, and the two metrics of each attempt."""
    from opentelemetry import trace

    tracer, end = trace.get_tracer(NAME), time.time_ns()
    began = end - int(call.seconds * NANO)
    span = tracer.start_span(f"{NAME} {call.task}", start_time=began, attributes=_known(call.fields, redact))
    _failed(span, call.error)
    inside, at = trace.set_span_in_context(span), began
    for attempt in call.attempts:
        at += int(attempt.waited * NANO)
        one = tracer.start_span(
            f"{call.operation} {attempt.provider_model}",
            context=inside,
            kind=trace.SpanKind.CLIENT,
            start_time=at,
            attributes=_known(_of(call, attempt), redact),
        )
        _failed(one, attempt.error.code if attempt.error else None)
        at += int(attempt.latency * NANO)
        one.end(at)
        _measure(call, attempt)
    span.end(end)


def _of(call: Told, attempt: Attempt) -> dict[str, Any]:
    usage = attempt.usage
    return {
        **_names(call, attempt),
        "gen_ai.response.id": attempt.request_id,
        "gen_ai.response.finish_reasons": (attempt.finish_reason,) if attempt.finish_reason else None,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
        "llm.model": attempt.model,
        "llm.cost_usd": None if attempt.cost is None else float(attempt.cost),
        "llm.waited_s": attempt.waited,
    }


def _names(call: Told, attempt: Attempt) -> dict[str, str]:
    """What asked whom for what."""
    provider, _, model = attempt.provider_model.partition("/")
    return {
        "gen_ai.operation.name": call.operation,
        "gen_ai.provider.name": PROVIDERS.get(provider, provider),
        "gen_ai.request.model": model,
    }


def _failed(span: Span, code: str | None) -> None:
    if code is not None:
        from opentelemetry.trace import StatusCode

        span.set_attribute("error.type", code)
        span.set_status(StatusCode.ERROR, code)


def _measure(call: Told, attempt: Attempt) -> None:
    tokens, duration = _instruments()
    names = _names(call, attempt)
    duration.record(attempt.latency, {**names, **({"error.type": attempt.error.code} if attempt.error else {})})
    if attempt.usage is not None and not attempt.usage.estimated:
        tokens.record(attempt.usage.prompt_tokens, {**names, "gen_ai.token.type": "input"})
        tokens.record(attempt.usage.completion_tokens, {**names, "gen_ai.token.type": "output"})


@functools.cache
def _instruments() -> tuple[Any, Any]:
    from opentelemetry import metrics

    meter = metrics.get_meter(NAME)
    return (
        meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens read and written.",
            explicit_bucket_boundaries_advisory=TOKENS,
        ),
        meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="Time of one request.",
            explicit_bucket_boundaries_advisory=SECONDS,
        ),
    )


def _known(fields: Mapping[str, Any], redact: Callable[[str], str]) -> dict[str, Any]:
    """What is known, in the kinds that an attribute may have."""
    return {name: _attribute(value, redact) for name, value in fields.items() if value is not None}


def _attribute(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, tuple):
        return tuple(redact(str(one)) for one in value)
    return value if isinstance(value, bool | int | float) else redact(str(value))
