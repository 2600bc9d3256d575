"""Reads a raw body: which finish reason, token counts, service tier and error were really received.

It reads JSON, server-sent events and NDJSON, with the fields of OpenAI, Anthropic, Ollama and Gemini. The names of the
counts differ, and what a count includes: Anthropic's `input_tokens` leaves out what its cache read and wrote, OpenAI's
`prompt_tokens` includes it; Grok and Gemini count reasoning apart from the answer, OpenAI in it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testronaut_llm.gateway.provider_errors import dicts, error_in, parsed
from testronaut_llm.money.price_rows import SERVICES, service_of
from testronaut_llm.records import TokenChoice, Usage
from testronaut_llm.support.text import is_count

_LINE = re.compile(r"[^\r\n]+")
"""A line of a stream; `str.splitlines` also splits at characters that JSON allows."""
_NAMES = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_eval_count"),
    "completion_tokens": ("completion_tokens", "output_tokens", "candidatesTokenCount", "eval_count"),
    "total_tokens": ("total_tokens", "totalTokenCount"),
    "cached_tokens": (  # OpenAI and Moonshot, Anthropic, DeepSeek, Mistral, Gemini
        *("cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens", "num_cached_tokens"),
        "cachedContentTokenCount",
    ),
    # Anthropic, LiteLLM's proxy, OpenRouter
    "cache_write_tokens": ("cache_creation_input_tokens", "cache_creation_tokens", "cache_write_tokens"),
    "reasoning_tokens": ("reasoning_tokens", "thinking_tokens", "thoughtsTokenCount"),
}
_OURS = {name: ours for ours, names in _NAMES.items() for name in names}
_DETAILS = ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_tokens_details")
_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")
_ITERATED = ("input_tokens", "output_tokens", *_CACHE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The token counts of a body; None for those that are absent."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    unlisted: int = 0  # tokens of the total beyond prompt and answer
    wrong: tuple[str, ...] = ()  # names of the counts that are not whole numbers of at least 0

    def proven(
        self, *, most: tuple[int, int], guess: tuple[int, Callable[[], int]], least_answer: int
    ) -> tuple[Usage, tuple[str, ...]]:
        """Returns the usage, with estimates for absent or impossible counts, and the names of the impossible ones.

        `most` and `guess` are the tokens that prompt and answer have at most and most likely, `least_answer` those that
        the answer has at least. Unassigned tokens of a total count as answer, which costs more.
        """
        doubts, prompt, answer = list(self.wrong), self.prompt_tokens, self.completion_tokens
        cached, written, thought = self.cached_tokens, self.cache_write_tokens, self.reasoning_tokens
        if prompt is not None and not 1 <= prompt <= most[0]:
            doubts, prompt = [*doubts, "prompt_tokens"], None
        if answer is not None and not least_answer <= answer <= most[1]:
            doubts, answer = [*doubts, "completion_tokens"], None
        estimated = prompt is None or answer is None
        if answer is not None and answer + self.unlisted <= most[1]:
            answer, thought = answer + self.unlisted, max(thought, self.unlisted)
        total = self.total_tokens or 0
        total = total if total <= sum(most) else 0
        if prompt is None:
            prompt = total - answer if answer is not None and total > answer else guess[0]
        if answer is None:
            answer = total - prompt if total > prompt else guess[1]() + thought
        prompt, answer = max(1, min(prompt, most[0])), min(answer, most[1])
        if cached + written > prompt:
            doubts, cached, written = [*doubts, "cached_tokens"], 0, 0
        if thought > answer:
            doubts, thought = [*doubts, "reasoning_tokens"], answer
        usage = Usage(
            prompt_tokens=prompt,
            completion_tokens=answer,
            cached_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=thought,
            estimated=bool(estimated or doubts),
        )
        return usage, tuple(doubts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Facts received in one body; None for what was not received."""

    first: dict[str, Any]  # the first JSON object in it; empty if there is none
    count: int  # of JSON objects
    finish: str | None  # as the provider spelled it
    usage: Counts | None
    service: str | None  # the service tier that answered; empty is the standard one
    error: dict[str, Any] | None  # what reports an error under a success status


