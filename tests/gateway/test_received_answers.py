"""An answer is what the provider sent: its finish word, and its text in any form, without its reasoning."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import faults
import pytest
from fault_server import Exchange, FaultServer
from fault_server import Reply as Plan
from gateway_kit import FORMS, WIRES, Attempts, request, target
from good_answers import Good, answer, sse
from manager_kit import Make, ask, manager, model

from testronaut_llm import errors
from testronaut_llm.gateway.model_request import Reply
from testronaut_llm.gateway.provider_errors import in_openai_words
from testronaut_llm.records import Message

Sent = Callable[..., tuple[str, Reply]]
OPENROUTER = "openrouter/a/b"
OPENAI_LIKE = ("openai", "azure", "mistral/mistral-large-latest", OPENROUTER, "hosted_vllm/m", "databricks/m")
pytestmark = pytest.mark.usefixtures("provider_keys")

mode = pytest.fixture(lambda request: request.param, params=FORMS)
wire = pytest.fixture(lambda request: request.param, params=WIRES)


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempts]:
    with closing(Attempts()) as made:
        yield made


@pytest.fixture
def sent(server: FaultServer, attempt: Attempts) -> Sent:
    """Makes one attempt at a server with this plan; returns the pieces of a stream, and the reply."""

    def send(plan: Plan, wire: str, mode: str, **fields: Any) -> tuple[str, Reply]:
        api = server.plan("a", plan)
        result = attempt(request(target(wire, api.url), **fields), mode)
        assert len(api.requests) == 1
        return result

    return send


def test_the_finish_word_that_came_decides(sent: Sent, wire: str, mode: str) -> None:
    """A generation that failed, was withheld or ran out of context is that error, and is paid; other words are kept."""
    for word, kind in {
        "error": errors.ServerError,
        "insufficient_system_resource": errors.OverloadedError,
        "model_length": errors.ContextWindowError,
        "SAFETY": errors.ContentFilteredError,
        "load": errors.BadResponseError,
        "tired": None,
    }.items():
        _, reply = sent(faults.good("Half an ans", finish=word), wire, mode)
        assert (reply.text, reply.finish_reason) == ("Half an ans", in_openai_words(word))
        assert reply.usage is not None or mode == "stream"  # LiteLLM drops it for such a word
        assert type(reply.error) is (kind or type(None))
        assert word in (str(reply.error) if kind else reply.finish_reason)
    assert sent(faults.good(finish="eos"), wire, mode)[1].finish_reason == "stop"


def _choice(kind: str, **facts: Any) -> dict[str, Any]:
    choice = {"index": 0, kind: {"role": "assistant", "content": "Half an ans"}, "finish_reason": "stop", **facts}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def _body(mode: str, whole: dict[str, Any], chunks: list[dict[str, Any]]) -> Plan:
    if mode == "whole":
        return faults.raw(200, json.dumps(whole, ensure_ascii=False).encode())
    return faults.raw(200, b"".join(map(sse, [*chunks, "[DONE]"])), "text/event-stream")


def test_an_empty_answer_says_why(sent: Sent) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    whole = _body("whole", _choice("message"), [])
    called = _choice("message", message={"role": "assistant", "content": None, "tool_calls": [call]})
    for plan, wire, mode, why in (
        (_body("whole", called, []), "openai", "whole", "the model called a tool instead of answering"),
        (whole, "openai", "stream", "the server did not stream"),
        (whole, "anthropic", "stream", "the server did not stream"),
        *((faults.good("hmm\n</think>\n\n"), wire, mode, "the model reasoned") for wire in WIRES for mode in FORMS),
    ):
        _, reply = sent(plan, wire, mode)
        assert isinstance(reply.error, errors.BadResponseError)
        assert why in str(reply.error)


@pytest.mark.parametrize(
    ("wire", "status", "error", "fix"),
    [
        ("openai", 429, {"code": "insufficient_quota", "message": "no"}, "no; this is billing, not speed: add credit"),
        ("azure", 404, {"code": "DeploymentNotFound", "message": "no"}, "must be the name of a deployment of http"),
        ("azure", 404, {"code": "404", "message": "Resource not found"}, "nothing is at this URL: check api_base"),
        ("ollama", 404, "model 'm' not found", "run: testronaut-llm models pull"),
        (
            "ollama",
            400,
            "the input length exceeds the context length",
            "raise `num_ctx` of the model (4,096 tokens now), or",
        ),
    ],
)
def test_an_error_says_what_to_do(sent: Sent, mode: str, wire: str, status: int, error: Any, fix: str) -> None:
    assert fix in str(sent(faults.raw(status, json.dumps({"error": error}).encode()), wire, mode)[1].error)


@pytest.mark.parametrize("wire", ["openai", OPENROUTER])
def test_an_error_in_the_choice_is_a_failure(sent: Sent, wire: str, mode: str) -> None:
    for error, kind in (
        ({"code": "rate_limit_exceeded", "message": "slow down"}, errors.RateLimitError),
        ({"code": 502, "message": "Provider disconnected"}, errors.ServerError),
        ("it broke", errors.ServerError),
    ):
        plan = _body(mode, _choice("message", error=error), [_choice("delta", error=error)])
        assert type(sent(plan, wire, mode)[1].error) is kind


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("wire", OPENAI_LIKE)
def test_a_content_of_parts_is_one_text(sent: Sent, wire: str, mode: str) -> None:
    for parts in (
        [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
        [{"type": "output_text", "text": "Hel", "annotations": []}, {"text": "lo"}],
        ["Hel", "lo"],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Hello"}],
        [{"type": "image_url", "image_url": {"url": "x"}}, 3, {"type": "text", "text": "Hello"}],
    ):
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        whole = _choice("message", message={"role": "assistant", "content": parts}) | {"usage": usage}
        chunks = [_choice("delta", delta={"content": [part]}, finish_reason=None) for part in parts]
        chunks += [_choice("delta", delta={}), {**_choice("delta"), "choices": [], "usage": usage}]
        pieces, reply = sent(_body(mode, whole, chunks), wire, mode)
        assert (reply.error, reply.text, pieces) == (None, "Hello", "Hello" if mode == "stream" else "")
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (5, 2)


BREAKS = "\x85\u2028\u2029"


def test_each_character_arrives(sent: Sent, wire: str, mode: str) -> None:
    """U+0085, U+2028 and U+2029 end no line, also without the escapes of JSON. Halves of characters are joined."""

    def unescaped(exchange: Exchange) -> None:
        asked = exchange.request
        text = f"{BREAKS}a\ud83d\ude00b\ud83dc{BREAKS}"
        kind, pieces = answer(asked.wire, asked.path, asked.body, Good(text=text, pieces=len(text)))
        body = b"".join(pieces)
        for character in BREAKS:
            body = body.replace(json.dumps(character)[1:-1].encode(), character.encode())
        exchange.respond(200, kind, body)

    pieces, reply = sent(unescaped, wire, mode)
    assert (reply.error, reply.text, reply.finish_reason) == (None, rf"{BREAKS}a😀b\ud83dc{BREAKS}", "stop")
    assert pieces == (reply.text if mode == "stream" else "")
    assert reply.usage is not None


def test_the_reasoning_is_no_part_of_the_text(sent: Sent, wire: str, mode: str) -> None:
    for raw in (
        "hmm\n</think>\n\nHello",
        "<think>\nhmm\n</think>\n\nHello",
        "◁think▷hmm◁/think▷Hello",
        "<|channel|>analysis<|message|>hmm<|end|><|start|>assistant<|channel|>final<|message|>Hello",  # gpt-oss
    ):
        pieces, reply = sent(faults.good(raw, pieces=7), wire, mode)
        assert (reply.error, reply.text) == (None, "Hello"), raw
        assert "hm" in reply.reasoning
        # Without an opening tag, reasoning is known at its end only.
        assert pieces == ("" if mode == "whole" else raw if raw.startswith("hmm") else "Hello")


def test_a_tag_that_the_prompt_speaks_of_is_text(sent: Sent, mode: str) -> None:
    text, question = "The tag </think> ends the reasoning.", Message(role="user", content="What is </think>?")
    assert sent(faults.good(text), "ollama", mode, messages=(question,))[1].text == text


@pytest.mark.parametrize("mode", ["complete", "astream"])
async def test_only_whole_answers_are_cached(api: Make, mode: str) -> None:
    """An answer with an unknown finish word is asked for again; a cached one holds no reasoning."""
    text = "An answer."
    whole = faults.good(f"<think>hmm</think>{text}", finish="tool_calls")
    a = api("a", faults.good(text, finish="tired"), whole)
    async with manager({"m": model("openai", a)}, cache="use") as llm:
        answers = [await ask(llm, mode) for _ in range(3)]
    assert [(one.text, one.cached) for one in answers] == [(text, False), (text, False), (text, True)]


def test_a_repair_asks_about_the_answer_that_was_invalid(api: Make) -> None:
    """A failure between the answer and its repair does not change what is repaired."""
    later = faults.error("unavailable", headers={"retry-after": "0"})
    a = api("a", faults.good("<think>hmm</think>no JSON"), later, faults.good("1"))
    with manager({"m": model("openai", a)}) as llm:
        assert llm.complete("t", "hi", schema=int).parsed == 1
    turns = [body["messages"][-2:] for body in a.bodies]
    assert turns[1] == turns[2]
    assert (turns[2][0]["role"], turns[2][0]["content"]) == ("assistant", "no JSON")


def test_a_number_inside_a_200_is_that_status(sent: Sent, wire: str, mode: str) -> None:
    body = {"type": "error", "error": {"message": "Provider returned error", "code": 429}}
    plans = {faults.raw(200, json.dumps(body).encode()): 429}
    if mode == "stream":  # in place of an answer, or after a piece of text
        plans = {faults.error_in_stream(body=body): 429, faults.error_in_stream(body=body, after=1): 200}
    for plan, status in plans.items():
        error = sent(plan, wire, mode)[1].error
        assert (type(error), error.status) == (errors.RateLimitError, status)


@pytest.mark.parametrize(("wire", "version"), [("azure", "2024-10-21"), ("azure v1", "v1"), ("azure v1", "preview")])
def test_a_token_is_asked_for_at_each_attempt(
    server: FaultServer, attempt: Attempts, wire: str, version: str, mode: str
) -> None:
    tokens, api = iter(("first", "second")), server.plan("a", faults.good("fine"))
    to = replace(target(wire, api.url), key=lambda: next(tokens), api_version=version)
    for token in ("first", "second"):
        assert attempt(request(to), mode)[1].text == "fine"
        assert api.requests[-1].has_key("authorization", token)
        assert api.requests[-1].query == ({} if version == "v1" else {"api-version": version})
