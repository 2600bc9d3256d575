"""Reports calls and attempts to the application's log, to the file of `log:`, and to OpenTelemetry.

All three get the same fields, without prompts, answers and secrets. Names are those of OpenTelemetry's conventions:
https://opentelemetry.io/docs/specs/semconv/gen-ai/. Nothing of it is loaded unless the application has set it up.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Token
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.errors import LLMError
from testronaut_llm.records import Answer, Attempt, Call, Embeddings, total_cost
from testronaut_llm.telemetry.log import NAME, STANDARD, EventFile, logger

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span


CANCELLED = "left"
"""The error code of a call that was cancelled, or whose stream was closed early."""
_HASH_DIGITS, _LARGEST = 16, 2**63


@contextmanager
def _harmless() -> Iterator[None]:
    """Logs errors of the application's processors and exporters, so that they fail no call."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        with suppress(Exception):
            STANDARD.warning("an event was lost: %s", type(error).__name__)


def has_listener(config: LLMConfig | None = None) -> bool:
    """True if anything takes events. Very fast if not."""
    if STANDARD.isEnabledFor(logging.INFO) or (config is not None and config.log is not None):
        return True
    is_configured = getattr(sys.modules.get("structlog"), "is_configured", bool)  # another thread may be importing it
    return is_configured() or ("opentelemetry.trace" in sys.modules and has_opentelemetry())


class Telemetry:
    """The events of one manager. `redact` removes secrets; `config` returns the configuration of the last call."""

    def __init__(self, redact: Callable[[str], str], config: Callable[[], LLMConfig]) -> None:
        self._redact, self._config = redact, config
        self._file = EventFile()
        self._watched: dict[str, Any] = {}  # calls that have a listener, and their spans
        self._calls, self._hits, self._failures = 0, 0, Counter[str]()
        self._counting = threading.Lock()

    def count(self, ended: Answer[Any] | Embeddings | LLMError) -> None:
        """Counts a call that has ended."""
        with self._counting:
            self._calls += 1
            if isinstance(ended, LLMError):
                self._failures[(getattr(ended, "last", None) or ended).code] += 1
            else:
                self._hits += ended.cached

    def counts(self) -> dict[str, Any]:
        """Returns the calls that have ended, the hits of the cache among them, and the failures by their code."""
        with self._counting:
            return {"calls": self._calls, "hits": self._hits, "failures": dict(self._failures)}

    @contextmanager
    def watch(self, call: Call) -> Iterator[None]:
        """Starts the span of a call, which is current inside, and reports a call that ends without a result.

        Enter and leave it in the same context, never around the `yield` of a generator, whose reader would get the
        span too. Tasks and threads started inside need a copy of the context.
        """
        span = None
        if has_listener(call.config):
            with _harmless():
                span = start_span(call.task) if has_opentelemetry() else None
            self._watched[call.id] = span and span[0]
        try:
            yield
        except BaseException as error:
            if isinstance(error, LLMError):
                self.failed(call, error)
            else:  # closed early, ctrl-C, cancelled; or an error of the caller's own code
                self._ended(call, {"error.type": type(error).__name__ if isinstance(error, Exception) else CANCELLED})
            raise
        finally:
            self._watched.pop(call.id, None)
            if span is not None:
                with _harmless():
                    end_span(*span)

    def attempt(self, call: Call, attempt: Attempt) -> None:
        """Reports an attempt that has just ended."""
        if call.id not in self._watched:
            return
        usage = attempt.usage
        fields = {
            "gen_ai.request.model": attempt.provider_model,
            "llm.model": attempt.model,
            "llm.outcome": attempt.outcome,
            "llm.reason": attempt.reason,
            "gen_ai.response.finish_reasons": [attempt.finish_reason] if attempt.finish_reason else [],
            "gen_ai.usage.input_tokens": usage and usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage and usage.completion_tokens,
            "llm.usage.estimated": usage and usage.estimated,
            "llm.cost_usd": attempt.cost,
            "llm.latency_s": round(attempt.latency, 4),
            "llm.waited_s": round(attempt.waited, 4),
            "llm.request_id": attempt.request_id,
            "llm.dropped_params": attempt.dropped_params,
            "error.type": attempt.error and attempt.error.code,
        }
        self._emit("llm_attempt", fields, call, attempt=attempt)

    def answered(self, call: Call, result: Answer[Any] | Embeddings) -> None:
        """Reports a call that was answered."""
        self.count(result)
        if call.id not in self._watched:
            return
        fields = {
            "llm.model": result.model,
            "gen_ai.request.model": result.provider_model,
            "gen_ai.usage.input_tokens": result.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": result.usage.completion_tokens,
            "llm.cached": result.cached,
            "llm.attempts": len(result.attempts),
            "llm.cost_usd": result.cost,
            "llm.cost_source": result.cost_source,
            "llm.saved_usd": result.saved,
        }
        self._ended(call, fields, answer=result.text if isinstance(result, Answer) else None)

    def failed(self, call: Call, error: LLMError) -> None:
        """Reports a call that ended in an error."""
        self.count(error)
        fields = {
            "error.type": error.code,
            "error.message": None if error.attempts else str(error),  # which may quote the prompt
            "http.response.status_code": error.status,
            "llm.attempts": len(error.attempts),
            "llm.cost_usd": total_cost(error.attempts),
        }
        self._ended(call, fields)

    def happened(self, event: str, fields: Mapping[str, Any]) -> None:
        """Reports an event that does not belong to a single call, such as a download."""
        if has_listener(self._config()):
            self._emit(event, fields)

    def _ended(self, call: Call, fields: Mapping[str, Any], *, answer: str | None = None) -> None:
        """Writes the event of a call, with lengths and hashes of its texts, and the attributes of its span."""
        if call.id not in self._watched:
            return
        words = {"prompt": "\n".join(f"{message.role}: {message.content}" for message in call.messages)}
        if answer is not None:
            words["answer"] = call.masking.mask(answer)
        outlines: dict[str, Any] = {"llm.latency_s": round(time.monotonic() - call.started, 4)}
        for word, text in words.items():
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            outlines |= {f"llm.{word}.chars": len(text), f"llm.{word}.sha256": digest[:_HASH_DIGITS]}
        self._emit("llm_call", {**fields, **outlines}, call, words=words)

    def _emit(
        self,
        event: str,
        fields: Mapping[str, Any],
        call: Call | None = None,
        *,
        attempt: Attempt | None = None,
        words: Mapping[str, str] | None = None,
    ) -> None:
        """Passes an event to the log, the file and OpenTelemetry. Only the file may get the `words`."""
        with _harmless():
            span, config = None, self._config()
            if call is not None:
                span, config = self._watched[call.id], call.config
                metadata = {f"metadata.{name}": value for name, value in call.metadata.items()}
                fields = {"llm.task": call.task, "llm.call_id": call.id, **fields, **metadata}
            plain = {name: self._plain(value) for name, value in fields.items() if value is not None}
            written = plain if span is None else {**plain, **span_ids(span)}
            logger().info(event, **written)
            if (log := config.log) is not None:
                folder = config.path.parent if config.path else Path()
                shown = {f"llm.{word}": self._redact(text) for word, text in (words or {}).items() if log.content}
                self._file.write(log.file, folder, {"event": event, **written, **shown})
            if call is None or span is None:
                return
            if attempt is not None:
                record_metrics("embeddings" if call.texts else "chat", attempt, plain)
            else:  # without tokens, which are in the spans of attempts
                describe_span(span, {name: one for name, one in plain.items() if not name.startswith("gen_ai.usage.")})

    def _plain(self, value: Any) -> Any:
        """Returns the value as a JSON type, without secrets; other types as text."""
        if isinstance(value, bool) or (isinstance(value, int | float) and -_LARGEST < value < _LARGEST):
            return value
        if isinstance(value, list | tuple):
            return [self._plain(one) for one in value]
        return self._redact(str(value))


