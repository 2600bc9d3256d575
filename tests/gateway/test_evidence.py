"""The facts that a raw body proves: its finish word, its service tier, and its counts."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from testronaut_llm.gateway.evidence import Counts, examine


def _sse(*events: object) -> str:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


def _body(**fields: object) -> str:
    return json.dumps(fields)


def test_a_finish_is_what_was_received() -> None:
    for case, (text, finish) in {
        "openai stream": (_sse({"choices": [{"finish_reason": "length"}]}, {"choices": []}), "length"),
        "openai null": (_body(choices=[{"finish_reason": None}]), None),
        "ollama without a reason": ('{"done": false}\n{"done": true}\n', "stop"),
        "gemini": (json.dumps([{"candidates": [{"finishReason": "STOP"}]}]), "STOP"),
        "gemini blocked": (_body(promptFeedback={"blockReason": "SAFETY"}), "blocked"),
        "dashscope": (_sse({"choices": [{"finish_reason": "null"}]}), None),
        "a word in the text": (_body(choices=[{"message": {"content": '"finish_reason": "stop"'}}]), None),
        "lines end at CR and LF alone": (
            'data: {"choices": [{"delta": {"content": "\u2028"}, "finish_reason": "stop"}]}\r\rdata: [DONE]', "stop"),
        "no word at all": (_body(choices=[{"finish_reason": {"type": "eos"}}]), "{'type': 'eos'}"),
        "half a character": (_body(stop_reason="\ud800" * 99), "\\ud800" * 10),
    }.items():  # fmt: skip
        assert examine(text).finish == finish, case


ANTHROPIC = {"input_tokens": 9, "output_tokens": 5}
CACHED = {"cache_read_input_tokens": 10, "cache_creation_input_tokens": 5}
THOUGHT = {"completion_tokens_details": {"reasoning_tokens": 5}}
OPENAI = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}


def test_counts_are_read_by_the_names_of_each_wire() -> None:
    """Tokens of the prompt, of the answer, read from a cache, written to it, and of reasoning; 0 for absent ones."""
    for case, (body, expected) in {
        "openai details": (
            _body(usage={**OPENAI, "prompt_tokens_details": {"cached_tokens": 10}, **THOUGHT}), (30, 20, 10, 0, 5)),
        "a sum that grows from chunk to chunk": (
            _sse({"usage": {"prompt_tokens": 30, "completion_tokens": 1}}, {"usage": OPENAI}), (30, 20, 0, 0, 0)),
        "groq stream": (_sse({"x_groq": {"usage": OPENAI}}), (30, 20, 0, 0, 0)),
        "moonshot stream": (_sse({"choices": [{"finish_reason": "stop", "usage": OPENAI}]}), (30, 20, 0, 0, 0)),
        "moonshot cache": (_body(usage={**OPENAI, "cached_tokens": 8}), (30, 20, 8, 0, 0)),
        "deepseek": (_body(usage={**OPENAI, "prompt_cache_hit_tokens": 8}), (30, 20, 8, 0, 0)),
        "anthropic": (_body(usage={**ANTHROPIC, **CACHED}), (24, 5, 10, 5, 0)),
        "anthropic stream, cut": (_sse({"type": "message_start", "message": {"usage": ANTHROPIC}}), (9, 0, 0, 0, 0)),
        "anthropic iterations": (_body(usage={**ANTHROPIC, "iterations": [ANTHROPIC, ANTHROPIC]}), (18, 10, 0, 0, 0)),
        "cache counts beside an openai prompt that includes them": (
            _body(usage={**OPENAI, **CACHED}), (30, 20, 10, 5, 0)),
        "cache counts that the total shows to be apart": (
            _body(usage={**OPENAI, "total_tokens": 65, "cache_read_input_tokens": 15}), (45, 20, 15, 0, 0)),
        "gemini with the results of tools": (
            _body(usageMetadata={"promptTokenCount": 8, "toolUsePromptTokenCount": 3}), (11, 0, 0, 0, 0)),
        "two names of one count": (
            _body(usage={"prompt_tokens": 0, "input_tokens": 9, "completion_tokens": 5}), (9, 5, 0, 0, 0)),
        "empty, or of the wrong kind": (_body(usage=[1], message="x", choices={}, x_groq=1), (0, 0, 0, 0, 0)),
    }.items():  # fmt: skip
        found = examine(body).usage or Counts()
        cached = found.cached_tokens, found.cache_write_tokens
        counts = found.prompt_tokens or 0, found.completion_tokens or 0, *cached, found.reasoning_tokens
        assert counts == expected, case


def _proven(usage: dict[str, Any], *, least_answer: int = 1) -> tuple[tuple[int, ...], bool, str]:
    wire = "usageMetadata" if "promptTokenCount" in usage else "usage"
    counts = examine(json.dumps({wire: usage})).usage or Counts()
    found, doubts = counts.proven(most=(1000, 400), guess=(11, lambda: 22), least_answer=least_answer)
    used = found.prompt_tokens, found.completion_tokens, found.cached_tokens, found.reasoning_tokens
    return used, found.estimated, " ".join(doubts)


GOOD = {"prompt_tokens": 30, "completion_tokens": 20}
APART = {"prompt_tokens": 32, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}}
THOUGHTFUL = {"promptTokenCount": 30, "candidatesTokenCount": 20, "thoughtsTokenCount": 5}
HUGE = (-1, 2**63, 401, 20.0, float("nan"), float("inf"), "20", True, [20], {"n": 20})


def test_an_impossible_count_is_estimated_alone() -> None:
    for wrong in HUGE:
        found = _proven({"prompt_tokens": 30, "completion_tokens": wrong})
        assert found == ((30, 22, 0, 0), True, "completion_tokens"), wrong
    for wrong in (*(one for one in HUGE if one != 401), 0, 1001):
        found = _proven({"prompt_tokens": wrong, "completion_tokens": 20})
        assert found == ((11, 20, 0, 0), True, "prompt_tokens"), wrong
    for refusal in ({"prompt_tokens": 30, "completion_tokens": 0}, {"promptTokenCount": 30}):  # Gemini omits a zero
        assert _proven(refusal, least_answer=0) == ((30, 0, 0, 0), False, "")


def test_impossible_cached_tokens_lower_no_price() -> None:
    """The prompt is paid in full; Anthropic's prompt, of which they are a part, is unknown."""
    for wrong in (-1, 2**63, "5", 5.0, True, 31):
        found = _proven({**GOOD, "prompt_tokens_details": {"cached_tokens": wrong}})
        assert found == ((30, 20, 0, 0), True, "cached_tokens"), wrong
        if wrong != 31:
            found = _proven({"input_tokens": 30, "output_tokens": 20, "cache_read_input_tokens": wrong})
            assert found[:2] == ((11, 20, 0, 0), True), wrong


