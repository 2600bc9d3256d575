"""One event a call and one an attempt, named after OpenTelemetry's `gen_ai.*`; no prompt, no answer, no secret.

They go to the application's structlog, to the file that `log:` names, and to OpenTelemetry where that is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ParamSpec

from testronaut_llm.errors import LLMError
from testronaut_llm.records import Answer, Attempt, Call, Embeddings
from testronaut_llm.support.lazy import lazy
from testronaut_llm.telemetry.log import NAME, is_heard, logger

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.telemetry.log_file import EventFile

HASH_DIGITS, LARGEST = 16, 2**63
LEFT = "left"
"""In place of an error's code, of a call that nobody waited for."""


P = ParamSpec("P")


def _harmless(tell: Callable[P, None]) -> Callable[P, None]:
    """A processor, an exporter or a `repr` of the application's that raises fails no call."""

    @functools.wraps(tell)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is worth more
            with suppress(Exception):
                logging.getLogger(NAME).warning("an event was lost: %s", type(error).__name__)

    return told


class Telemetry:
    """The events of one manager.

    Args:
        redact: takes secrets out of a text.
        config: the configuration as the call found it.
    """

    def __init__(self, redact: Callable[[str], str], config: Callable[[], LLMConfig]) -> None:
        self._redact, self._config = redact, config

    @lazy
    def _file(self) -> EventFile:
        """The file that `log:` names, opened late."""
        from testronaut_llm.telemetry.log_file import EventFile

        return EventFile()

    @contextmanager
    def watch(self, call: Call) -> Iterator[None]:
        """Tells of a call that does not end in a result: it failed, or it was left."""
        try:
            yield
        except LLMError as error:
            self.failed(call, error, embedding=bool(call.texts))
            raise
        except Exception:
            raise
        except BaseException:  # closed early, ctrl-C, cancelled
            self.left(call, time.monotonic() - call.started)
            raise

    @_harmless
    def attempt(self, call: Call, attempt: Attempt) -> None:
        """One attempt has ended."""
        if not self.is_heard:
            return
        usage = attempt.usage
        self._emit(
            "llm_attempt",
            call,
            {
                "gen_ai.request.model": attempt.provider_model,
                "llm.model": attempt.model,
                "llm.outcome": attempt.outcome,
                "llm.reason": attempt.reason,
                "gen_ai.response.finish_reasons": [attempt.finish_reason] if attempt.finish_reason else [],
                "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
                "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
                "llm.usage.estimated": usage.estimated if usage else None,
                "llm.cost_usd": None if attempt.cost is None else str(attempt.cost),
                "llm.latency_s": round(attempt.latency, 4),
                "llm.waited_s": round(attempt.waited, 4),
                "llm.request_id": attempt.request_id,
                "llm.dropped_params": list(attempt.dropped_params),
                "error.type": attempt.error.code if attempt.error else None,
            },
        )

    @_harmless
    def answered(self, call: Call, result: Answer[Any] | Embeddings) -> None:
        """A call has been answered."""
        if not self.is_heard:
            return
        text = result.text if isinstance(result, Answer) else None
        fields = {
            "llm.model": result.model,
            "gen_ai.request.model": result.provider_model,
            "gen_ai.usage.input_tokens": result.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": result.usage.completion_tokens,
            "llm.cached": result.cached,
            "llm.attempts": len(result.attempts),
            "llm.cost_usd": None if result.cost is None else str(result.cost),
            "llm.cost_source": result.cost_source,
            "llm.saved_usd": None if result.saved is None else str(result.saved),
            "llm.latency_s": round(result.latency, 4),
            **_outline("prompt", _prompt(call)),
            **(_outline("answer", text) if text is not None else {}),
        }
        self._emit("llm_call", call, fields, words={"llm.prompt": _prompt(call), "llm.answer": text})
        attempts = () if result.cached else result.attempts
        operation = "chat" if text is not None else "embeddings"
        self._trace(call, operation, attempts, result.latency, None, fields)

    @_harmless
    def failed(self, call: Call, error: LLMError, *, embedding: bool = False) -> None:
        """A call has ended in an error.

        Its message is told only where nothing was sent: later it may quote an answer, or a provider that quotes the
        prompt.
        """
        if not self.is_heard:
            return
        fields = {
            "error.type": error.code,
            "error.message": None if error.attempts else str(error),
            "http.response.status_code": error.status,
            "llm.attempts": len(error.attempts),
            **_outline("prompt", _prompt(call)),
        }
        self._emit("llm_call", call, fields, words={"llm.prompt": _prompt(call)})
        seconds = sum(attempt.waited + attempt.latency for attempt in error.attempts)
        self._trace(call, "embeddings" if embedding else "chat", error.attempts, seconds, error.code, fields)

    @_harmless
    def left(self, call: Call, seconds: float) -> None:
        """A call was left before its end: a stream closed early, ctrl-C, a task that was cancelled."""
        if not self.is_heard:
            return
        fields = {"error.type": LEFT, "llm.latency_s": round(seconds, 4), **_outline("prompt", _prompt(call))}
        self._emit("llm_call", call, fields, words={"llm.prompt": _prompt(call)})
        self._trace(call, "chat", (), seconds, LEFT, fields)

    @_harmless
    def happened(self, event: str, fields: Mapping[str, Any]) -> None:
        """Something has happened that no single call is the reason of, such as a pull that several wait for."""
        if self.is_heard:
            self._emit(event, None, fields)

    def close(self) -> None:
        """Lets the file go."""
        if "_file" in self.__dict__:
            self._file.close()

    @property
    def is_heard(self) -> bool:
        """Would anybody get an event?"""
        return is_heard() or _is_traced() or self._config().log is not None

    def _emit(
        self, event: str, call: Call | None, fields: Mapping[str, Any], *, words: Mapping[str, str | None] | None = None
    ) -> None:
        shown = {name: self._shown(value) for name, value in fields.items() if value is not None}
        whole = {
            **({"llm.task": call.task, "llm.call_id": call.id} if call else {}),
            **shown,
            **(self._metadata(call) if call else {}),
            **_active_ids(),
        }
        if is_heard():
            logger().info(event, **whole)
        config = self._config()
        if (log := config.log) is not None:
            said = {name: self._redact(text) for name, text in (words or {}).items() if text is not None}
            self._file.write(config, log, {"event": event, **whole, **(said if log.content else {})})

    def _trace(
        self,
        call: Call,
        operation: str,
        attempts: Sequence[Attempt],
        seconds: float,
        error: str | None,
        fields: Mapping[str, Any],
    ) -> None:
        if _is_traced():
            from testronaut_llm.telemetry import otel as telemetry_otel

            told = telemetry_otel.Told(
                task=call.task,
                operation=operation,
                attempts=attempts,
                seconds=seconds,
                error=error,
                fields={
                    "llm.task": call.task,
                    "llm.call_id": call.id,
                    **_without_usage(fields),
                    **self._metadata(call),
                },
            )
            telemetry_otel.tell(told, self._redact)

    def _metadata(self, call: Call) -> dict[str, Any]:
        return {f"metadata.{name}": self._shown(value) for name, value in call.metadata.items()}

    def _shown(self, value: Any) -> Any:
        """In JSON's kinds; whatever is not, in words."""
        if isinstance(value, bool) or (isinstance(value, int | float) and -LARGEST < value < LARGEST):
            return value
        if isinstance(value, int):
            return f"an integer of {value.bit_length()} bits"
        if isinstance(value, list | tuple):
            return [self._shown(one) for one in value]
        try:
            return self._redact(value if isinstance(value, str) else repr(value))
        except Exception:  # noqa: BLE001 - of the application's own `__repr__`
            return f"<{type(value).__name__}>"


def _is_traced() -> bool:
    """Has the application set OpenTelemetry up? Nothing is loaded where it has not."""
    if "opentelemetry.trace" not in sys.modules:
        return False
    from testronaut_llm.telemetry import otel

    return otel.is_heard()


def _active_ids() -> dict[str, str]:
    """Trace and span that are active, as logs name them; nothing where there are none."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from testronaut_llm.telemetry import otel

    return otel.active_ids()


def _without_usage(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The spans of the attempts have the tokens; whoever adds up would count them twice."""
    return {name: value for name, value in fields.items() if not name.startswith("gen_ai.usage.")}


def _prompt(call: Call) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in call.messages)


def _outline(name: str, text: str) -> dict[str, Any]:
    """What tells two texts apart without saying either."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]
    return {f"llm.{name}.chars": len(text), f"llm.{name}.sha256": digest}
