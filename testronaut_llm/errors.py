"""The errors of this package, and what the fallback does after each.

::

    LLMError
      ConfigError                   a person must fix it; file and line where there is one
        UnknownTaskError            names the known tasks and the closest one
        MissingCredentialError      names the variable to set
        SecretInPromptError         names the kind of secret and its place
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
      CacheMissError                `cache="only"` and no stored answer
      AllModelsFailedError          every candidate was tried and failed
      CassetteMissError             a request in a replay was never recorded

Errors hold only plain, redacted data. They can be pickled, and they hold no secret and no exception of LiteLLM or of
a provider's SDK.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from testronaut_llm.records import Attempt


class Verdict(Enum):
    """The step after a failed attempt."""

    RETRY = "retry"
    NEXT = "next"
    STOP = "stop"


class LLMError(Exception):
    """Base of all errors of this package.

    Attributes:
        model: alias of the model that was asked, if any.
        provider: name of its provider.
        status: HTTP status, if a response arrived.
        retry_after: seconds that the provider asked to wait.
        request_id: id of the request at the provider.
        code: stable name of the kind of error, as used in `fallback_on`.
        attempts: the attempts before this was raised, in order.

    >>> try:
    ...     llm.complete("cli_analysis", "What is ls?", max_tokens=0)
    ... except LLMError as error:
    ...     error.code, str(error)
    ('invalid_request', 'max_tokens is 0; expected a whole number of at least 1')
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
    """The configuration or the call is wrong, and a person has to fix it.

    Attributes:
        file: path of the file with the error, if there is one.
        line: 1-based line of the first error.
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
    """An API key is missing; the message names the variable to set."""

    code = "missing_credential"


class SecretInPromptError(ConfigError):
    """A prompt holds a secret, and the task has `secrets: refuse`. The message never holds the secret."""

    code = "secret_in_prompt"


class BudgetExceededError(LLMError):
    """The call could cost more than is left of a limit."""

    code = "budget_exceeded"


class ProviderError(LLMError):
    """One attempt at one model failed."""

    code = "provider"
    verdict = Verdict.NEXT


class AuthenticationError(ProviderError):
    """401: the key is invalid."""

    code = "authentication"


class PermissionDeniedError(ProviderError):
    """403: the key is valid, but has no permission for this."""

    code = "permission_denied"


class QuotaExceededError(ProviderError):
    """No credit is left: add credit at the provider. Waiting does not help."""

    code = "quota"


class RateLimitError(ProviderError):
    """429: too many requests or tokens a minute."""

    code = "rate_limit"
    verdict = Verdict.RETRY


class OverloadedError(ProviderError):
    """529 or 503: the provider is overloaded."""

    code = "overloaded"
    verdict = Verdict.RETRY


class ServerError(ProviderError):
    """5xx: the provider failed."""

    code = "server_error"
    verdict = Verdict.RETRY


class LLMTimeoutError(ProviderError):
    """No complete answer within the time-out of an attempt, or the deadline of the call."""

    code = "timeout"
    verdict = Verdict.RETRY


class ConnectionFailedError(ProviderError):
    """There is no connection, or it broke before the answer was complete. NEXT if a proxy variable is invalid."""

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
    """400 or 422: the request is invalid. Sending it again does not help."""

    code = "invalid_request"
    verdict = Verdict.STOP


class BadResponseError(ProviderError):
    """The status is a success, but the body is no answer: it is empty, cut, malformed or HTML."""

    code = "bad_response"


class OutputInvalidError(LLMError):
    """The answer does not match its schema, or `accept` refused it.

    Attributes:
        text: the answer as received.
    """

    code = "invalid_output"
    verdict = Verdict.NEXT

    def __init__(self, message: str, *, text: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.text = text


class OutputTruncatedError(LLMError):
    """The answer was cut at `max_tokens`, and again at twice that.

    Attributes:
        text: the part that was received.
    """

    code = "truncated"
    verdict = Verdict.STOP

    def __init__(self, message: str, *, text: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.text = text


class LocalModelError(LLMError):
    """A local model is not pulled, does not fit into memory, or is not the expected file."""

    code = "local_model"
    verdict = Verdict.NEXT


class NoReadyModelError(LLMError):
    """No candidate is ready; the message says how to fix each.

    Attributes:
        unreachable: True if the only problem of each is a server that does not answer.
    """

    code = "no_ready_model"
    unreachable = False


class CacheMissError(LLMError):
    """`cache` is `only`, and no answer of a candidate is stored."""

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
    """A request in a replay was never recorded."""

    code = "cassette_miss"
