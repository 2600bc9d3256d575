"""From what LiteLLM made of a response, and what really came, to a Reply that can be trusted.

An answer is accepted with content, a finish reason that was really received, and nothing withheld.
Whatever went wrong, the usage that was reported is kept: a failed attempt may have to be paid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx

from testronaut_llm.errors import (
    BadResponseError,
    CassetteMissError,
    ConnectionFailedError,
    ContentFilteredError,
    InvalidRequestError,
    LLMError,
    LLMTimeoutError,
    Verdict,
)
from testronaut_llm.records import Usage
from testronaut_llm.support.redaction import said
from testronaut_llm.transport.evidence import Evidence, examine
from testronaut_llm.transport.exchange import BodyTooLargeError, Exchange
from testronaut_llm.transport.model_request import EmbedRequest, Reply, Request, dropped_params
from testronaut_llm.transport.provider_errors import complaint_of, kind_of, redirect, retry_after

_MISSES = ("CassetteMissError", "CannotOverwriteExistingCassetteException")
"""How a replay says that it has no such recording: our cassettes' own error, and plain vcrpy's."""
_CUT = "the answer broke off: the stream ended without a finish reason"
_THINKING_COUNTS = ("reasoning_tokens", "thoughtsTokenCount", "thinking_tokens")
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "mistral-correlation-id")


class ReplyReader:
    """Reads one attempt."""

    def __init__(self, request: Request | EmbedRequest, exchange: Exchange, redact: Callable[[str], str]) -> None:
        self._request = request
        self.exchange = exchange
        self._redact = redact
        self._pieces: list[str] = []
        self._thought = self._called = False
        self._refusal = ""
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._model = ""
        self._vectors: tuple[tuple[float, ...], ...] = ()
        self._error: Exception | None = None

    def whole(self, response: Any) -> None:
        """Takes a response that is not a stream."""
        self._model = response.model or ""
        self._usage = _usage_of(getattr(response, "usage", None))
        choice = response.choices[0]
        self._finish = choice.finish_reason
        self._message(choice.message)

    def take(self, chunk: Any) -> str:
        """Takes a chunk of a stream and returns its text."""
        self._model = chunk.model or self._model
        self._usage = _usage_of(getattr(chunk, "usage", None)) or self._usage
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self._finish = choice.finish_reason or self._finish
        return self._message(choice.delta)

    def vectors(self, response: Any) -> None:
        """Takes the vectors of an embedding."""
        self._model = response.model or ""
        self._usage = _usage_of(getattr(response, "usage", None))
        rows = (row if isinstance(row, dict) else row.model_dump() for row in response.data or ())
        ordered = sorted(rows, key=lambda row: row.get("index", 0))
        self._vectors = tuple(tuple(float(x) for x in row["embedding"]) for row in ordered)

    def failed(self, error: Exception) -> None:
        """Takes what LiteLLM raised."""
        self._error = error

    def reply(self) -> Reply:
        """The attempt as a value."""
        evidence = examine(self.exchange.text)
        error = self._failure(evidence)
        if error is None and isinstance(self._request, Request):
            error = self._refused(evidence)
        elif error is None:
            error = self._too_few()
        request = self._request
        return Reply(
            text="".join(self._pieces),
            error=self._with_facts(error) if error is not None else None,
            finish_reason=self._redacted(self._finish) if evidence.finish else None,
            usage=self._received_usage() if evidence.usage else None,
            response_model=self._redact(str(self._model)),
            request_id=self._request_id(),
            sent=self.exchange.requests > 0,
            vectors=self._vectors,
            dropped_params=dropped_params(request, self.exchange.sent) if isinstance(request, Request) else (),
            headers=self.exchange.headers,
        )

    def _redacted(self, text: str | None) -> str | None:
        return None if text is None else self._redact(text)

    def _received_usage(self) -> Usage | None:
        """The usage without the count of thinking that LiteLLM makes up where the wire carries none."""
        usage = self._usage
        if usage is None or any(name in self.exchange.text for name in _THINKING_COUNTS):
            return usage
        return replace(usage, reasoning_tokens=0)

    def _message(self, message: Any) -> str:
        text = getattr(message, "content", None) or ""
        self._pieces.append(text)
        self._thought = self._thought or bool(getattr(message, "reasoning_content", None))
        self._called = self._called or bool(getattr(message, "tool_calls", None))
        self._refusal += getattr(message, "refusal", None) or ""
        return text

    def _failure(self, evidence: Evidence) -> LLMError | None:
        """Why no complete response came, or None."""
        status, error = self.exchange.status, self._error
        causes = list(_causes(error)) + list(_causes(self.exchange.broke))
        miss = next((cause for cause in causes if type(cause).__name__ in _MISSES), None)
        if miss is not None:
            return CassetteMissError(str(miss))
        if status is not None and 300 <= status < 400:
            return redirect(status, self.exchange.headers.get("location", ""))
        if evidence.error is not None or (status is not None and status >= 400):
            return self._complained(evidence)
        if error is None and self.exchange.broke is None:
            return None
        if self.exchange.broke is None and self._was_cut(evidence):
            return ConnectionFailedError(_CUT)
        return self._broken(causes)

    def _was_cut(self, evidence: Evidence) -> bool:
        """True if a stream began and ended without a finish reason, whatever LiteLLM made of it."""
        stream = isinstance(self._request, Request) and self._request.stream
        return stream and evidence.documents > 0 and not evidence.finish

    def _complained(self, evidence: Evidence) -> LLMError:
        status = self.exchange.status
        complaint = complaint_of(self.exchange.text, evidence.error)
        kind = kind_of(status, complaint)
        words = complaint.words or "no reason given"
        failure = kind(f"{words}{self._advice(kind, complaint.codes)}")
        if complaint.wait is not None:
            failure.retry_after = complaint.wait
        if self.exchange.headers.get("x-should-retry") == "false" and failure.verdict is Verdict.RETRY:
            failure.verdict = Verdict.NEXT  # type: ignore[misc]
        return failure

    def _broken(self, causes: list[BaseException]) -> LLMError:
        kinds = tuple(type(cause) for cause in causes)
        if any(issubclass(kind, BodyTooLargeError) for kind in kinds):
            return BadResponseError("the body is larger than an answer, and was not read to its end")
        if any(issubclass(kind, httpx.TimeoutException | TimeoutError) for kind in kinds):
            return LLMTimeoutError(f"no answer within {self._request.timeout:g} s; raise `timeout` if it needs longer")
        if self.exchange.requests and self.exchange.status is None and not _is_network(kinds):
            return ConnectionFailedError(f"the connection failed ({kinds[0].__name__})")
        if _is_network(kinds):
            reason = next(said(cause) for cause in causes if isinstance(cause, httpx.TransportError | OSError))
            return ConnectionFailedError(f"{reason or 'the connection broke'}{self._where()}")
        if self.exchange.requests:
            return BadResponseError(f"status {self.exchange.status}, but no answer of a model: {self._glimpse()}")
        return InvalidRequestError(f"could not be asked: {said(causes[0])[:300]}")

    def _refused(self, evidence: Evidence) -> LLMError | None:
        """Why a complete response is no answer, or None."""
        text = "".join(self._pieces)
        if self._finish == "content_filter" or self._refusal:
            return ContentFilteredError(f"the answer was withheld: {self._refusal or 'finish reason content_filter'}")
        if not evidence.finish:
            if self._was_cut(evidence):
                return ConnectionFailedError(_CUT)
            return BadResponseError(f"status {self.exchange.status}, but no answer of a model: {self._glimpse()}")
        if text.strip() or self._finish == "length":
            return None
        if self._called:
            return BadResponseError("the model called a tool instead of answering; no tools were offered to it")
        if self._thought:
            return BadResponseError(
                "the model thought and then said nothing; raise `max_tokens`, or set `reasoning: off` for the model"
            )
        return BadResponseError(f"the answer is empty (finish reason {evidence.finish})")

    def _too_few(self) -> LLMError | None:
        wanted = len(self._request.texts) if isinstance(self._request, EmbedRequest) else 0
        if len(self._vectors) == wanted and all(self._vectors):
            return None
        return BadResponseError(f"{wanted} texts were sent and {len(self._vectors)} vectors came back")

    def _with_facts(self, error: LLMError) -> LLMError:
        target = self._request.target
        name = f"{target.model.alias} ({target.model.model})"
        error.args = (self._redact(f"{name}: {error.args[0]}"),)
        error.model, error.provider = target.model.alias, target.provider.name
        error.status = self.exchange.status if not isinstance(error, ConnectionFailedError) else None
        error.request_id = self._request_id()
        if error.retry_after is None:
            error.retry_after = retry_after(self.exchange.headers, time.time())
        return error

    def _advice(self, kind: type[LLMError], codes: tuple[str, ...]) -> str:
        target = self._request.target
        if kind.code == "model_not_found" and target.provider.wire == "ollama":
            return f"; try: testronaut-llm models pull {target.model.model}"
        if kind.code == "model_not_found" and target.provider.wire == "azure":
            if "deploymentnotfound" in codes:
                return f"; {target.model.name!r} must be the name of a deployment of {target.api_base}"
            return f"; nothing is at this URL: check api_base ({target.api_base}) and api_version"
        if kind.code == "quota":
            return f"; this is billing, not speed: add credit at {target.provider.name}"
        return ""

    def _request_id(self) -> str | None:
        return self._redacted(next(filter(None, map(self.exchange.headers.get, _REQUEST_IDS)), None))

    def _where(self) -> str:
        base = self._request.target.api_base
        return f" ({base.split('?', maxsplit=1)[0]})" if base else ""

    def _glimpse(self) -> str:
        return repr(" ".join(self.exchange.text[:200].split())[:120])


def _usage_of(usage: Any) -> Usage | None:
    if usage is None:
        return None
    prompt = getattr(usage, "prompt_tokens_details", None)
    answer = getattr(usage, "completion_tokens_details", None)
    names = ("cache_creation_tokens", "cache_write_tokens")
    written = getattr(usage, "cache_creation_input_tokens", None) or next(
        filter(None, (getattr(prompt, name, None) for name in names)), 0
    )
    return Usage(
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        cached_tokens=getattr(prompt, "cached_tokens", None) or 0,
        cache_write_tokens=written,
        reasoning_tokens=getattr(answer, "reasoning_tokens", None) or 0,
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_network(kinds: tuple[type[BaseException], ...]) -> bool:
    return any(issubclass(kind, httpx.TransportError | OSError) for kind in kinds)
