"""Builds a Reply from LiteLLM's response and from the received body.

An answer needs content, a received finish reason, and no refusal. The reported usage is kept after every error, since a
failed attempt may cost money.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from testronaut_llm import errors
from testronaut_llm.errors import LLMError, Verdict
from testronaut_llm.gateway.evidence import Evidence, examine, logprobs_of
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply, Request, dropped_params
from testronaut_llm.gateway.provider_errors import complaint_of, failure_of, in_openai_words, kind_of, retry_after
from testronaut_llm.providers.network import proxy_for
from testronaut_llm.providers.provider import pull_command
from testronaut_llm.support.http_body import BodyError
from testronaut_llm.support.text import ReasoningFilter, split, tags_for
from testronaut_llm.telemetry.redaction import said

_MISSES = ("CassetteMissError", "CannotOverwriteExistingCassetteException")
"""Names of the errors of a replay without such a recording: our cassettes' and vcrpy's."""
_REASONING = ('"reasoning_content"', '"reasoning"', '"thinking"')  # fields of reasoning, if a server knows the template
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "mistral-correlation-id")


class ReplyReader:
    """Reads one attempt. `error` is the exception that LiteLLM raised."""

    def __init__(self, request: Request, exchange: Exchange, redact: Callable[[str], str]) -> None:
        self._request, self._target = request, request.target
        self._exchange, self._redact = exchange, redact
        self._tags = tags_for(message.content for message in request.messages if message.role != "assistant")
        if self._target.provider.wire == "anthropic":
            self._tags.pop("<thinking>", None)  # Claude writes them into its text
        self._filter = ReasoningFilter(self._tags)
        self._pieces: list[str] = []
        self._half = self._thought = self._refusal = self._model = ""
        self._called_tool = False
        self._vectors: tuple[tuple[float, ...], ...] = ()
        self.error: Exception | None = None

    def take(self, response: Any) -> str:
        """Takes a response or a chunk of a stream; returns the text that can be passed on now."""
        shown = self._exchange.light.restored
        self._model = shown(response.model)[:256] or self._model
        if self._request.texts:
            rows = [row if isinstance(row, dict) else row.model_dump() for row in response.data or ()]
            rows.sort(key=lambda row: row.get("index", 0))
            self._vectors = tuple(
                [tuple([float(x) for x in self._exchange.light.vector(row["embedding"])]) for row in rows]
            )
            return ""
        if not response.choices:
            return ""
        choice, streams = response.choices[0], self._request.stream
        message = choice.delta if streams else choice.message
        self._thought += shown(getattr(message, "reasoning_content", None))
        self._refusal += shown(getattr(message, "refusal", None))
        self._called_tool = self._called_tool or bool(getattr(message, "tool_calls", None))
        piece = shown(str(getattr(message, "content", None) or ""))
        if not streams and self._thought and not any(name in self._exchange.text for name in _REASONING):
            piece = piece.lstrip()  # LiteLLM has split it and left empty lines between
        self._pieces.append(piece)
        if not streams:
            return ""
        text, last = self._half + piece, bool(choice.finish_reason)
        end = len(text) - (not last and "\ud800" <= text[-1:] <= "\udbff")  # its other half is in the next piece
        self._half = text[end:]
        return self._filter.take(_well_formed(text[:end])) + (self._filter.end() if last else "")

    def reply(self) -> Reply:
        """Returns the result of the attempt."""
        exchange = self._exchange
        evidence = examine(exchange.text)
        reasoning, text = split(_well_formed("".join(self._pieces)), self._tags)
        self._thought += reasoning
        request_id = self._redact(next(filter(None, map(exchange.headers.get, _REQUEST_IDS)), "")) or None
        error = self._failure(evidence) or self._missing(evidence, text)
        if error is not None:
            alias, model = self._target.model.alias, self._target.model.model
            error.args = (self._redact(f"{alias} ({model}): {error.args[0]}"),)
            error.model, error.provider, error.request_id = alias, self._target.provider.name, request_id
            if error.status is None and not isinstance(error, errors.ConnectionFailedError):
                error.status = exchange.status
            if error.retry_after is None:
                error.retry_after = retry_after(exchange.headers, time.time())
        finish = self._redact(in_openai_words(evidence.finish)) if evidence.finish else None
        if finish == "tool_calls" and not self._called_tool:
            finish = "stop"  # a tool call that LiteLLM asked for, and has converted to text
        return Reply(
            text=text,
            reasoning=self._thought,
            error=error,
            finish_reason=finish,
            usage=evidence.usage,
            service=evidence.service,
            response_model=self._redact(_well_formed(self._model)),
            request_id=request_id,
            sent=exchange.left,
            vectors=self._vectors,
            dropped_params=dropped_params(self._request, exchange.sent),
            logprobs=logprobs_of(evidence.first) if self._request.logprobs else (),
            headers=exchange.headers,
            num_ctx=self._request.num_ctx,
        )

    def _failure(self, evidence: Evidence) -> LLMError | None:
        """Returns why no complete response was received, or None. The received body comes before LiteLLM's error."""
        status, broke = self._exchange.status, self._exchange.broke
        causes = [*_causes(self.error), *_causes(broke)]
        # vcrpy reads the body before it connects.
        self._exchange.waits |= any(isinstance(one, httpx.ConnectError | httpx.ConnectTimeout) for one in causes)
        if miss := next((cause for cause in causes if type(cause).__name__ in _MISSES), None):
            return errors.CassetteMissError(str(miss))
        if status is not None and 300 <= status < 400:
            place = self._exchange.headers.get("location", "").split("?", maxsplit=1)[0]
            return errors.BadResponseError(
                f"the server redirects (status {status}) to {place!r}, which is not followed; "
                "set `api_base` to the address that answers"
            )
        if status == 407:
            return self._proxy_refused()
        if evidence.error is not None or (status is not None and status >= 400):
            return self._complained(evidence)
        if failure := failure_of(evidence.finish or ""):
            return failure
        if broke is None and (self.error is None or self._was_cut(evidence)):
            return None
        return self._broken(causes)

    def _was_cut(self, evidence: Evidence) -> bool:
        """True if a stream ended without a received finish reason."""
        return self._request.stream and evidence.count > 0 and not evidence.finish

    def _missing(self, evidence: Evidence, text: str) -> LLMError | None:
        """Returns why a complete response is not an answer, or None."""
        if wanted := len(self._request.texts):
            if wanted == len(self._vectors) and all(self._vectors):
                return None
            return errors.BadResponseError(f"{wanted} texts were sent, and {len(self._vectors)} vectors were received")
        if self._refusal:
            return errors.ContentFilteredError(f"the answer was withheld: {self._refusal}")
        if not evidence.finish:
            cut = errors.ConnectionFailedError("the answer is incomplete: the stream ended without a finish reason")
            return cut if self._was_cut(evidence) else self._no_answer()
        if text.strip() or in_openai_words(evidence.finish) == "length":
            return None
        return errors.BadResponseError(self._why_empty(evidence))

    def _why_empty(self, evidence: Evidence) -> str:
        if self._called_tool:
            return "the model called a tool instead of answering; no tools were offered to it"
        if self._thought:
            return "the model reasoned and gave no answer; raise `max_tokens`, or set `reasoning: off` for the model"
        if self._request.stream and self._exchange.headers.get("content-type", "").startswith("application/json"):
            return "the server did not stream: it sent one JSON document; ask without a stream"
        return f"the answer is empty (finish reason {evidence.finish})"

    def _no_answer(self) -> LLMError:
        start = " ".join(self._exchange.text[:200].split())[:120]
        return errors.BadResponseError(f"status {self._exchange.status}, but the body is not an answer: {start!r}")

    def _complained(self, evidence: Evidence) -> LLMError:
        """Returns the error that the server reports, with a fix for this provider."""
        status, target, wire = self._exchange.status, self._target, self._target.provider.wire
        complaint = complaint_of(self._exchange.text, evidence.error or evidence.first or None)
        kind = kind_of(status, complaint)
        deployment = f"{target.model.name!r} must be the name of a deployment of {target.api_base}"
        no_path = f"nothing is at this URL: check api_base ({target.api_base}) and api_version"
        tokens = f" ({self._request.num_ctx:,} tokens now)" if self._request.num_ctx else ""
        advice = {
            ("quota", wire): f"this is billing, not speed: add credit at {target.provider.name}",
            ("model_not_found", "ollama"): f"run: {pull_command(target.model)}",
            ("model_not_found", "azure"): deployment if "deploymentnotfound" in complaint.codes else no_path,
            ("context_window", "ollama"): f"raise `num_ctx` of the model{tokens}, or shorten the text",
        }.get((kind.code, wire))
        failure = kind("; ".join(filter(None, (complaint.words or "no reason given", advice))))
        failure.retry_after = complaint.wait
        if evidence.count == 1 and complaint.status and status is not None and status < 400:
            failure.status = complaint.status  # only the error was received
        if isinstance(failure, errors.OutputInvalidError):
            failure.text = complaint.generated
        if self._exchange.headers.get("x-should-retry") == "false" and failure.verdict is Verdict.RETRY:
            failure.verdict = Verdict.NEXT  # type: ignore[misc]
        return failure

    def _broken(self, causes: list[BaseException]) -> LLMError:
        """Returns why the connection, or LiteLLM, failed."""
        if body := next((cause for cause in causes if isinstance(cause, BodyError)), None):
            return errors.BadResponseError(str(body))
        if any(isinstance(cause, httpx.TimeoutException | TimeoutError) for cause in causes):
            return errors.LLMTimeoutError(
                f"no answer within {self._request.timeout:g} s; raise `timeout` if it needs longer"
            )
        if any(isinstance(cause, httpx.ProxyError) and str(cause).startswith("407") for cause in causes):
            return self._proxy_refused()
        base = self._target.api_base
        running = f"; is `ollama serve` running at {base}?" if self._target.provider.wire == "ollama" else ""
        network = next((cause for cause in causes if isinstance(cause, httpx.TransportError | OSError)), None)
        if network is not None:
            proxy = proxy_for(base)
            where = ", ".join(filter(None, (base and base.split("?")[0], proxy and f"through the proxy {proxy}")))
            fix = running or ("" if self._exchange.left else "; check that its server runs, and the network")
            return errors.ConnectionFailedError(f"{said(network)}{where and f' ({where})'}{fix}")
        if not self._exchange.requests:
            return errors.InvalidRequestError(f"could not be asked: {said(causes[0])[:300]}")
        if self._exchange.status is None:
            return errors.ConnectionFailedError(f"the connection failed ({type(causes[0]).__name__}){running}")
        return self._no_answer()

    def _proxy_refused(self) -> LLMError:
        """Returns the error for status 407, which the proxy sends; a retry would not help."""
        error = errors.ConnectionFailedError(
            f"the proxy {proxy_for(self._target.api_base) or 'in between'} asks for a valid user name and password "
            "(status 407); put them into its URL: http://user:password@host:port",
            status=407,
        )
        error.verdict = Verdict.NEXT  # type: ignore[misc]
        return error


def _well_formed(text: str) -> str:
    """Returns a text as valid Unicode: surrogate pairs are joined, lone surrogates are escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return joined.encode("utf-8", "backslashreplace").decode()
    return text


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
