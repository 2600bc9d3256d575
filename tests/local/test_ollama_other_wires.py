"""Ollama's OpenAI and Anthropic wires, replayed from what a real server answered, sync and async."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attempts import DEAD, attempt, chat, target
from ollama_kit import recording

from testronaut_llm.errors import ModelNotFoundError
from testronaut_llm.gateway.model_request import EmbedRequest, Request
from testronaut_llm.records import Usage
from testronaut_llm.schema.output_schema import WireSchema
from testronaut_llm.testing.cassettes import Cassette

OPENAI = f"{DEAD}/v1"
CAP = ("max_tokens",)  # recorded without one; ours always says how much
BLOCKS = ("messages.*.content",)  # recorded as a string; LiteLLM sends a list of blocks
ANSWER = (
    "The `ls -la` command lists the output of the `ls` command in a human-readable format, with the output in the "
    "format of a list of lines, each line being a list of the current command's output."
)


def _ask(cassette: Cassette) -> Request:
    """Our request for what was recorded."""
    body: dict[str, Any] = json.loads(cassette.requests[0].body)
    anthropic = cassette.requests[0].path.endswith("/messages")
    reasoning = "low" if "thinking" in body or "reasoning_effort" in body else None
    base, provider = (DEAD, "anthropic") if anthropic else (OPENAI, "openai")
    form = body.get("response_format", {}).get("json_schema")
    return chat(
        target(f"{provider}/{body['model']}", api_base=base, reasoning=reasoning),
        *((turn["role"], turn["content"]) for turn in body["messages"]),
        max_tokens=body.get("max_tokens", 80),
        temperature=body.get("temperature"),
        seed=body.get("seed"),
        stream=body.get("stream", False),
        schema=form and WireSchema(schema=form["schema"], name=form["name"], instructions="", wrapped=False),
    )


@pytest.mark.parametrize(
    ("text", "finish", "tokens"),
    [
        recording("openai-chat", ANSWER, "stop", (23, 48), ignored=CAP),
        recording("openai-chat-length", "The `ls -la", "length", (23, 5)),
        recording("openai-chat-schema", '{\n  "verdict": "fail",\n  "reason": "test failed"\n}', "stop", (45, 20)),
        recording("openai-chat-stream-usage", ANSWER, "stop", (23, 48), ignored=CAP),
        recording("openai-thinking", "It is a cat.", "stop", None, ignored=CAP),
        recording("anthropic-messages", ANSWER, "stop", (23, 48), ignored=BLOCKS),
        recording("anthropic-messages-length", "The `ls -la", "length", (23, 5), ignored=BLOCKS),
        recording("anthropic-messages-stream", ANSWER, "stop", (23, 48), ignored=BLOCKS),
        recording(
            "anthropic-thinking",
            "It is an animal.",
            "stop",
            None,
            ignored=(*BLOCKS, "thinking", "temperature", "max_tokens"),
        ),
    ],
)
async def test_a_recorded_answer_is_ours(
    cassette: Cassette, text: str, finish: str, tokens: tuple[int, int] | None
) -> None:
    """Text, finish and usage are the same behind either wire, streamed or not, and as the wire has them."""
    request = _ask(cassette)
    pieces, reply = await attempt(request)
    assert reply.error is None
    assert (reply.text, reply.finish_reason) == (text, finish)
    assert reply.usage is not None
    if tokens is not None:
        assert reply.usage == Usage(prompt_tokens=tokens[0], completion_tokens=tokens[1])
    assert "".join(pieces) == (text if request.stream else "")


@pytest.mark.cassette("ollama/openai-missing-model-404", ignored=CAP)
async def test_a_missing_model(cassette: Cassette) -> None:
    """A model that the server does not have is not found, whichever wire asked."""
    _, reply = await attempt(_ask(cassette))
    assert isinstance(reply.error, ModelNotFoundError)


@pytest.mark.cassette("ollama/openai-embeddings", ignored=("encoding_format",))
async def test_embeddings(cassette: Cassette) -> None:
    """The vector is the one that was sent, number for number."""
    where = target("openai/smollm2-embed:135m", api_base=OPENAI)
    request = EmbedRequest(target=where, texts=("list files",), timeout=10)
    _, reply = await attempt(request)
    sent = json.loads(cassette.responses[0]["body"]["string"])
    assert [list(vector) for vector in reply.vectors] == [sent["data"][0]["embedding"]]
    assert reply.usage == Usage(prompt_tokens=sent["usage"]["prompt_tokens"])
