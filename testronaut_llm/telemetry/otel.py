"""OpenTelemetry spans and metrics of calls, named by its conventions for generative AI.

Nothing is loaded or created unless the application has set OpenTelemetry up.
Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextvars import Token
from typing import TYPE_CHECKING, Any

from testronaut_llm.telemetry.log import NAME

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from testronaut_llm.records import Attempt

PROVIDERS = {"azure": "azure.ai.openai", "bedrock": "aws.bedrock", "gemini": "gcp.gemini", "mistral": "mistral_ai"}
PROVIDERS |= {"vertex_ai": "gcp.vertex_ai", "watsonx": "ibm.watsonx.ai", "xai": "x_ai"}
"""Names of the conventions that differ from LiteLLM's."""
_TOKENS, _SECONDS = [4**n for n in range(14)], [0.01 * 2**n for n in range(14)]
"""Boundaries of the histograms' buckets, by the conventions."""


def is_set_up() -> bool:
    """True if the application has set OpenTelemetry up."""
    if "opentelemetry.trace" not in sys.modules:
        return False
    from opentelemetry import metrics, trace

    providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
    return not all("Proxy" in type(one).__name__ for one in providers)  # the default until one is set


def start(task: str) -> tuple[Span, Token[Context]]:
    """Starts the span of a call under the current span, and makes it current in this context."""
    from opentelemetry import context, trace

    span = trace.get_tracer(NAME).start_span(f"{NAME} {task}")
    return span, context.attach(trace.set_span_in_context(span))


def end(span: Span, token: Token[Context]) -> None:
    """Ends the span of a call, in the context in which it was started."""
    from opentelemetry import context

    context.detach(token)
    span.end()


def ids_of(span: Span) -> dict[str, str]:
    """Returns the ids of a span and its trace, as logs name them; empty if only metrics are set up."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def describe(span: Span, fields: Mapping[str, Any]) -> None:
    """Sets the fields of an event as attributes of a span, and its status from `error.type`."""
    from opentelemetry.trace import StatusCode

    span.set_attributes({name: value for name, value in fields.items() if value is not None})
    if (code := fields.get("error.type")) is not None:
        span.set_status(StatusCode.ERROR, code)


def record(operation: str, attempt: Attempt, fields: Mapping[str, Any]) -> None:
    """Adds the span of an ended attempt under the current one, and records its seconds, and tokens if reported.

    The `fields` are those of its event.
    """
    from opentelemetry import metrics, trace

    name = fields["gen_ai.request.model"]
    provider, _, model = name.partition("/")
    names = {"gen_ai.operation.name": operation, "gen_ai.request.model": model}
    names["gen_ai.provider.name"] = PROVIDERS.get(provider, provider)
    cost = None if attempt.cost is None else float(attempt.cost)
    now = time.time_ns()
    span = trace.get_tracer(NAME).start_span(
        f"{operation} {name}", kind=trace.SpanKind.CLIENT, start_time=now - int(attempt.latency * 1e9)
    )
    describe(span, {**fields, **names, "gen_ai.response.id": fields.get("llm.request_id"), "llm.cost_usd": cost})
    span.end(now)

    create = metrics.get_meter(NAME).create_histogram  # which returns the same one for the same name
    error = {"error.type": attempt.error.code} if attempt.error else {}
    seconds = create("gen_ai.client.operation.duration", "s", explicit_bucket_boundaries_advisory=_SECONDS)
    seconds.record(attempt.latency, {**names, **error})
    if attempt.usage is not None and not attempt.usage.estimated:
        tokens = create("gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=_TOKENS)
        tokens.record(attempt.usage.prompt_tokens, {**names, "gen_ai.token.type": "input"})
        tokens.record(attempt.usage.completion_tokens, {**names, "gen_ai.token.type": "output"})
