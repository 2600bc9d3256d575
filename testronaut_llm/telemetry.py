"""One event a call and one an attempt, named after OpenTelemetry's `gen_ai.*`; no prompt, no answer, no secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testronaut_llm.errors import LLMError
from testronaut_llm.log import is_heard, logger
from testronaut_llm.records import Answer, Attempt, Call, Embeddings


class Telemetry:
    """The events of one manager.

    Args:
        redact: takes secrets out of a text.
    """

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact

    def attempt(self, call: Call, attempt: Attempt) -> None:
        """One attempt has ended."""
        usage = attempt.usage
        self._emit(
            "llm_attempt",
            call,
            **{
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

    def answered(self, call: Call, result: Answer[Any] | Embeddings) -> None:
        """A call has been answered."""
        self._emit(
            "llm_call",
            call,
            **{
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
            },
        )

    def failed(self, call: Call, error: LLMError) -> None:
        """A call has ended in an error.

        Its message is told only where nothing was sent: later it may quote an answer, or a provider that quotes the
        prompt.
        """
        self._emit(
            "llm_call",
            call,
            **{
                "error.type": error.code,
                "error.message": None if error.attempts else str(error),
                "http.response.status_code": error.status,
                "llm.attempts": len(error.attempts),
            },
        )

    def _emit(self, event: str, call: Call, **fields: Any) -> None:
        if not is_heard():
            return
        shown = {name: self._shown(value) for name, value in fields.items() if value is not None}
        metadata = {f"metadata.{name}": self._shown(value) for name, value in call.metadata.items()}
        logger().info(event, **{"llm.task": call.task, **shown, **metadata})

    def _shown(self, value: Any) -> Any:
        return (
            value if isinstance(value, int | float) else self._redact(value if isinstance(value, str) else repr(value))
        )