def examine(text: str) -> Evidence:
    """Reads a body, complete or cut."""
    first, said, finish, error, count = dict[str, Any](), dict[str, Any](), None, None, 0
    for document in _documents(text):
        first, count = first or document, count + 1
        choices = dicts(document.get("choices"))
        finish = _finish(document, choices) or finish
        error = error or error_in(document, choices)
        for name in SERVICES:
            if document.get(name) is not None:
                said[name] = document[name]
        _add_usage(said, document, choices)
    word = finish and finish.strip("'")[:60]
    return Evidence(first=first, count=count, finish=word, usage=_counts(said), service=service_of(said), error=error)


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects of a body, or of the lines of a stream: one after the other, since all may be large."""
    if (whole := parsed(text)) is not None:
        yield from dicts(whole if isinstance(whole, list) else [whole])
        return
    for line in _LINE.finditer(text):
        if isinstance(document := parsed(line[0].removeprefix("data:").strip()), dict):
            yield document


def _finish(document: dict[str, Any], choices: list[dict[str, Any]]) -> str | None:
    for choice in choices:
        if (reason := choice.get("finish_reason")) and reason != "null":  # DashScope sends it until the last chunk
            return ascii(reason)
    for candidate in dicts(document.get("candidates")):
        if reason := candidate.get("finishReason"):
            return ascii(reason)
    if isinstance(blocked := document.get("promptFeedback"), dict) and blocked.get("blockReason"):
        return "blocked"
    delta = document.get("delta")
    reason = document.get("stop_reason") or (delta.get("stop_reason") if isinstance(delta, dict) else None)
    if reason or document.get("done_reason"):
        return ascii(reason or document["done_reason"])
    return "stop" if document.get("done") is True else None


def _add_usage(said: dict[str, Any], document: dict[str, Any], choices: list[dict[str, Any]]) -> None:
    """Adds the counts in one document, at the places of all wires; a later count replaces an earlier one."""
    if "prompt_eval_count" in document or "eval_count" in document:  # Ollama; an embedding has no answer to count
        said.update({"eval_count": 0} if "embeddings" in document else {})
        said.update({name: document[name] for name in ("prompt_eval_count", "eval_count") if name in document})
    message = document.get("message")
    if isinstance(message, dict) and isinstance(began := message.get("usage"), dict):
        said.update(_flat({**began, "output_tokens": None}))  # Anthropic: not final
    for holder in (*choices[:1], document.get("x_groq"), document):  # Moonshot's streams, Groq's, and all others
        if isinstance(holder, dict):
            for usage in dicts([holder.get("usage"), holder.get("usageMetadata")]):
                said.update(_flat(usage))


def _flat(usage: dict[str, Any]) -> dict[str, Any]:
    """Returns the counts of a usage object and of its details."""
    flat = dict(usage)
    for name in _DETAILS:
        if isinstance(details := usage.get(name), dict):
            flat.update(details)
    rounds = dicts(usage.get("iterations"))  # Anthropic: all of them are billed
    for name in _ITERATED if rounds else ():
        each = [one.get(name) or 0 for one in rounds]
        if all(map(is_count, each)):
            flat[name] = sum(each)
    prompt, tools = flat.get("promptTokenCount"), flat.get("toolUsePromptTokenCount", 0)
    if is_count(prompt) and is_count(tools):  # Gemini: counts of zero are left out
        flat = {"candidatesTokenCount": 0, **flat, "promptTokenCount": prompt + tools}
    return {name: value for name, value in flat.items() if value is not None}


def _counts(said: Mapping[str, Any]) -> Counts | None:
    """Returns the counts of a body by our names; None if there are none."""
    found: dict[str, int] = {}
    refused: dict[str, None] = {}
    for name, ours in _OURS.items():
        if name in said:
            if is_count(said[name]):
                found[ours] = found.get(ours) or said[name]
            else:
                refused[ours] = None
    if not found and not refused:
        return None
    wrong = tuple([ours for ours in refused if ours not in found and ours != "total_tokens"])
    return _adjusted(said, found, wrong)


def _adjusted(said: Mapping[str, Any], found: Mapping[str, int], wrong: tuple[str, ...]) -> Counts:
    """Returns the counts with cached tokens as part of the prompt, and reasoning as part of the answer."""
    prompt, answer, total = map(found.get, ("prompt_tokens", "completion_tokens", "total_tokens"))
    cached, written = found.get("cached_tokens", 0), found.get("cache_write_tokens", 0)
    in_cache, thought = cached + written, found.get("reasoning_tokens", 0)
    beyond = None if prompt is None or answer is None or total is None else total - prompt - answer
    by_name = not said.get("prompt_tokens") and not said.keys().isdisjoint(_CACHE)
    if by_name and ("cached_tokens" in wrong or "cache_write_tokens" in wrong):
        prompt = None
    elif prompt is not None and (by_name or (in_cache and beyond == in_cache)):
        prompt, beyond = prompt + in_cache, None if beyond is None else beyond - in_cache
    apart = "promptTokenCount" in said or thought > (answer or 0)
    if answer is not None and thought and (beyond == thought or (beyond is None and apart)):
        answer, beyond = answer + thought, 0
    return Counts(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=total,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=thought,
        unlisted=max(0, beyond or 0),
        wrong=wrong,
    )


def logprobs_of(document: dict[str, Any]) -> tuple[TokenChoice, ...]:
    """Returns the log-probabilities of the tokens: in the first choice on OpenAI's wire, at the top on Ollama's."""
    holder = next(iter(dicts(document.get("choices"))), document).get("logprobs")
    found = []
    for one in dicts(holder.get("content") if isinstance(holder, dict) else holder):
        others = {
            other["token"]: float(other["logprob"])
            for other in dicts(one.get("top_logprobs"))
            if isinstance(other.get("token"), str) and isinstance(other.get("logprob"), int | float)
        }
        if not isinstance(one.get("token"), str) or not isinstance(one.get("logprob"), int | float):
            return ()
        found.append(TokenChoice(token=one["token"], logprob=float(one["logprob"]), others=others))
    return tuple(found)
