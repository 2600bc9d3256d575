"""One attempt at an Ollama model over each of its wires, replayed from what a real server answered.

The requests were recorded before this package existed, so each case names the fields in which ours differs.
All others must be the same: the match of the cassette checks this.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import FaultServer
from gateway_kit import DEAD, attempt, chat, target
from ollama_kit import recording

from testronaut_llm.errors import (
    BadResponseError,
    ConnectionFailedError,
    ContextWindowError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ServerError,
)
from testronaut_llm.gateway.model_request import Request, Target
from testronaut_llm.records import Usage
from testronaut_llm.schema.output_schema import WireSchema
from testronaut_llm.testing.cassette_format import from_yaml
from testronaut_llm.testing.cassettes import Cassette

IMAGES = "messages.*.images"  # LiteLLM adds an empty list
OURS = ("options.num_ctx", "truncate", "shift", IMAGES)
LITELLM = ("options.num_ctx", "truncate", "shift")

THINK = "think"  # recorded as true, where ours says how much

ANSWERS = [
    *(recording(name, None, ignored=LITELLM) for name in ("litellm-chat", "litellm-chat-schema")),
    recording("litellm-think", None, ignored=(*LITELLM, THINK)),
    recording("litellm-chat-num-ctx", None, ignored=("truncate", "shift")),
    *(
        recording(name, None, ignored=OURS)
        for name in (
            "chat", "chat-warm", "chat-length", "chat-non-ascii", "chat-pulled-model", "chat-schema",
            "chat-schema-length", "chat-stop-sequence", "chat-system", "chat-turns", "think-off",
        )
    ),
    recording("chat-after-runner-killed", None, ignored=(*OURS, "options")),
    recording("think", None, ignored=(*OURS, THINK)),
    recording("chat-too-long-shift-false", None, ignored=("truncate", IMAGES)),
]  # fmt: skip
STREAMS = [
    recording("litellm-chat-stream", None, ignored=LITELLM),
    *(recording(name, None, ignored=OURS) for name in ("chat-stream", "chat-stream-length", "chat-schema-stream")),
    recording("think-stream", None, ignored=(*OURS, THINK)),
]
FAILURES = [
    recording("litellm-missing-model", ModelNotFoundError, ignored=(*LITELLM, "options.num_predict")),
    recording("chat-missing-model-404", ModelNotFoundError, ignored=(*OURS, "options")),
    recording("chat-missing-model-404-stream", ModelNotFoundError, ignored=(*OURS, "options")),
    recording("chat-too-long-truncate-false", ContextWindowError, ignored=("shift", IMAGES)),
    recording("runner-killed", ServerError, ignored=OURS),
    recording("runner-killed-in-stream", ServerError, ignored=OURS),
    recording("stream-left-early", ConnectionFailedError, ignored=OURS),
    recording("think-not-supported-400", InvalidRequestError, ignored=(*OURS, THINK, "options")),
]


def _recorded(cassette: Cassette) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the request and the lines of the response."""
    request, response = cassette.data[0]
    lines = response["body"]["string"].decode().splitlines()
    return json.loads(request.body), [json.loads(line) for line in lines]


def _ours(body: dict[str, Any]) -> Request:
    """Returns our request with the same content."""
    options, schema = body.get("options", {}), body.get("format")
    return chat(
        _where(body),
        *((turn["role"], turn["content"]) for turn in body["messages"]),
        max_tokens=options.get("num_predict", 80),
        temperature=options.get("temperature"),
        seed=options.get("seed"),
        stop=tuple(options.get("stop", ())),
        schema=schema and WireSchema(schema=schema, name="answer", instructions="", wrapped=False),
        num_ctx=options.get("num_ctx", 2048),
        stream=body["stream"],
    )


def _where(body: dict[str, Any]) -> Target:
    level = {None: None, False: "off", True: "high"}[body.get("think")]
    return target(f"ollama/{body['model']}", key=None, reasoning=level, dimensions=body.get("dimensions"))