def test_missing_counts_are_estimated() -> None:
    for case, (usage, used, estimated) in {
        "only the total": ({"total_tokens": 15}, (11, 4, 0, 0), True),
        "a total and the prompt": ({"prompt_tokens": 30, "total_tokens": 50}, (30, 20, 0, 0), True),
        "a total and the answer": ({"completion_tokens": 20, "total_tokens": 50}, (30, 20, 0, 0), True),
        "only the prompt": ({"prompt_tokens": 30}, (30, 22, 0, 0), True),
        "nothing": ({}, (11, 22, 0, 0), True),
        "a total out of all bounds": ({**GOOD, "total_tokens": 10**15}, (30, 20, 0, 0), False),
        "grok": ({**APART, "total_tokens": 135}, (32, 103, 0, 94), False),
        "grok without a total": (APART, (32, 103, 0, 94), False),
        "reasoning within, without a total": ({**GOOD, **THOUGHT}, (30, 20, 0, 5), False),
        "thoughts only in the total": ({**GOOD, "total_tokens": 150}, (30, 120, 0, 100), False),
        "more thoughts than were reserved": (
            {**GOOD, "total_tokens": 5050, "completion_tokens_details": {"reasoning_tokens": 5000}},
            (30, 400, 0, 400), True),
        "thoughts of gemini beside its answer": (THOUGHTFUL, (30, 25, 0, 5), False),
        "thoughts of gemini in its total": ({**THOUGHTFUL, "totalTokenCount": 50}, (30, 20, 0, 5), False),
    }.items():  # fmt: skip
        assert _proven(usage)[:2] == (used, estimated), case


def test_large_events_are_read_one_by_one() -> None:
    """The memory for a stream is that of its largest event, not of all."""
    event = _sse({"choices": [{"delta": {"content": "a"}}], "more": [{}] * 50_000})
    peaks = []
    for text in (event, event * 20):
        tracemalloc.start()
        assert examine(text).count == len(text) // len(event)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4 * peaks[0]  # the first, the last and the next one


def test_the_service_tier_is_the_one_that_answered() -> None:
    usage = {"input_tokens": 1, "service_tier": "standard"}
    for body, service in (
        (_body(service_tier="priority"), "priority"),
        (_body(usage={**usage, "service_tier": "batch"}), "batch"),
        (_body(usage={**usage, "speed": "fast"}), "fast"),
        (_body(usageMetadata={"promptTokenCount": 1, "serviceTier": "flex"}), "flex"),
        (_body(service_tier="on_demand"), ""),  # Groq
    ):
        assert examine(body).service == service
