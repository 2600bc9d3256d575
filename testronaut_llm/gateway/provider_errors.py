"""A provider's failure becomes one of ours: status and the body's own codes first, its words last.

LiteLLM's exception class is never asked: it differs by provider for the same failure, loses statuses
(a 529 arrives as 500) and is chosen by words in the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from testronaut_llm.errors import (
    BadResponseError,
    ConnectionFailedError,
    InvalidRequestError,
    LLMError,
    ServerError,
    Verdict,
)
from testronaut_llm.gateway.error_rows import BY_STATUS, CODES, VAGUE_CODES, WORDS
from testronaut_llm.providers.network import Proxy
from testronaut_llm.support.text import seconds_of

_NUMBERED = (
    *("code", "status", "status_code", "statusCode", "http_status", "http_status_code", "http_code"),
    *("error_code", "provider_error_code", "error"),
)
"""Fields in which servers give an HTTP status as a number, or as its digits."""
_REFUSED_SETTINGS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"does not support thinking"), ("reasoning",)),  # Ollama, 400
)
"""What is said of a setting that the model does not take, and that it can be asked without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """An error body, read.

    Attributes:
        codes: the provider's codes in lower case, the outermost first.
        words: what it says to a person.
        wait: seconds that it asks to wait.
        status: the HTTP status that the body names, 0 where it names none.
        generated: the answer that the server itself refused.
    """

    codes: tuple[str, ...] = ()
    words: str = ""
    wait: float | None = None
    status: int = 0
    generated: str = ""


def complaint_of(text: str, document: dict[str, Any] | None = None) -> Complaint:
    """Reads an error body of any provider.

    Args:
        text: the body; used where it is no JSON.
        document: the part of a stream that reported the error, where there is one.
    """
    body = document if document is not None else parsed(text)
    if isinstance(body, list):
        body = next((one for one in body if isinstance(one, dict)), None)
    if not isinstance(body, dict):
        plain = re.sub(r"<[^>]*>", " ", text)
        return Complaint(words=" ".join(plain.split())[:300])
    error: Any = body.get("error") or body.get("base_resp") or body
    if isinstance(error, str):
        inner = parsed(error)
        if isinstance(inner, dict):
            return complaint_of(error, inner)
        return Complaint(words=error[:1000], codes=_codes(body), status=status_in(body))
    if not isinstance(error, dict):
        error = body
    message = next(filter(None, (error.get(name) for name in ("message", "detail", "msg", "status_msg"))), "")
    own = Complaint(
        codes=_codes(error),
        words=((message if isinstance(message, str) else json.dumps(message)) or text)[:1000],
        wait=_google_wait(error),
        status=status_in(error) or status_in(body),
        generated=_text(error.get("failed_generation")),
    )
    metadata = error.get("metadata")
    quoted = metadata.get("raw") if isinstance(metadata, dict) else isinstance(message, str) and parsed(message)
    return _with_quoted(own, quoted, metadata if isinstance(metadata, dict) else {})


def _with_quoted(own: Complaint, quoted: Any, metadata: dict[str, Any]) -> Complaint:
    """The same with an error body that it quotes: in its message, or as OpenRouter does in its metadata."""
    if not isinstance(quoted, dict | str):
        return replace(own, status=own.status or status_in(metadata))
    try:
        nested = complaint_of(_text(quoted), quoted if isinstance(quoted, dict) else None)
    except RecursionError:
        return own
    return Complaint(
        codes=(*own.codes, *nested.codes),
        words=nested.words or own.words,
        wait=own.wait or nested.wait,
        status=own.status or status_in(metadata) or nested.status,
        generated=own.generated or nested.generated,
    )


def kind_of(status: int | None, complaint: Complaint) -> type[LLMError]:
    """Which of our errors it is: the body's codes, then its words, then the status, its own or the body's."""
    known = status if status is not None and status >= 400 else complaint.status
    for rows, texts in ((CODES, complaint.codes), (WORDS, (complaint.words,)), (VAGUE_CODES, complaint.codes)):
        for text in texts:
            for row in rows:
                if row.fits(text, known, whole=rows is not WORDS):
                    return row.kind
    return BY_STATUS.get(known) or (ServerError if known >= 500 or not known else InvalidRequestError)


def reports_error(document: dict[str, Any]) -> bool:
    """True if a document that came under a success status is an error, in the form of any server."""
    if document.get("error") or "error" in (document.get("type"), document.get("object")):
        return True
    minimax = document.get("base_resp")
    if isinstance(minimax, dict) and minimax.get("status_code"):
        return True
    words = any(isinstance(document.get(name), str) for name in ("message", "detail", "msg"))
    return words and "choices" not in document and status_in(document) > 0


def status_in(fields: dict[str, Any]) -> int:
    """The HTTP status of an error that is given as a number or its digits, 0 where there is none."""
    found = (re.fullmatch(r"([45]\d\d)(\.0)?", str(fields.get(name))) for name in _NUMBERED)
    return next((int(match[1]) for match in found if match), 0)


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


def proxy_refused(proxy: Proxy | None) -> ConnectionFailedError:
    """The error of a 407, which is the proxy's own; asking again would bring another."""
    error = ConnectionFailedError(
        f"the proxy {proxy or 'in between'} asks for a valid user name and password (status 407); "
        "put them into its URL: http://user:password@host:port",
        status=407,
    )
    error.verdict = Verdict.NEXT  # type: ignore[misc]
    return error


def redirect(status: int, location: str) -> BadResponseError:
    """The error of a redirect, which is never followed: the prompt and the key would go along."""
    return BadResponseError(
        f"the server redirects (status {status}) to {location.split('?', maxsplit=1)[0]!r}, which is not followed; "
        "set `api_base` to the address that answers",
        status=status,
    )


def _codes(error: dict[str, Any]) -> tuple[str, ...]:
    inner = error.get("innererror") if isinstance(error.get("innererror"), dict) else {}
    details = error.get("details") if isinstance(error.get("details"), list) else []
    reasons = [d.get("reason") for d in details if isinstance(d, dict)]  # type: ignore[union-attr]
    found = (error.get("code"), inner.get("code"), error.get("type"), error.get("status"), *reasons)  # type: ignore[union-attr]
    return tuple(code.lower() for code in found if isinstance(code, str))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _google_wait(error: dict[str, Any]) -> float | None:
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (lasts := seconds_of(delay)) is not None:
            return lasts
    return None


def parsed(text: str) -> Any:
    """The JSON object or list that a text is; None where it is neither."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
