"""What a raw body proves, whoever sent it and however broken it is."""

from __future__ import annotations

import json

import pytest

from testronaut_llm.gateway.evidence import Evidence, examine, readable
from testronaut_llm.gateway.provider_errors import failure_of, in_openai_words


def _sse(*events: object) -> str:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


def _ndjson(*lines: object) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


FINISH = {
    "openai": (json.dumps({"choices": [{"finish_reason": "stop"}]}), "stop"),
    "openai stream": (_sse({"choices": [{}]}, {"choices": [{"finish_reason": "length"}]}), "length"),
    "openai null": (json.dumps({"choices": [{"finish_reason": None}]}), None),
    "openai choices of the wrong kind": (json.dumps({"choices": {"finish_reason": "stop"}}), None),
    "openai choice of the wrong kind": (json.dumps({"choices": ["stop"]}), None),
    "anthropic": (json.dumps({"stop_reason": "end_turn"}), "end_turn"),
    "anthropic stream": (_sse({"delta": {"text": "x"}}, {"delta": {"stop_reason": "max_tokens"}}), "max_tokens"),
    "ollama": (json.dumps({"done": True, "done_reason": "load"}), "load"),
    "ollama without a reason": (_ndjson({"done": False}, {"done": True}), "stop"),
    "ollama undone": (_ndjson({"done": False}), None),
    "gemini": (json.dumps([{"candidates": [{"finishReason": "STOP"}]}]), "STOP"),
    "gemini blocked": (json.dumps({"promptFeedback": {"blockReason": "SAFETY"}}), "blocked"),
    "dashscope": (_sse({"choices": [{"finish_reason": "null"}]}), None),
    "a word in the text": (json.dumps({"choices": [{"message": {"content": '"finish_reason": "stop"'}}]}), None),
    "only [DONE]": (_sse("[DONE]"), None),
    "html": ("<html><h1>Bad Gateway</h1></html>", None),
    "cut": ('{"choices": [{"finish_reason": "stop"', None),
    "nested too deep": ("[" * 100_000, None),
    "later chunk without one": (_sse({"choices": [{"finish_reason": "stop"}]}, {"choices": []}), "stop"),
    "lines end at CR and LF alone": (
        'data: {"choices": [{"delta": {"content": "a\x85b\u2028c\u2029d"}, "finish_reason": "stop"}]}\r\rdata: [DONE]',
        "stop",
    ),
    "no word at all": (json.dumps({"choices": [{"finish_reason": {"type": "eos"}}]}), "{'type': 'eos'}"),
    "half a character": (json.dumps({"stop_reason": "\ud800" * 99}), "\\ud800" * 10),
    "delta of the wrong kind": (json.dumps({"delta": "x"}), None),
}  # fmt: skip


@pytest.mark.parametrize("case", FINISH)
def test_a_finish_is_what_was_received(case: str) -> None:
    """A finish reason counts only where the provider's own field holds one."""
    text, finish = FINISH[case]
    assert examine(text).finish == finish


WORDS = {
    "end_turn": "stop",
    "COMPLETE": "stop",
    "eos": "stop",
    "MAX_TOKENS": "length",
    "tool_use": "tool_calls",
    "x": "x",
}


@pytest.mark.parametrize("word", WORDS)
def test_words_of_all_wires_have_openais_name(word: str) -> None:
    """Callers see one word for one thing; one that nobody knows stays as it is."""
    assert in_openai_words(word) == WORDS[word]
    assert failure_of(word) is None


ERRORS = {
    "openai": _sse({"choices": []}, {"error": {"message": "no"}}),
    "anthropic": 'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n',
    "ollama": _ndjson({"message": {"content": "x"}}, {"error": "no"}),
    "type alone": json.dumps({"type": "error", "message": "no"}),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_inside_a_success_is_seen(case: str) -> None:
    """An error document is found wherever it comes in a body, and the first one counts."""
    error = examine(f"{ERRORS[case]}\n" + _sse({"error": "a later one"})).error
    assert error.get("error") != "a later one"


@pytest.mark.parametrize("document", [{"error": None}, {"error": ""}, {"type": "message"}, [], [1], "text", 1, None])
def test_no_error_is_made_up(document: object) -> None:
    """A null error, and a document that is no object, are not errors."""
    assert examine(json.dumps(document)).error is None


def test_documents_are_counted() -> None:
    """Whole bodies, lists, events and lines are documents; anything else is none."""
    assert examine(_sse({"a": 1}, {"b": 2}, "[DONE]")).documents == 2
    assert examine(_ndjson({"a": 1}, {"b": 2}, {"c": 3})).documents == 3
    assert examine("[{}, {}, 1]").documents == 2
    assert examine(": comment\n\nretry: 3\n\nnot json") == examine("") == Evidence()


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}}]}',
        b'{"content": [{"type": "text", "text": "an Anthropic body"}]}',
        b'data: {"choices": [{"delta": {"content": [}}]}\r\n',
        b'{"choices": {"message": {"content": []}}}\r',
        b"\xff\xfe",
        b"",
    ],
)
def test_what_litellm_can_read_is_not_touched(body: bytes) -> None:
    """Only the content of an answer that is a list of parts is rewritten; all else is given on byte for byte."""
    assert readable(body) == body
