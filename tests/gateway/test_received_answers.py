"""An answer is what the provider sent: its finish word, and its text in any form, without its reasoning."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import faults
import pytest
from fault_server import Exchange, FaultServer, Reply
from gateway_kit import MODES, WIRES, Attempts, request, target
from good_answers import Good, answer, sse
from manager_kit import Make, ask, manager, model

from testronaut_llm import Answer, errors
from testronaut_llm.gateway.provider_errors import in_openai_words
from testronaut_llm.records import Message

OPENAI_LIKE = {
    "openai": "openai/gpt-4o-mini", "azure": "azure/d", "azure v1": "azure/d",
    "mistral": "mistral/mistral-large-latest", "openrouter": "openrouter/a/b", "hosted_vllm": "hosted_vllm/m",
    "databricks": "databricks/m",
}  # fmt: skip
each_mode = pytest.mark.parametrize("mode", MODES)
each_wire = pytest.mark.parametrize("wire", WIRES)


FINISHES: dict[str, type[errors.LLMError]] = {
    "error": errors.ServerError,
    "insufficient_system_resource": errors.OverloadedError,
    "model_length": errors.ContextWindowError,
    "refusal": errors.ContentFilteredError,
    "SAFETY": errors.ContentFilteredError,
    "MALFORMED_FUNCTION_CALL": errors.BadResponseError,
    "load": errors.BadResponseError,
}


@each_mode
@each_wire
def test_the_finish_word_that_came_decides(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """A generation that failed, was withheld or ran out of context is that error, and is paid."""
    for word, kind in FINISHES.items():
        api = server.plan("a", faults.good("Half an ans", finish=word))
        _, reply = attempt(request(target(wire, api.url)), mode)
        assert type(reply.error) is kind
        assert word in str(reply.error)
        assert (reply.text, reply.finish_reason) == ("Half an ans", in_openai_words(word))
        assert reply.usage is not None or mode == "stream"  # LiteLLM drops it for such a word


@each_mode
@each_wire
def test_an_unknown_finish_word_is_kept(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """The reply has the received word."""
    api = server.plan("a", faults.good("An answer.", finish="tired"))
    _, reply = attempt(request(target(wire, api.url)), mode)
    assert (reply.error, reply.text, reply.finish_reason) == (None, "An answer.", "tired")


@each_wire
def test_a_server_that_does_not_stream_is_named(server: FaultServer, attempt: Attempts, wire: str) -> None:
    """A whole document in place of a stream has an error of its own."""

    def whole(exchange: Exchange) -> None:
        asked = exchange.request
        kind, (body,) = answer(asked.wire, asked.path, {**asked.body, "stream": False}, Good(text="An answer."))
        exchange.respond(200, kind, body)

    api = server.plan("a", whole)
    _, reply = attempt(request(target(wire, api.url)), "stream")
    assert reply.text == "An answer." if wire == "ollama" else "the server did not stream" in str(reply.error)


def test_a_call_of_a_tool_is_named(server: FaultServer, attempt: Attempts) -> None:
    """No tools were offered, so such a reply is not an answer."""
    call = {"id": "1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    body |= {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    api = server.plan("a", faults.raw(200, json.dumps(body).encode()))
    _, reply = attempt(request(target("openai", api.url)), "sync")
    assert "the model called a tool instead of answering" in str(reply.error)


def _choice(kind: str, **facts: Any) -> dict[str, Any]:
    choice = {"index": 0, kind: {"role": "assistant", "content": "Half an ans"}, "finish_reason": "stop", **facts}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def _body(mode: str, whole: dict[str, Any], chunks: list[dict[str, Any]]) -> Reply:
    if mode == "whole":
        return faults.raw(200, json.dumps(whole, ensure_ascii=False).encode())
    return faults.raw(200, b"".join(map(sse, [*chunks, "[DONE]"])), "text/event-stream")


IN_THE_CHOICE: list[tuple[Any, type[errors.LLMError]]] = [
    ({"code": "rate_limit_exceeded", "message": "slow down"}, errors.RateLimitError),
    ({"code": 429, "message": "slow down"}, errors.RateLimitError),
    ({"code": 502, "message": "Provider disconnected"}, errors.ServerError),
    ("it broke", errors.ServerError),
]


@each_mode
@pytest.mark.parametrize("wire", ["openai", "openrouter"])
def test_an_error_in_the_choice_is_a_failure(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """A choice that holds an error is judged by the error, with any finish word."""
    for error, kind in IN_THE_CHOICE:
        api = server.plan("a", _body(mode, _choice("message", error=error), [_choice("delta", error=error)]))
        to = target("openai", api.url, model=OPENAI_LIKE[wire])
        assert type(attempt(request(to), mode)[1].error) is kind


PARTS: list[list[Any]] = [
    [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
    [{"type": "output_text", "text": "Hel", "annotations": []}, {"text": "lo"}],
    ["Hel", "lo"],
    [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Hello"}],
    [{"type": "image_url", "image_url": {"url": "x"}}, 3, {"type": "text", "text": "Hello"}],
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@each_mode
@pytest.mark.parametrize("wire", OPENAI_LIKE)
def test_a_content_of_parts_is_one_text(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """The texts of a list of parts are joined; usage and model are as received."""
    for parts in PARTS:
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        whole = _choice("message", message={"role": "assistant", "content": parts}) | {"usage": usage}
        chunks = [_choice("delta", delta={"content": [part]}, finish_reason=None) for part in parts]
        chunks += [_choice("delta", delta={}), {**_choice("delta"), "choices": [], "usage": usage}]
        api = server.plan("a", _body(mode, whole, chunks))
        to = target(wire if wire in WIRES else "openai", api.url, model=OPENAI_LIKE[wire])
        pieces, reply = attempt(request(to), mode)
        assert (reply.error, reply.text, pieces) == (None, "Hello", "Hello" if mode == "stream" else "")
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (5, 2)
        assert len(api.requests) == 1


def _unescaped(good: Good) -> Reply:
    """Returns answers without JSON escapes, which JSON does not need."""

    def reply(exchange: Exchange) -> None:
        kind, pieces = answer(exchange.request.wire, exchange.request.path, exchange.request.body, good)
        body = b"".join(pieces)
        for character in BREAKS:
            body = body.replace(json.dumps(character)[1:-1].encode(), character.encode())
        exchange.respond(200, kind, body)

    return reply


BREAKS = "\x85\u2028\u2029"


@each_mode
@each_wire
def test_a_line_ends_at_cr_and_lf_alone(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """U+0085, U+2028 and U+2029 are text, in the first piece and in the last."""
    text = f"{BREAKS}one{BREAKS} two{BREAKS}"
    api = server.plan("a", _unescaped(Good(text=text, pieces=3)))
    pieces, reply = attempt(request(target(wire, api.url)), mode)
    assert (reply.error, reply.text, reply.finish_reason) == (None, text, "stop")
    assert pieces == (text if mode == "stream" else "")
    assert reply.usage is not None


REASONED = {
    "no opening tag": "hmm\n</think>\n\nHello",
    "no line of its own": "hmm</think>Hello",
    "both tags": "<think>\nhmm\n</think>\n\nHello",
    "twice": "<think>hm</think>\n<think>hmm</think>\nHello",
    "Seed": "hmm</seed:think>Hello",
    "Magistral": "[THINK]hmm[/THINK]Hello",
    "Command": "<|START_THINKING|>hmm<|END_THINKING|>Hello",
    "Kimi": "◁think▷hmm◁/think▷Hello",
    "EXAONE": "hmm\n</thought>\n\nHello",
    "gpt-oss": "<|channel|>analysis<|message|>hmm<|end|><|start|>assistant<|channel|>final<|message|>Hello",
}


@each_mode
@each_wire
def test_the_reasoning_is_no_part_of_the_text(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """Reasoning that a template puts before the answer is removed from the text, and kept as reasoning."""
    for case, raw in REASONED.items():
        api = server.plan("a", faults.good(raw, pieces=7))
        pieces, reply = attempt(request(target(wire, api.url)), mode)
        assert (reply.error, reply.text) == (None, "Hello"), case
        assert "hm" in reply.reasoning
        opened = raw.startswith(("<", "[", "◁"))  # without an opening tag, reasoning is known at its end only
        assert pieces == ("" if mode == "whole" else "Hello" if opened else raw)


@each_mode
@each_wire
def test_reasoning_without_an_answer_is_no_answer(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """A reply with reasoning only is an error."""
    api = server.plan("a", faults.good("hmm\n</think>\n\n"))
    _, reply = attempt(request(target(wire, api.url)), mode)
    assert isinstance(reply.error, errors.BadResponseError)
    assert "reasoned" in str(reply.error)


@each_mode
def test_a_tag_that_the_prompt_speaks_of_is_text(server: FaultServer, attempt: Attempts, mode: str) -> None:
    """An answer about `</think>` is unchanged."""
    text = "The tag </think> ends the reasoning."
    api = server.plan("a", faults.good(text))
    asked = request(target("ollama", api.url), messages=(Message(role="user", content="What is </think>?"),))
    assert attempt(asked, mode)[1].text == text


@each_mode
@each_wire
def test_text_is_valid_unicode(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """A lone surrogate is escaped; two halves in two pieces are one character."""
    text = "a\ud83d\ude00b\ud83dc\ude00"
    api = server.plan("a", faults.good(text, pieces=len(text)))
    pieces, reply = attempt(request(target(wire, api.url)), mode)
    assert (reply.error, reply.text) == (None, r"a😀b\ud83dc\ude00")
    assert pieces == (reply.text if mode == "stream" else "")


KEPT = {
    "An answer.": {"tired": False, "tool_calls": True, "eos": True},
    "<think>hmm</think>An answer.": {"stop": True},
}


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize("mode", ["complete", "astream"])
async def test_only_whole_answers_are_cached(api: Make, mode: str) -> None:
    """An answer with an unknown finish word is asked for again; a cached one holds no reasoning."""
    for text, finish, kept in ((text, *row) for text, rows in KEPT.items() for row in rows.items()):
        a = api("a", faults.good(text, finish=finish))
        async with manager({"m": model("openai", a)}, cache="use", system=finish) as llm:
            first, second = await ask(llm, mode), await ask(llm, mode)
        assert first.text == second.text == "An answer."
        assert (second.cached, len(a.asked)) == (kept, 1 if kept else 2)


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize("wire", ["openai", "ollama"])
async def test_a_failed_finish_is_tried_again_or_elsewhere(api: Make, wire: str) -> None:
    """A failed generation is asked for again; one out of context goes to a larger window."""
    a = api("a", faults.good("Half", finish="error"), faults.good("Half", finish="model_context_window_exceeded"))
    b = api("b", faults.good("An answer."))
    small, large = model(wire, a), model("openai", b, context_window=64_000)
    async with manager({"small": small, "large": large}, retries=1) as llm:
        given: Answer[Any] = await ask(llm, "acomplete")
    assert [type(one.error) for one in given.attempts] == [errors.ServerError, errors.ContextWindowError, type(None)]
    assert (len(a.asked), len(b.asked)) == (2, 1)


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize("between", ["unavailable", "rate_limit", "server_error"])
async def test_a_repair_asks_about_the_answer_that_was_invalid(api: Make, between: str) -> None:
    """A failure between the answer and its repair does not change what is repaired."""
    later = faults.error(between, headers={"retry-after": "0"})
    a = api("a", faults.good("<think>hmm</think>no JSON"), later, faults.good('{"n": 1}'))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with manager({"m": model("openai", a)}) as llm:
        given = await ask(llm, "acomplete", schema=schema | {"additionalProperties": False})
    assert given.parsed == {"n": 1}
    turns = [body["messages"][-2:] for body in a.bodies]
    assert turns[1] == turns[2]
    assert (turns[2][0]["role"], turns[2][0]["content"]) == ("assistant", "no JSON")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_a_number_inside_a_200_is_that_status(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """An error in place of an answer, or after a piece of text, is judged by its number."""
    numbers = {402: errors.QuotaExceededError, 404: errors.ModelNotFoundError, 429: errors.RateLimitError}
    for code, kind in numbers.items():
        body = {"type": "error", "error": {"message": "Provider returned error", "code": code}}
        streaming = mode == "stream"
        alone = faults.error_in_stream(body=body) if streaming else faults.raw(200, json.dumps(body).encode())
        api = server.plan("a", alone, faults.error_in_stream(body=body, after=1), faults.good())
        _, reply = attempt(request(target(wire, api.url)), mode)
        assert (type(reply.error), reply.error.status, len(api.requests)) == (kind, code, 1)
        if streaming:
            _, reply = attempt(request(target(wire, api.url)), mode)
            assert (type(reply.error), reply.error.status) == (kind, 200)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("wire", "version"), [("azure", "2024-10-21"), ("azure v1", "v1"), ("azure v1", "preview")])
def test_a_token_is_asked_for_at_each_attempt(
    server: FaultServer, attempt: Attempts, wire: str, version: str, mode: str
) -> None:
    """A token function is called for each attempt; `preview` is in the URL."""
    tokens, api = iter(("first", "second")), server.plan("a", faults.good("fine"))
    to = replace(target(wire, api.url), key=lambda: next(tokens), api_version=version)
    for token in ("first", "second"):
        assert attempt(request(to), mode)[1].text == "fine"
        assert api.requests[-1].has_key("authorization", token)
        assert api.requests[-1].query == ({} if version == "v1" else {"api-version": version})
