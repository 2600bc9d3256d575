"""Reads from a raw body which finish reason, usage and error were really received.

It reads JSON, server-sent events and NDJSON, with the fields of OpenAI, Anthropic, Ollama and Gemini. The values are
not interpreted here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from testronaut_llm.gateway.provider_errors import parsed, reports_error
from testronaut_llm.gateway.usage import Counts, counts_of, merge
from testronaut_llm.money.price_rows import service_of
from testronaut_llm.records import TokenChoice

_LINE = re.compile(r"\r\n|\r|\n")
"""The only end of a line of a stream: `str.splitlines` also splits at characters that JSON allows."""
_TEXTS = (None, "text", "output_text")
_PARTS = re.compile(rb'"content"\s*:\s*\[')


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Facts received in one body.

    Attributes:
        documents: number of JSON documents in the body.
        finish: finish reason as the provider spelled it; None if none was received.
        usage: the tokens that the provider counted; None if none.
        service: the service tier that answered; empty is the standard one, None unknown.
        error: the document that reports an error under a success status.
    """

    documents: int = 0
    finish: str | None = None
    usage: Counts | None = None
    service: str | None = None
    error: dict[str, Any] | None = None


def examine(text: str) -> Evidence:
    """Reads a body, complete or cut."""
    whole = parsed(text)
    if whole is None:
        whole = [parsed(line.removeprefix("data:").strip()) for line in _LINE.split(text)]
    count, finish = 0, None
    said: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    for document in _dicts(whole if isinstance(whole, list) else [whole]):
        count += 1
        finish = _finish(document) or finish
        merge(said, document)
        if error is None:
            of_choices = (one["error"] for one in _dicts(document.get("choices")) if one.get("error"))  # OpenRouter
            failed = next(of_choices, None)
            error = {"error": failed} if failed else document if reports_error(document) else None
    finish = finish.strip("'")[:60] if finish else None
    return Evidence(documents=count, finish=finish, usage=counts_of(said), service=service_of(said), error=error)


def logprobs_of(text: str) -> tuple[TokenChoice, ...]:
    """Returns the log-probabilities of the tokens: in the first choice on OpenAI's wire, at the top on Ollama's."""
    document = parsed(text)
    if not isinstance(document, dict):
        return ()
    holder = next(_dicts(document.get("choices")), document).get("logprobs")
    found = []
    for one in _dicts(holder.get("content") if isinstance(holder, dict) else holder):
        others = {
            other["token"]: float(other["logprob"])
            for other in _dicts(one.get("top_logprobs"))
            if isinstance(other.get("token"), str) and isinstance(other.get("logprob"), int | float)
        }
        if not isinstance(one.get("token"), str) or not isinstance(one.get("logprob"), int | float):
            return ()
        found.append(TokenChoice(token=one["token"], logprob=float(one["logprob"]), others=others))
    return tuple(found)


def _finish(document: dict[str, Any]) -> str | None:
    for choices, name in (("choices", "finish_reason"), ("candidates", "finishReason")):
        for choice in _dicts(document.get(choices)):
            if choice.get(name) and choice[name] != "null":  # DashScope sends it until the last chunk
                return ascii(choice[name])
    if isinstance(blocked := document.get("promptFeedback"), dict) and blocked.get("blockReason"):
        return "blocked"
    delta = document.get("delta")
    reason = document.get("stop_reason") or (delta.get("stop_reason") if isinstance(delta, dict) else None)
    if reason or document.get("done_reason"):
        return ascii(reason or document["done_reason"])
    return "stop" if document.get("done") is True else None


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (one for one in value if isinstance(one, dict))


def readable(text: bytes) -> bytes:
    """Returns a body, or a line of a stream, with each `content` that is a list of parts as one text.

    LiteLLM refuses or drops such lists.
    """
    if not _PARTS.search(text):
        return text
    start, end = text.find(b"{"), len(text.rstrip())
    try:
        document = json.loads(text[start:end])
    except (ValueError, RecursionError):
        return text
    joined = False
    for choice in _dicts(document.get("choices") if isinstance(document, dict) else None):
        for message in _dicts([choice.get("message"), choice.get("delta")]):
            if isinstance(content := message.get("content"), list):
                parts = [one for one in content if not isinstance(one, dict) or one.get("type") in _TEXTS]
                texts = [one.get("text") if isinstance(one, dict) else one for one in parts]
                message["content"], joined = "".join([one for one in texts if isinstance(one, str)]), True
    return text[:start] + json.dumps(document).encode() + text[end:] if joined else text
