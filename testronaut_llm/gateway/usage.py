"""Reads the token counts of a provider from the raw body, and replaces impossible ones.

The names differ, and what a count includes: Anthropic's `input_tokens` leaves out what its cache read and wrote,
OpenAI's `prompt_tokens` includes it; Grok and Gemini count reasoning apart from the answer, OpenAI in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testronaut_llm.money.price_rows import SERVICES
from testronaut_llm.records import Usage
from testronaut_llm.support.money import is_count

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
_DETAILS = ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_tokens_details")
_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")
_ITERATED = ("input_tokens", "output_tokens", *_CACHE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The token counts of a body; None for those that are absent.

    Attributes:
        unlisted: tokens of the total beyond prompt and answer.
        wrong: names of the counts that are not whole numbers of at least 0.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    unlisted: int = 0
    wrong: tuple[str, ...] = ()

    def proven(
        self, *, most: tuple[int, int], guess: tuple[int, Callable[[], int]], least_answer: int
    ) -> tuple[Usage, tuple[str, ...]]:
        """Returns the usage, with estimates for absent or impossible counts, and the names of the impossible ones.

        `most` and `guess` are the tokens that prompt and answer have at most and most likely, `least_answer` those that
        the answer has at least.
        """
        spans = {"prompt_tokens": (1, most[0]), "completion_tokens": (least_answer, most[1])}
        counts = {name: getattr(self, name) for name in spans}
        doubts = [name for name, n in counts.items() if n is not None and not spans[name][0] <= n <= spans[name][1]]
        prompt, answer = (None if name in doubts else n for name, n in counts.items())
        estimated = prompt is None or answer is None
        cached, written, thought = self.cached_tokens, self.cache_write_tokens, self.reasoning_tokens
        if answer is not None and answer + self.unlisted <= most[1]:
            answer, thought = answer + self.unlisted, max(thought, self.unlisted)
        prompt, answer = _filled(prompt, answer, self.total_tokens or 0, most, (guess[0], lambda: guess[1]() + thought))
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
            estimated=bool(estimated or doubts or self.wrong),
        )
        return usage, (*self.wrong, *doubts)


def _filled(
    prompt: int | None, answer: int | None, total: int, most: tuple[int, int], guess: tuple[int, Callable[[], int]]
) -> tuple[int, int]:
    """Returns both counts; unassigned tokens of a total count as answer, which costs more."""
    if not 0 < total <= sum(most):
        total = 0
    if prompt is None:
        prompt = total - answer if answer is not None and total > answer else guess[0]
    if answer is None:
        answer = total - prompt if total > prompt else guess[1]()
    return max(1, min(prompt, most[0])), min(answer, most[1])


def merge(said: dict[str, Any], document: Mapping[str, Any]) -> None:
    """Adds usage and service tier of one document of a body; a later one replaces an earlier one."""
    said.update({name: document[name] for name in SERVICES if document.get(name) is not None})
    for usage in _usages(document):
        flat = dict(usage)
        for details in map(usage.get, _DETAILS):
            flat |= details if isinstance(details, dict) else {}
        rounds = usage.get("iterations")  # Anthropic: all of them are billed
        if isinstance(rounds, list) and rounds and all(isinstance(one, dict) for one in rounds):
            counts = {name: [one.get(name) or 0 for one in rounds] for name in _ITERATED}
            flat |= {name: sum(each) for name, each in counts.items() if all(map(is_count, each))}
        prompt, tools = flat.get("promptTokenCount"), flat.get("toolUsePromptTokenCount", 0)
        if is_count(prompt) and is_count(tools):  # Gemini: counts of zero are left out
            flat = {"candidatesTokenCount": 0, **flat, "promptTokenCount": prompt + tools}
        said.update((name, value) for name, value in flat.items() if value is not None)


def counts_of(said: Mapping[str, Any]) -> Counts | None:
    """Returns the counts of the merged usage; None if there are none."""
    values = {ours: [said[name] for name in names if name in said] for ours, names in _NAMES.items()}
    if not any(values.values()):
        return None
    wrong = [name for name, all_said in values.items() if all_said and not any(map(is_count, all_said))]
    prompt, answer, total, cached, written, thought = (
        next(filter(None, counts), 0 if counts else None)
        for counts in ([one for one in all_said if is_count(one)] for all_said in values.values())
    )
    in_cache, thought = (cached or 0) + (written or 0), thought or 0
    beyond = None if prompt is None or answer is None or total is None else total - prompt - answer
    by_name = not said.get("prompt_tokens") and any(name in said for name in _CACHE)
    if by_name and {"cached_tokens", "cache_write_tokens"} & set(wrong):
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
        cached_tokens=cached or 0,
        cache_write_tokens=written or 0,
        reasoning_tokens=thought,
        unlisted=max(0, beyond or 0),
        wrong=tuple(name for name in wrong if name != "total_tokens"),
    )


def _usages(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the places of the counts in all wires."""
    if "prompt_eval_count" in document or "eval_count" in document:  # Ollama; an embedding has no answer to count
        empty = {"eval_count": 0} if "embeddings" in document else {}
        yield empty | {name: document[name] for name in ("prompt_eval_count", "eval_count") if name in document}
    message, choices = document.get("message"), document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(message, dict) and isinstance(began := message.get("usage"), dict):
        yield {name: value for name, value in began.items() if name != "output_tokens"}  # Anthropic: not final
    for holder in (first, document.get("x_groq"), document):  # Moonshot's streams, Groq's streams, and all others
        for name in ("usage", "usageMetadata"):
            if isinstance(holder, dict) and isinstance(usage := holder.get(name), dict):
                yield usage
