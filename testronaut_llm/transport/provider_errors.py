"""A provider's failure becomes one of ours: status and the body's own codes first, its words last.

LiteLLM's exception class is never asked: it differs by provider for the same failure, loses statuses
(a 529 arrives as 500) and is chosen by words in the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from testronaut_llm.errors import (
    AuthenticationError,
    BadResponseError,
    ContentFilteredError,
    ContextWindowError,
    InvalidRequestError,
    LLMError,
    LLMTimeoutError,
    LocalModelError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
)

_BY_CODE: dict[str, type[LLMError]] = {
    "content_filter": ContentFilteredError,
    "content_policy_violation": ContentFilteredError,
    "responsibleaipolicyviolation": ContentFilteredError,
    "contentfiltered": ContentFilteredError,
    "insufficient_quota": QuotaExceededError,
    "billing_error": QuotaExceededError,
    "billing_hard_limit_reached": QuotaExceededError,
    "billing_not_active": QuotaExceededError,
    "insufficient_balance": QuotaExceededError,
    "credit_balance_too_low": QuotaExceededError,
    "context_length_exceeded": ContextWindowError,
    "exceed_context_size_error": ContextWindowError,
    "request_too_large": ContextWindowError,
    "string_above_max_length": ContextWindowError,
    "invalid_api_key": AuthenticationError,
    "authentication_error": AuthenticationError,
    "api_key_invalid": AuthenticationError,
    "permission_error": PermissionDeniedError,
    "model_not_found": ModelNotFoundError,
    "unknown_model": ModelNotFoundError,
    "deploymentnotfound": ModelNotFoundError,
    "overloaded_error": OverloadedError,
    "engine_overloaded": OverloadedError,
}
_BY_STATUS: dict[int, type[LLMError]] = {
    401: AuthenticationError,
    402: QuotaExceededError,
    403: PermissionDeniedError,
    404: ModelNotFoundError,
    408: LLMTimeoutError,
    409: ServerError,
    413: ContextWindowError,
    429: RateLimitError,
    501: InvalidRequestError,
    503: OverloadedError,
    504: LLMTimeoutError,
    529: OverloadedError,
}
_WITHOUT_STATUS: dict[str, type[LLMError]] = {
    # Errors that arrive under status 200, in the middle of a stream.
    "rate_limit_error": RateLimitError,
    "rate_limit_exceeded": RateLimitError,
    "rate_limited": RateLimitError,
    "invalid_request_error": InvalidRequestError,
    "not_found_error": ModelNotFoundError,
    "timeout_error": LLMTimeoutError,
}
_BY_WORDS: tuple[tuple[re.Pattern[str], frozenset[int], type[LLMError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), frozenset(statuses), kind)
    for pattern, statuses, kind in (
        (
            r"prompt is too long|maximum context length|exceeds? the (available )?context (size|length|window)"
            r"|input \(\d+ tokens\) is too large|input token count .* exceeds|context (length|window) exceeded"
            r"|too many total text bytes",
            (400, 422, 500),
            ContextWindowError,
        ),
        (
            r"credit balance is too low|insufficient balance|spend(ing)? limit|exceeded your budget",
            (400, 403, 429),
            QuotaExceededError,
        ),
        (r"API key not valid|incorrect API key", (400,), AuthenticationError),
        (
            # Ollama cannot load the model; another try would load it anew.
            r"requires more system memory|out of memory|timed out waiting for .*runner"
            r"|(unable to|error) load(ing)? model",
            (500,),
            LocalModelError,
        ),
        (r"^invalid format:|^option \S+ must be", (500,), InvalidRequestError),
        (r"does not support embeddings", (500,), InvalidRequestError),
    )
)
_REFUSED_SETTINGS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"does not support thinking"), ("reasoning",)),  # Ollama, 400
)
"""What is said of a setting that the model does not take, and that it can be asked without."""
_SPEND = re.compile(r"spend_?limit|credit_?balance|hard_?limit|billing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """An error body, read: the provider's codes in lower case, its words, the wait it asks for in seconds."""

    codes: tuple[str, ...] = ()
    words: str = ""
    wait: float | None = None