PROVIDERS = {"azure": "azure.ai.openai", "bedrock": "aws.bedrock", "gemini": "gcp.gemini", "mistral": "mistral_ai"}
PROVIDERS |= {"vertex_ai": "gcp.vertex_ai", "watsonx": "ibm.watsonx.ai", "xai": "x_ai"}
"""Names of the conventions that differ from LiteLLM's."""
_TOKENS, _SECONDS = [4**n for n in range(14)], [0.01 * 2**n for n in range(14)]
"""Boundaries of the histograms' buckets, by the conventions."""


def has_opentelemetry() -> bool:
    """True if the application has set OpenTelemetry up."""
    if "opentelemetry.trace" not in sys.modules:
        return False
    from opentelemetry import metrics, trace

    providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
    return not all("Proxy" in type(one).__name__ for one in providers)  # the default until one is set


def start_span(task: str) -> tuple[Span, Token[Context]]:
    """Starts the span of a call under the current span, and makes it current in this context."""
    from opentelemetry import context, trace

    span = trace.get_tracer(NAME).start_span(f"{NAME} {task}")
    return span, context.attach(trace.set_span_in_context(span))


def end_span(span: Span, token: Token[Context]) -> None:
    """Ends the span of a call, in the context in which it was started."""
    from opentelemetry import context

    context.detach(token)
    span.end()


def span_ids(span: Span) -> dict[str, str]:
    """Returns the ids of a span and its trace, as logs name them; empty if only metrics are set up."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def describe_span(span: Span, fields: Mapping[str, Any]) -> None:
    """Sets the fields of an event as attributes of a span, and its status from `error.type`."""
    from opentelemetry.trace import StatusCode

    span.set_attributes({name: value for name, value in fields.items() if value is not None})
    if (code := fields.get("error.type")) is not None:
        span.set_status(StatusCode.ERROR, code)


def record_metrics(operation: str, attempt: Attempt, fields: Mapping[str, Any]) -> None:
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
    describe_span(span, {**fields, **names, "gen_ai.response.id": fields.get("llm.request_id"), "llm.cost_usd": cost})
    span.end(now)

    create = metrics.get_meter(NAME).create_histogram  # which returns the same one for the same name
    error = {"error.type": attempt.error.code} if attempt.error else {}
    seconds = create("gen_ai.client.operation.duration", "s", explicit_bucket_boundaries_advisory=_SECONDS)
    seconds.record(attempt.latency, {**names, **error})
    if attempt.usage is not None and not attempt.usage.estimated:
        tokens = create("gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=_TOKENS)
        tokens.record(attempt.usage.prompt_tokens, {**names, "gen_ai.token.type": "input"})
        tokens.record(attempt.usage.completion_tokens, {**names, "gen_ai.token.type": "output"})
