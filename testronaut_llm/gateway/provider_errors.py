"""Converts a provider's failure to one of our errors: by the codes of its body, then its words, then the status.

LiteLLM's exception class is not used: for the same failure it differs by provider, it loses statuses (a 529 arrives
as 500), and is chosen by words in the text. The rows of `error_rows.toml` decide.
"""

import json
import re
import tomllib
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import cache
from importlib import resources
from typing import Any

from testronaut_llm import errors
from testronaut_llm.errors import InvalidRequestError, LLMError, ServerError

_NUMBERED = (
    *("code", "status", "status_code", "statusCode", "http_status", "http_status_code", "http_code"),
    *("error_code", "provider_error_code", "error"),
)
"""Fields in which servers give an HTTP status as a number, or as its digits."""
_FINISHES = {
    "BadResponseError": "the model did not answer",
    "ContentFilteredError": "the answer was withheld",
    "ContextWindowError": "the context window was full before the answer was complete",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """An error body, read."""

    codes: tuple[str, ...] = ()  # of the provider, in lower case, the outermost first
    words: str = ""  # the message for a person
    wait: float | None = None  # seconds that it asks to wait
    status: int = 0  # the HTTP status that the body names, 0 if none
    generated: str = ""  # the answer that the server refused


@cache
def error_rows() -> dict[str, Any]:
    """Returns the tables of `error_rows.toml`."""
    return tomllib.loads(resources.files(__package__).joinpath("error_rows.toml").read_text("utf-8"))


@cache
def _finish_words() -> dict[str, str]:
    """Returns the meaning of each finish reason: OpenAI's word, or the name of an error."""
    return {word: meaning for meaning, words in error_rows()["finish_words"].items() for word in words}


def in_openai_words(word: str) -> str:
    """Returns OpenAI's word for a finish reason of any wire; the word itself if there is none."""
    meaning = _finish_words().get(word.lower(), "")
    if meaning == "ContentFilteredError":
        return "content_filter"
    return meaning if meaning and not meaning.endswith("Error") else word


def failure_of(word: str) -> LLMError | None:
    """Returns the error that a finish reason reports; None if it may end an answer, or is unknown."""
    meaning = _finish_words().get(word.lower(), "")
    if not meaning.endswith("Error"):
        return None
    return _error_class(meaning)(f"{_FINISHES.get(meaning, 'the generation failed')}: finish reason {word}")


def kind_of(status: int | None, complaint: Complaint) -> type[LLMError]:
    """Returns the class of the error: by the body's codes, then its words, then the status."""
    known = status if status is not None and status >= 400 else complaint.status
    tables = [("codes", complaint.codes), ("words", (complaint.words,))]
    tables += [] if known else [("vague_codes", complaint.codes)]
    for table, texts in tables:
        matches = re.search if table == "words" else re.fullmatch
        for text in texts:
            for group in error_rows()[table]:
                counts = not known or known in group.get("statuses", (known,))
                if counts and any(matches(pattern, text, re.IGNORECASE) for pattern in group["seen_on"]):
                    return _error_class(group["error"])
    if name := error_rows()["statuses"].get(str(known)):
        return _error_class(name)
    return ServerError if known >= 500 or not known else InvalidRequestError


def _error_class(name: str) -> type[LLMError]:
    found: type[LLMError] = getattr(errors, name)
    return found


def complaint_of(text: str, document: dict[str, Any] | None = None) -> Complaint:
    """Reads an error body of any provider; of a stream, the `document` that reports the error."""
    body = document if document is not None else parsed(text)
    if isinstance(body, list):
        body = next(iter(dicts(body)), None)
    if not isinstance(body, dict):
        return Complaint(words=" ".join(re.sub(r"<[^>]*>", " ", text).split())[:300])
    error: Any = body.get("error") or body.get("base_resp") or body
    if isinstance(error, str):
        inner = parsed(error)
        if isinstance(inner, dict):
            return complaint_of(error, inner)
        return Complaint(words=error[:1000], codes=_codes(body), status=status_in(body))
    if not isinstance(error, dict):
        error = body
    message = next(filter(None, map(error.get, ("message", "detail", "msg", "status_msg"))), "")
    waits = (str(detail.get("retryDelay")) for detail in dicts(error.get("details")))  # Google
    delays = (re.fullmatch(r"(\d+(\.\d+)?)s", wait) for wait in waits)
    own = Complaint(
        codes=_codes(error),
        words=(_text(message) or text)[:1000],
        wait=next((float(delay[1]) for delay in delays if delay), None),
        status=status_in(error) or status_in(body),
        generated=_text(error.get("failed_generation")),
    )
    return _with_quoted(own, error.get("metadata"), message)


def _with_quoted(own: Complaint, metadata: Any, message: Any) -> Complaint:
    """Adds an error body that is quoted in another: in OpenRouter's metadata, or in the message."""
    if isinstance(metadata, dict):
        own, quoted = replace(own, status=own.status or status_in(metadata)), metadata.get("raw")
    else:
        quoted = parsed(message) if isinstance(message, str) else None
    if not isinstance(quoted, dict | str):
        return own
    try:
        nested = complaint_of(_text(quoted), quoted if isinstance(quoted, dict) else None)
    except RecursionError:
        return own
    return Complaint(
        codes=(*own.codes, *nested.codes),
        words=nested.words or own.words,
        wait=own.wait or nested.wait,
        status=own.status or nested.status,
        generated=own.generated or nested.generated,
    )


def error_in(document: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns what reports an error in a document under a success status, in the form of any server; None if none."""
    for choice in choices:
        if choice.get("error"):  # OpenRouter
            return {"error": choice["error"]}
    if document.get("error") or "error" in (document.get("type"), document.get("object")):
        return document
    minimax = document.get("base_resp")
    if isinstance(minimax, dict) and minimax.get("status_code"):
        return document
    if "choices" in document:
        return None
    has_words = any(isinstance(document.get(name), str) for name in ("message", "detail", "msg"))
    return document if has_words and status_in(document) else None


def status_in(fields: dict[str, Any]) -> int:
    """Returns the HTTP status in an error, a number or its digits; 0 if there is none."""
    found = (re.fullmatch(r"([45]\d\d)(\.0)?", str(fields.get(name))) for name in _NUMBERED)
    return next((int(match[1]) for match in found if match), 0)


def refused_settings(error: LLMError) -> tuple[str, ...]:
    """Returns the settings that the model refused and that can be left out."""
    if not isinstance(error, InvalidRequestError | errors.PermissionDeniedError):
        return ()
    words = error_rows()["refused_settings"]
    return tuple(name for name, patterns in words.items() if any(re.search(one, str(error)) for one in patterns))


def retry_after(headers: dict[str, str], now: float) -> float | None:
    """Returns the seconds that the provider asks to wait: `retry-after-ms`, then `retry-after` in seconds or as a date.

    The names of the headers are in lower case; `now` is seconds since 1970.
    """
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value) / scale
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parsed(text: str) -> Any:
    """Returns the JSON object or list in a text; None if it is neither."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def dicts(value: Any) -> list[dict[str, Any]]:
    """Returns the objects in a list; none if it is not a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _codes(error: dict[str, Any]) -> tuple[str, ...]:
    inner = error.get("innererror")
    nested = inner.get("code") if isinstance(inner, dict) else None
    reasons = (detail.get("reason") for detail in dicts(error.get("details")))
    found = (error.get("code"), nested, error.get("type"), error.get("status"), *reasons)
    return tuple(code.lower() for code in found if isinstance(code, str))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
