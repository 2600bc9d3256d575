"""From what LiteLLM made of a response, and what really came, to a Reply that can be trusted.

An answer is accepted with content, a finish reason that was really received, and nothing withheld.
Whatever went wrong, the usage that was reported is kept: a failed attempt may have to be paid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
    OutputInvalidError,
    Verdict,
)
from testronaut_llm.gateway.answer_text import AnswerText, well_formed
from testronaut_llm.gateway.evidence import Evidence, examine
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.finish import failure_of, in_openai_words
from testronaut_llm.gateway.model_request import EmbedRequest, Reply, Request, dropped_params
from testronaut_llm.gateway.provider_errors import complaint_of, kind_of, proxy_refused, redirect, retry_after
from testronaut_llm.providers.network import proxy_for
from testronaut_llm.providers.provider_registry import pull_command
from testronaut_llm.support.http_body import BodyError
from testronaut_llm.telemetry.redaction import said

_MISSES = ("CassetteMissError", "CannotOverwriteExistingCassetteException")
"""How a replay says that it has no such recording: our cassettes' own error, and plain vcrpy's."""
_CUT = "the answer broke off: the stream ended without a finish reason"
_REASONING = ('"reasoning_content"', '"reasoning"', '"thinking"')  # where servers put it that know the template
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "mistral-correlation-id")


class ReplyReader:
    """Reads one attempt."""

    def __init__(self, request: Request | EmbedRequest, exchange: Exchange, redact: Callable[[str], str]) -> None:
        self._request = request
        self.exchange = exchange
        self._redact = redact
        self._text = AnswerText(request)
        self._thought = self._refusal = ""
        self._called = False
        self._model = ""
        self._vectors: tuple[tuple[float, ...], ...] = ()
        self._error: Exception | None = None

    def whole(self, response: Any) -> None:
        """Takes a response that is not a stream."""
        self._model = response.model or ""
        text = self._message(response.choices[0].message)
        if self._thought and not any(name in self.exchange.text for name in _REASONING):
            text = text.lstrip()  # LiteLLM has split it, and leaves the empty lines between
        self._text.take(text)

    def take(self, chunk: Any) -> str:
        """Takes a chunk of a stream, and returns the text that can be handed out by now."""
        self._model = chunk.model or self._model
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        return self._text.take(self._message(choice.delta), last=bool(choice.finish_reason))

    def vectors(self, response: Any) -> None:
        """Takes the vectors of an embedding."""
        self._model = response.model or ""
        rows = (row if isinstance(row, dict) else row.model_dump() for row in response.data or ())
        ordered = sorted(rows, key=lambda row: row.get("index", 0))
        self._vectors = tuple(tuple(float(x) for x in row["embedding"]) for row in ordered)

    def failed(self, error: Exception) -> None:
        """Takes what LiteLLM raised."""
        self._error = error

    def reply(self) -> Reply:
        """The attempt as a value."""
        evidence = examine(self.exchange.text)
        reasoning, text = self._text.parts()
        self._thought += reasoning
        error = self._failure(evidence)
        if error is None and isinstance(self._request, Request):
            error = self._refused(evidence, text)
        elif error is None:
            error = self._too_few()
        request = self._request
        return Reply(
            text=text,
            reasoning=self._thought,
            error=self._with_facts(error) if error is not None else None,
            finish_reason=self._redacted(self._finish_reason(evidence.finish)),
            usage=evidence.usage,
            service=evidence.service,
            response_model=self._redact(well_formed(self._model)),
            request_id=self._request_id(),
            sent=self.exchange.left,
            vectors=self._vectors,
            dropped_params=dropped_params(request, self.exchange.sent) if isinstance(request, Request) else (),
            headers=self.exchange.headers,
            num_ctx=request.num_ctx,
        )

    def _redacted(self, text: str | None) -> str | None:
        return None if text is None else self._redact(text)

    def _message(self, message: Any) -> str:
        self._thought += getattr(message, "reasoning_content", None) or ""
        self._called = self._called or bool(getattr(message, "tool_calls", None))
        self._refusal += getattr(message, "refusal", None) or ""
        return str(getattr(message, "content", None) or "")

    def _finish_reason(self, word: str | None) -> str | None:
        """The word that was received, in OpenAI's words where it is known."""
        known = in_openai_words(word) if word else None
        forced = known == "tool_calls" and not self._called  # a call that LiteLLM asked for, and has made the text
        return "stop" if forced else known

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
        if failure := failure_of(evidence.finish or ""):
            return failure
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
        if status == 407:
            return proxy_refused(proxy_for(self._request.target.api_base))
        complaint = complaint_of(self.exchange.text, evidence.error)
        kind = kind_of(status, complaint)
        words = complaint.words or "no reason given"
        failure = kind(f"{words}{self._advice(kind, complaint.codes)}")
        failure.retry_after = complaint.wait
        if evidence.documents == 1 and complaint.status and status is not None and status < 400:
            failure.status = complaint.status  # nothing but the error came
        if isinstance(failure, OutputInvalidError):
            failure.text = complaint.generated
        if self.exchange.headers.get("x-should-retry") == "false" and failure.verdict is Verdict.RETRY:
            failure.verdict = Verdict.NEXT  # type: ignore[misc]
        return failure

    def _broken(self, causes: list[BaseException]) -> LLMError:
        kinds = tuple(type(cause) for cause in causes)
        if body := next((cause for cause in causes if isinstance(cause, BodyError)), None):
            return BadResponseError(str(body))
        if any(issubclass(kind, httpx.TimeoutException | TimeoutError) for kind in kinds):
            return LLMTimeoutError(f"no answer within {self._request.timeout:g} s; raise `timeout` if it needs longer")
        if self.exchange.requests and self.exchange.status is None and not _is_network(kinds):
            return ConnectionFailedError(f"the connection failed ({kinds[0].__name__}){self._running()}")
        if any(isinstance(cause, httpx.ProxyError) and str(cause).startswith("407") for cause in causes):
            return proxy_refused(proxy_for(self._request.target.api_base))
        if _is_network(kinds):
            reason = next(said(cause) for cause in causes if isinstance(cause, httpx.TransportError | OSError))
            return ConnectionFailedError(f"{reason}{self._where()}{self._running()}")
        if self.exchange.requests:
            return BadResponseError(f"status {self.exchange.status}, but no answer of a model: {self._glimpse()}")
        return InvalidRequestError(f"could not be asked: {said(causes[0])[:300]}")

    def _refused(self, evidence: Evidence, text: str) -> LLMError | None:
        """Why a complete response is no answer, or None."""
        if self._refusal:
            return ContentFilteredError(f"the answer was withheld: {self._refusal}")
        if not evidence.finish:
            if self._was_cut(evidence):
                return ConnectionFailedError(_CUT)
            return BadResponseError(f"status {self.exchange.status}, but no answer of a model: {self._glimpse()}")
        if text.strip() or in_openai_words(evidence.finish) == "length":
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
        if error.status is None and not isinstance(error, ConnectionFailedError):
            error.status = self.exchange.status
        error.request_id = self._request_id()
        if error.retry_after is None:
            error.retry_after = retry_after(self.exchange.headers, time.time())
        return error

    def _advice(self, kind: type[LLMError], codes: tuple[str, ...]) -> str:
        target = self._request.target
        if kind.code == "model_not_found" and target.provider.wire == "ollama":
            return f"; run: {pull_command(target.model)}"
        if kind.code == "model_not_found" and target.provider.wire == "azure":
            if "deploymentnotfound" in codes:
                return f"; {target.model.name!r} must be the name of a deployment of {target.api_base}"
            return f"; nothing is at this URL: check api_base ({target.api_base}) and api_version"
        if kind.code == "context_window" and target.provider.wire == "ollama":
            asked = self._request.num_ctx
            return f"; raise `num_ctx` of the model{f' ({asked:,} tokens now)' if asked else ''}, or shorten the text"
        if kind.code == "quota":
            return f"; this is billing, not speed: add credit at {target.provider.name}"
        return ""

    def _request_id(self) -> str | None:
        return self._redacted(next(filter(None, map(self.exchange.headers.get, _REQUEST_IDS)), None))

    def _where(self) -> str:
        base = self._request.target.api_base
        proxy = proxy_for(base)
        parts = (base and base.split("?", maxsplit=1)[0], proxy and f"through the proxy {proxy}")
        return f" ({', '.join(filter(None, parts))})" if any(parts) else ""

    def _running(self) -> str:
        """The question to ask first where the connection to an Ollama server fails."""
        target = self._request.target
        return f"; is `ollama serve` running at {target.api_base}?" if target.provider.wire == "ollama" else ""

    def _glimpse(self) -> str:
        return repr(" ".join(self.exchange.text[:200].split())[:120])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_network(kinds: tuple[type[BaseException], ...]) -> bool:
    return any(issubclass(kind, httpx.TransportError | OSError) for kind in kinds)