@pytest.mark.parametrize("_", ANSWERS + STREAMS)
async def test_a_recorded_answer_is_ours(cassette: Cassette, _: None) -> None:
    """Text, finish and usage are those of the wire; a stream returns the same text in pieces."""
    body, lines = _recorded(cassette)
    pieces, reply = await attempt(_ours(body))
    assert reply.error is None
    said = "".join(line["message"]["content"] for line in lines)
    assert reply.text.strip() == re.sub("<think>.*?</think>", "", said, flags=re.DOTALL).strip()
    assert reply.finish_reason == lines[-1]["done_reason"]
    counts = (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"])
    assert reply.usage == Usage(prompt_tokens=counts[0], completion_tokens=counts[1])
    assert (len(pieces) > 1, "".join(pieces) == reply.text) == ((True, True) if body["stream"] else (False, False))


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_recorded_failure_is_ours(cassette: Cassette, kind: type[LLMError]) -> None:
    """Each failure of the real server has its class; text before it is kept, and no finish is invented."""
    body, lines = _recorded(cassette)
    _, reply = await attempt(_ours(body))
    assert type(reply.error) is kind
    assert reply.finish_reason is None
    assert reply.text == "".join(line["message"]["content"] for line in lines if "message" in line)


@pytest.mark.llm_cassette("ollama/think-length-no-content", ignored=(*OURS, THINK))
async def test_a_cap_spent_on_thinking_leaves_no_text(cassette: Cassette) -> None:
    """If thinking used the whole cap, the finish is `length` and there is no text."""
    body, _ = _recorded(cassette)
    _, reply = await attempt(_ours(body))
    assert (reply.text, reply.finish_reason) == ("", "length")


@pytest.mark.llm_cassette("ollama/chat-too-long-cut-silently", ignored=OURS)
async def test_a_prompt_that_was_cut_shows_in_the_usage(cassette: Cassette) -> None:
    """A server that cuts the prompt answers 200; its count of prompt tokens shows the cut."""
    body, _ = _recorded(cassette)
    _, reply = await attempt(_ours(body))
    assert reply.usage.prompt_tokens == 258
    assert len(body["messages"][0]["content"]) > 10_000


EMBEDDINGS = [
    recording("litellm-embed", None, ignored=("truncate",)),
    recording("embed", None, ignored=("truncate", "input")),
    recording("embed-batch", None, ignored=("truncate",)),
    recording("embed-dimensions", None, ignored=("truncate", "input")),
    recording("embed-too-long", None, ignored=("truncate", "input")),
    recording("embed-empty-string", BadResponseError, ignored=("truncate", "input")),
    recording("embed-missing-model-404", ModelNotFoundError, ignored=("truncate", "input")),
    recording("embed-too-long-truncate-false", ContextWindowError, ignored=("input",)),
    recording("embed-chat-model-error", InvalidRequestError, ignored=("truncate", "input")),
]


@pytest.mark.parametrize("kind", EMBEDDINGS)
async def test_recorded_embeddings_are_ours(cassette: Cassette, kind: type[LLMError] | None) -> None:
    """One vector a text with the prompt's tokens, or the failure; a missing vector is a failure, too."""
    body, lines = _recorded(cassette)
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    request = Request(target=_where(body), texts=tuple(texts), timeout=10)
    _, reply = await attempt(request)
    assert type(reply.error) is (kind or type(None))
    if kind is None:
        assert [list(vector) for vector in reply.vectors] == lines[0]["embeddings"]
        assert reply.usage == Usage(prompt_tokens=lines[0]["prompt_eval_count"])


# Its OpenAI and Anthropic wires

OPENAI = f"{DEAD}/v1"
CAP = ("max_tokens",)  # recorded without one; ours always says how much
BLOCKS = ("messages.*.content",)  # recorded as a string; LiteLLM sends a list of blocks
ANSWER = (
    "The `ls -la` command lists the output of the `ls` command in a human-readable format, with the output in the "
    "format of a list of lines, each line being a list of the current command's output."
)


def _asked(cassette: Cassette) -> Request:
    """Returns our request for a recorded reply."""
    body: dict[str, Any] = json.loads(cassette.requests[0].body)
    anthropic = cassette.requests[0].path.endswith("/messages")
    reasoning = "low" if "thinking" in body or "reasoning_effort" in body else None
    base, provider = (DEAD, "anthropic") if anthropic else (OPENAI, "openai")
    form = body.get("response_format", {}).get("json_schema")
    return chat(
        target(f"{provider}/{body['model']}", url=base, reasoning=reasoning),
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
async def test_a_recorded_answer_of_another_wire_is_ours(
    cassette: Cassette, text: str, finish: str, tokens: tuple[int, int] | None
) -> None:
    """Text, finish and usage are the same over either wire, streamed or not."""
    request = _asked(cassette)
    pieces, reply = await attempt(request)
    assert reply.error is None
    assert (reply.text, reply.finish_reason) == (text, finish)
    assert reply.usage is not None
    if tokens is not None:
        assert reply.usage == Usage(prompt_tokens=tokens[0], completion_tokens=tokens[1])
    assert "".join(pieces) == (text if request.stream else "")


@pytest.mark.llm_cassette("ollama/openai-missing-model-404", ignored=CAP)
async def test_a_missing_model_of_another_wire(cassette: Cassette) -> None:
    """A missing model is a ModelNotFoundError over either wire."""
    _, reply = await attempt(_asked(cassette))
    assert isinstance(reply.error, ModelNotFoundError)


@pytest.mark.llm_cassette("ollama/openai-embeddings", ignored=("encoding_format",))
async def test_embeddings_of_another_wire(cassette: Cassette) -> None:
    """The vector has exactly the numbers that were sent."""
    where = target("openai/smollm2-embed:135m", url=OPENAI)
    request = Request(target=where, texts=("list files",), timeout=10)
    _, reply = await attempt(request)
    sent = json.loads(cassette.responses[0]["body"]["string"])
    assert [list(vector) for vector in reply.vectors] == [sent["data"][0]["embedding"]]
    assert reply.usage == Usage(prompt_tokens=sent["usage"]["prompt_tokens"])


# Mistakes of other clients

EXCHANGES = from_yaml((Path(__file__).parents[1] / "support" / "data" / "ollama" / "exchanges.yaml").read_text())[
    "exchanges"
]
ANSWERED = {"chat-json", "unknown-option", "wrong-role"}
STREAMED = {"chat-stream-default", "bad-schema-stream"}
LISTS_NOTHING = {"embed-empty-list"}
KINDS: dict[str, type[LLMError]] = {
    "anthropic-missing-model-404": ModelNotFoundError,
    "unknown-path-404": ModelNotFoundError,
    "load": BadResponseError,
    "unload": BadResponseError,
}


@pytest.mark.parametrize("name", sorted(set(EXCHANGES) - LISTS_NOTHING))
async def test_an_odd_answer_is_an_error_or_an_answer(name: str) -> None:
    """Each is one request and one error of ours with the server's message; usable answers are accepted."""
    with FaultServer() as server:
        api = server.plan("ollama", faults.recorded(name))
        asked = chat(target("ollama/llama-a", url=api.url, key=None), "?", num_ctx=2048, stream=name in STREAMED)
        _, reply = await attempt(asked)
    assert len(api.requests) == 1
    if name in ANSWERED or name == "chat-stream-default":
        assert reply.error is None
        assert reply.text
        return
    assert type(reply.error) is KINDS.get(name, InvalidRequestError)
    assert reply.error.status == EXCHANGES[name]["response"]["status"]
