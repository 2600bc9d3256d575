"""Every failure a caller can meet, and what the fallback does about each.

::

    LLMError
      ConfigError                   a person must act; file and line where there is one
        UnknownTaskError            names the known tasks and the closest one
        MissingCredentialError      names the variable to set
      BudgetExceededError           what was asked, what is left, which limit
      ProviderError                 one attempt failed
        AuthenticationError         401        NEXT
        PermissionDeniedError       403        NEXT
        QuotaExceededError          no credit  NEXT
        RateLimitError              429        RETRY
        OverloadedError             529, 503   RETRY
        ServerError                 5xx        RETRY
        LLMTimeoutError             no answer  RETRY
        ConnectionFailedError       no network RETRY
        ModelNotFoundError          404        NEXT
        ContextWindowError          too long   NEXT, to a larger window
        ContentFilteredError        refused    STOP, unless the task's `fallback_on` names it
        InvalidRequestError         400, 422   STOP
        BadResponseError            200, but no answer          NEXT
      OutputInvalidError            not the schema, after one repair     NEXT
      OutputTruncatedError          finish `length` twice                STOP
      LocalModelError               the message is the command that fixes it   NEXT
      NoReadyModelError             no candidate is ready
      CacheMissError                `cache="only"` and nothing there
      AllModelsFailedError          every candidate was tried and failed
      CassetteMissError             a replay met a request that was never recorded

Errors hold plain, redacted data, so that they survive pickling and never carry a
provider SDK's exception (most of LiteLLM's cannot be unpickled) or a secret.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from testronaut_llm.records import Attempt


class Verdict(Enum):
    """What follows a failed attempt."""

    RETRY = "retry"
    NEXT = "next"
    STOP = "stop"


class LLMError(Exception):
    """Base of all errors of this package.

    Attributes:
        model: alias of the model that was asked, where one was.
        provider: its provider's name.
        status: HTTP status, where a response arrived.
        retry_after: seconds the provider asked to wait.
        request_id: the provider's id of the exchange.
        code: stable name of the kind of failure, as `fallback_on` spells it.
        attempts: what was tried before this was raised, in order.
    """

    code: ClassVar[str] = "error"
    verdict: ClassVar[Verdict] = Verdict.STOP

    def __init__(
        self,
        message: str,
        *,
        model: str | None = None,
        provider: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        attempts: tuple[Attempt, ...] = (),
    ) -> None:
        super().__init__(message)
        self.model = model
        self.provider = provider
        self.status = status
        self.retry_after = retry_after
        self.request_id = request_id
        self.attempts = attempts


class ConfigError(LLMError):
    """The configuration or the call is wrong in a way that only a person can fix.

    Attributes:
        file: path of the file at fault, where there is one.
        line: 1-based line of the first fault.
    """

    code = "config"

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.file = file
        self.line = line


class UnknownTaskError(ConfigError):
    """The task is not in `llm.yaml`."""

    code = "unknown_task"


class MissingCredentialError(ConfigError):
    """A key is needed and is not there; the message names the variable to set."""

    code = "missing_credential"


class BudgetExceededError(LLMError):
    """The call could cost more than a limit leaves."""

    code = "budget_exceeded"


class ProviderError(LLMError):
    """One attempt at one model failed."""

    code = "provider"
    verdict = Verdict.NEXT


class AuthenticationError(ProviderError):
    """401: the key is not accepted."""

    code = "authentication"


class PermissionDeniedError(ProviderError):
    """403: the key is known, and may not do this."""

    code = "permission_denied"


class QuotaExceededError(ProviderError):
    """No credit left. Waiting does not help; paying does."""

    code = "quota"


class RateLimitError(ProviderError):
    """429: too many requests or tokens a minute."""

    code = "rate_limit"
    verdict = Verdict.RETRY


class OverloadedError(ProviderError):
    """529 or 503: the provider has too much to do."""

    code = "overloaded"
    verdict = Verdict.RETRY


class ServerError(ProviderError):
    """5xx: the provider failed."""

    code = "server_error"
    verdict = Verdict.RETRY


class LLMTimeoutError(ProviderError):
    """No complete answer in time: of one attempt, or of the whole call's deadline."""

    code = "timeout"
    verdict = Verdict.RETRY


class ConnectionFailedError(ProviderError):
    """No connection, or it broke before the answer was whole. NEXT where a variable of this machine rules it out."""

    code = "connection_failed"
    verdict = Verdict.RETRY


class ModelNotFoundError(ProviderError):
    """404: the provider does not know this model or deployment."""

    code = "model_not_found"


class ContextWindowError(ProviderError):
    """The prompt does not fit the model's window."""

    code = "context_window"


class ContentFilteredError(ProviderError):
    """The provider refused the prompt or withheld the answer."""

    code = "content_filter"
    verdict = Verdict.STOP


class InvalidRequestError(ProviderError):
    """400 or 422: the request itself is at fault; asking again cannot help."""

    code = "invalid_request"
    verdict = Verdict.STOP


class BadResponseError(ProviderError):
    """A success status without an answer: empty, cut, HTML, the wrong shape."""

    code = "bad_response"


class OutputInvalidError(LLMError):
    """The answer does not obey its schema, or `accept` refused it.

    Attributes:
        text: the answer as it came.
    """

    code = "invalid_output"
    verdict = Verdict.NEXT

    def __init__(self, message: str, *, text: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.text = text


class OutputTruncatedError(LLMError):
    """The answer was cut by `max_tokens`, also with a doubled cap.

    Attributes:
        text: the part that came.
    """

    code = "truncated"
    verdict = Verdict.STOP

    def __init__(self, message: str, *, text: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.text = text


class LocalModelError(LLMError):
    """A local model is not pulled, does not fit or is not what it should be."""

    code = "local_model"
    verdict = Verdict.NEXT


class NoReadyModelError(LLMError):
    """No candidate is ready; the message says how to fix each.

    Attributes:
        unreachable: True if each lacks nothing but a server that answers.
    """

    code = "no_ready_model"
    unreachable = False


class CacheMissError(LLMError):
    """`cache="only"` and no candidate's answer is stored."""

    code = "cache_miss"


class AllModelsFailedError(LLMError):
    """Every candidate was tried and failed.

    Attributes:
        last: the error of the last attempt.
    """

    code = "all_models_failed"

    def __init__(self, message: str, *, last: LLMError | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.last = last


class CassetteMissError(LLMError):
    """A replay met a request that was never recorded."""

    code = "cassette_miss"
