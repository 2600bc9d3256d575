"""Writes events: one per call and one per attempt, without prompts, answers and secrets.

They go to the application's log, to the file of `log:`, and as spans to OpenTelemetry, whose conventions give the
names of fields.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from testronaut_llm.errors import LLMError
from testronaut_llm.records import Answer, Attempt, Call, Embeddings
from testronaut_llm.telemetry import otel
from testronaut_llm.telemetry.log import NAME, EventFile, has_listener, logger

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig

S = TypeVar("S")
CANCELLED = "left"
"""The error code of a call that was cancelled, or whose stream was closed early."""
_HASH_DIGITS, _LARGEST = 16, 2**63


@contextmanager
def _harmless() -> Iterator[None]:
    """Logs errors of the application's processors and exporters, so that no call fails from them."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        with suppress(Exception):
            logging.getLogger(NAME).warning("an event was lost: %s", type(error).__name__)


class Telemetry:
    """The events of one manager. `redact` removes secrets; `config` returns the configuration of the last call."""

    def __init__(self, redact: Callable[[str], str], config: Callable[[], LLMConfig]) -> None:
        self._redact, self._config = redact, config
        self._file = EventFile()
        self._spans: dict[str, Any] = {}
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

    def counted(self, session: S) -> S:
        """Returns the session of a ledger with the calls of this manager."""
        with self._counting:
            counts = {"calls": self._calls, "hits": self._hits, "failures": dict(self._failures)}
            return cast("S", replace(cast("Any", session), **counts))

    @property
    def is_active(self) -> bool:
        """True if events have a listener."""
        return has_listener() or otel.is_set_up() or self._config().log is not None

    @contextmanager
    def watch(self, call: Call) -> Iterator[None]:
        """Starts the span of a call, which is current inside, and reports a call that ends without a result.

        Enter and leave it in the same context, never around the `yield` of a generator, whose reader would get the
        span too. Tasks and threads started inside need a copy of the context.
        """
        if otel.is_set_up():
            with _harmless():
                self._spans[call.id] = otel.start(call.task)
        try:
            yield
        except LLMError as error:
            self.failed(call, error)
            raise
        except Exception:
            raise
        except BaseException:  # closed early, ctrl-C, cancelled
            self._ended(call, {"error.type": CANCELLED, "llm.latency_s": round(time.monotonic() - call.started, 4)})
            raise
        finally:
            if started := self._spans.pop(call.id, None):
                with _harmless():
                    otel.end(*started)

    def attempt(self, call: Call, attempt: Attempt) -> None:
        """Reports an attempt that has just ended."""
        if not self.is_active:
            return
        usage = attempt.usage
        fields = {
            "gen_ai.request.model": attempt.provider_model,
            "llm.model": attempt.model,
            "llm.outcome": attempt.outcome,
            "llm.reason": attempt.reason,
            "gen_ai.response.finish_reasons": [attempt.finish_reason] if attempt.finish_reason else [],
            "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
            "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
            "llm.usage.estimated": usage.estimated if usage else None,
            "llm.cost_usd": attempt.cost,
            "llm.latency_s": round(attempt.latency, 4),
            "llm.waited_s": round(attempt.waited, 4),
            "llm.request_id": attempt.request_id,
            "llm.dropped_params": list(attempt.dropped_params),
            "error.type": attempt.error.code if attempt.error else None,
        }
        with _harmless():
            plain = self._emit("llm_attempt", fields, call)
            if otel.is_set_up():
                otel.record("embeddings" if call.texts else "chat", attempt, plain)

    def answered(self, call: Call, result: Answer[Any] | Embeddings) -> None:
        """Reports a call that was answered."""
        self.count(result)
        if not self.is_active:
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
            "llm.latency_s": round(result.latency, 4),
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
        }
        self._ended(call, fields)

    def happened(self, event: str, fields: Mapping[str, Any]) -> None:
        """Reports an event that does not belong to a single call, such as a download."""
        if self.is_active:
            with _harmless():
                self._emit(event, fields)

    def _ended(self, call: Call, fields: Mapping[str, Any], *, answer: str | None = None) -> None:
        """Writes the event of a call, with lengths and hashes of its texts, and the attributes of its span."""
        if not self.is_active:
            return
        words = {"prompt": "\n".join(f"{message.role}: {message.content}" for message in call.messages)}
        if answer is not None:
            words["answer"] = call.masking.mask(answer)
        outlines: dict[str, Any] = {}
        for word, text in words.items():
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            outlines |= {f"llm.{word}.chars": len(text), f"llm.{word}.sha256": digest[:_HASH_DIGITS]}
        with _harmless():
            plain = self._emit("llm_call", {**fields, **outlines}, call, words)
            if call.id in self._spans:  # without tokens, which are in the spans of attempts
                kept = {name: value for name, value in plain.items() if not name.startswith("gen_ai.usage.")}
                otel.describe(self._spans[call.id][0], kept)

    def _emit(
        self, event: str, fields: Mapping[str, Any], call: Call | None = None, words: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Writes an event to the log and the file; only the file may get the `words`. Returns its plain fields."""
        if call is not None:
            metadata = {f"metadata.{name}": value for name, value in call.metadata.items()}
            fields = {"llm.task": call.task, "llm.call_id": call.id, **fields, **metadata}
        plain = {name: self._plain(value) for name, value in fields.items() if value is not None}
        written = {**plain, **otel.active_ids()}
        if has_listener():
            logger().info(event, **written)
        config = self._config()
        if (log := config.log) is not None:
            folder = config.path.parent if config.path else Path()
            shown = {f"llm.{word}": self._redact(text) for word, text in (words or {}).items() if log.content}
            self._file.write(log.file, folder, {"event": event, **written, **shown})
        return plain

    def _plain(self, value: Any) -> Any:
        """Returns the value as a JSON type, without secrets; other types as text."""
        if isinstance(value, bool) or (isinstance(value, int | float) and -_LARGEST < value < _LARGEST):
            return value
        if isinstance(value, int):
            return f"an integer of {value.bit_length()} bits"
        if isinstance(value, list | tuple):
            return [self._plain(one) for one in value]
        try:
            return self._redact(str(value) if isinstance(value, str | Decimal) else repr(value))
        except Exception:  # noqa: BLE001 - of the application's own `__repr__`
            return f"<{type(value).__name__}>"