def complaint_of(text: str, document: dict[str, Any] | None = None) -> Complaint:
    """Reads an error body of any provider.

    Args:
        text: the body; used where it is no JSON.
        document: the part of a stream that reported the error, where there is one.
    """
    body = document if document is not None else _json(text)
    if isinstance(body, list):
        body = next((one for one in body if isinstance(one, dict)), None)
    if not isinstance(body, dict):
        plain = re.sub(r"<[^>]*>", " ", text)
        return Complaint(words=" ".join(plain.split())[:300])
    error: Any = body.get("error", body)
    if isinstance(error, str):
        inner = _json(error)
        if isinstance(inner, dict):
            return complaint_of(error, inner)
        return Complaint(words=error[:1000], codes=_codes(body))
    if not isinstance(error, dict):
        error = body
    message = error.get("message") or error.get("detail") or error.get("msg") or ""
    inner = _json(message) if isinstance(message, str) else None
    if isinstance(inner, dict):
        nested = complaint_of(message, inner)
        return Complaint(codes=(*_codes(error), *nested.codes), words=nested.words, wait=nested.wait)
    words = message if isinstance(message, str) else json.dumps(message)
    return Complaint(codes=_codes(error), words=(words or text)[:1000], wait=_google_wait(error))


def kind_of(status: int | None, complaint: Complaint) -> type[LLMError]:
    """Which of our errors it is: the body's codes, then the status, then (for a few) its words."""
    for code in complaint.codes:
        kind = _BY_CODE.get(code)
        if kind and not (status in (401, 403) and kind is ModelNotFoundError):
            return kind
        if status in (400, 402, 403, 429) and _SPEND.search(code):
            return QuotaExceededError
    known = 0 if status is None or status < 400 else status
    for words, statuses, kind in _BY_WORDS:
        if (known in statuses or not known) and words.search(complaint.words):
            return kind
    if not known:
        found = (_WITHOUT_STATUS.get(code) or _BY_STATUS.get(_as_status(code)) for code in complaint.codes)
        return next(filter(None, found), ServerError)
    if kind := _BY_STATUS.get(known):
        return kind
    return ServerError if known >= 500 else InvalidRequestError


def refused_settings(error: LLMError) -> tuple[str, ...]:
    """Which settings the model can be asked without, by what it said."""
    refused = (names for words, names in _REFUSED_SETTINGS if words.search(str(error)))
    return next(refused, ()) if isinstance(error, InvalidRequestError) else ()


def retry_after(headers: dict[str, str], now: float) -> float | None:
    """Seconds that the provider asks to wait: `retry-after-ms`, then `retry-after` in seconds or as a date.

    Args:
        headers: of the response, names in lower case.
        now: seconds since 1970.
    """
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value) / scale
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def redirect(status: int, location: str) -> BadResponseError:
    """The error of a redirect, which is never followed: the prompt and the key would go along."""
    return BadResponseError(
        f"the server redirects (status {status}) to {location.split('?', maxsplit=1)[0]!r}, which is not followed; "
        "set `api_base` to the address that answers",
        status=status,
    )


def _as_status(code: str) -> int:
    return int(code) if code.isdigit() and len(code) == 3 else 0


def _codes(error: dict[str, Any]) -> tuple[str, ...]:
    inner = error.get("innererror") if isinstance(error.get("innererror"), dict) else {}
    details = error.get("details") if isinstance(error.get("details"), list) else []
    reasons = [d.get("reason") for d in details if isinstance(d, dict)]  # type: ignore[union-attr]
    found = (error.get("code"), inner.get("code"), error.get("type"), error.get("status"), *reasons)  # type: ignore[union-attr]
    return tuple(code.lower() for code in found if isinstance(code, str))


def _google_wait(error: dict[str, Any]) -> float | None:
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
            return float(delay[:-1])
    return None


def _json(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
