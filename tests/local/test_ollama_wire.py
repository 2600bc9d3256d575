"""One attempt at an Ollama model over each of its three wires, replayed from what a real server answered.

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
from gateway_kit import DEAD, attempt, chat, target
from manager_kit import Make
from ollama_kit import recording

from testronaut_llm import errors
from testronaut_llm.gateway.model_request import Request, Target
from testronaut_llm.records import Usage
from testronaut_llm.schema.output_schema import WireSchema
from testronaut_llm.testing.cassette_format import from_yaml
from testronaut_llm.testing.cassettes import Cassette

IMAGES = "messages.*.images"  # LiteLLM adds an empty list
OURS = ("options.num_ctx", "truncate", "shift", IMAGES)
LITELLM = ("options.num_ctx", "truncate", "shift")
THINK = "think"  # recorded as true, where ours says how much
CAP = ("max_tokens",)  # recorded without one; ours always says how much
BLOCKS = ("messages.*.content",)  # recorded as a string; LiteLLM sends a list of blocks

ANSWERS = [
    *(recording(name, ignored=LITELLM) for name in ("litellm-chat", "litellm-chat-schema", "litellm-chat-stream")),
    recording("litellm-think", ignored=(*LITELLM, THINK)),
    recording("litellm-chat-num-ctx", ignored=("truncate", "shift")),
    *(
        recording(name, ignored=OURS)
        for name in (
            "chat", "chat-warm", "chat-length", "chat-non-ascii", "chat-pulled-model", "chat-schema",
            "chat-schema-length", "chat-stop-sequence", "chat-system", "chat-turns", "think-off",
            "chat-stream", "chat-stream-length", "chat-schema-stream", "chat-too-long-cut-silently",
        )
    ),
    recording("chat-after-runner-killed", ignored=(*OURS, "options")),
    *(recording(name, ignored=(*OURS, THINK)) for name in ("think", "think-stream", "think-length-no-content")),
    recording("chat-too-long-shift-false", ignored=("truncate", IMAGES)),
]  # fmt: skip
FAILURES = [
    recording("litellm-missing-model", errors.ModelNotFoundError, ignored=(*LITELLM, "options.num_predict")),
    recording("chat-missing-model-404", errors.ModelNotFoundError, ignored=(*OURS, "options")),
    recording("chat-missing-model-404-stream", errors.ModelNotFoundError, ignored=(*OURS, "options")),
    recording("openai-missing-model-404", errors.ModelNotFoundError, ignored=CAP),
    recording("chat-too-long-truncate-false", errors.ContextWindowError, ignored=("shift", IMAGES)),
    recording("runner-killed", errors.ServerError, ignored=OURS),
    recording("runner-killed-in-stream", errors.ServerError, ignored=OURS),
    recording("stream-left-early", errors.ConnectionFailedError, ignored=OURS),
    recording("think-not-supported-400", errors.InvalidRequestError, ignored=(*OURS, THINK, "options")),
]


def _lines(cassette: Cassette) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cassette.responses[0]["body"]["string"].splitlines()]


def _where(cassette: Cassette) -> Target:
    """Returns the model that a recorded request asked, at the wire of its path."""
    path, body = cassette.requests[0].path, json.loads(cassette.requests[0].body)
    if path.startswith("/v1/"):
        provider, url = ("anthropic", DEAD) if path.endswith("/messages") else ("openai", f"{DEAD}/v1")
        reasoning = "low" if "thinking" in body or "reasoning_effort" in body else None
        return target(f"{provider}/{body['model']}", url=url, reasoning=reasoning)
    level = {None: None, False: "off", True: "high"}[body.get("think")]
    return target(f"ollama/{body['model']}", key=None, reasoning=level, dimensions=body.get("dimensions"))


def _ours(cassette: Cassette) -> Request:
    body = json.loads(cassette.requests[0].body)
    options = body.get("options", body)
    form = body.get("response_format", {}).get("json_schema") or {"schema": body.get("format"), "name": "answer"}
    return chat(
        _where(cassette),
        *((turn["role"], turn["content"]) for turn in body["messages"]),
        max_tokens=options.get("num_predict", options.get("max_tokens", 80)),
        temperature=options.get("temperature"),
        seed=options.get("seed"),
        stop=tuple(options.get("stop", ())),
        schema=form["schema"] and WireSchema(schema=form["schema"], name=form["name"], instructions="", wrapped=False),
        num_ctx=options.get("num_ctx", 2048),
        stream=body.get("stream", False),
    )


@pytest.mark.parametrize((), ANSWERS)
async def test_a_recorded_answer_is_ours(llm_cassette: Cassette) -> None:
    """Text, finish and usage are those of the wire; a stream returns the same text in pieces.

    So a cap that was spent on thinking leaves no text, and a prompt that the server cut shows in the usage.
    """
    request, lines = _ours(llm_cassette), _lines(llm_cassette)
    pieces, reply = await attempt(request)
    assert reply.error is None
    said = "".join(line["message"]["content"] for line in lines)
    assert reply.text.strip() == re.sub("<think>.*?</think>", "", said, flags=re.DOTALL).strip()
    assert reply.finish_reason == lines[-1]["done_reason"]
    counts = (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"])
    assert reply.usage == Usage(prompt_tokens=counts[0], completion_tokens=counts[1])
    assert (len(pieces) > 1, "".join(pieces)) == (request.stream, reply.text if request.stream else "")


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_recorded_failure_is_ours(llm_cassette: Cassette, kind: type[errors.LLMError]) -> None:
    _, reply = await attempt(_ours(llm_cassette))
    assert type(reply.error) is kind
    assert reply.finish_reason is None
    assert reply.text == "".join(line["message"]["content"] for line in _lines(llm_cassette) if "message" in line)


EMBEDDINGS = [
    recording("litellm-embed", None, ignored=("truncate",)),
    recording("embed", None, ignored=("truncate", "input")),
    recording("embed-batch", None, ignored=("truncate",)),
    recording("embed-dimensions", None, ignored=("truncate", "input")),
    recording("embed-too-long", None, ignored=("truncate", "input")),
    recording("openai-embeddings", None, ignored=("encoding_format", "input")),
    recording("embed-empty-string", errors.BadResponseError, ignored=("truncate", "input")),
    recording("embed-missing-model-404", errors.ModelNotFoundError, ignored=("truncate", "input")),
    recording("embed-too-long-truncate-false", errors.ContextWindowError, ignored=("input",)),
    recording("embed-chat-model-error", errors.InvalidRequestError, ignored=("truncate", "input")),
]


@pytest.mark.parametrize("kind", EMBEDDINGS)
async def test_recorded_embeddings_are_ours(llm_cassette: Cassette, kind: type[errors.LLMError] | None) -> None:
    texts, (sent,) = json.loads(llm_cassette.requests[0].body)["input"], _lines(llm_cassette)
    request = Request(target=_where(llm_cassette), texts=(texts,) if isinstance(texts, str) else (*texts,), timeout=10)
    _, reply = await attempt(request)
    assert type(reply.error) is (kind or type(None))
    if kind is None:
        vectors = sent.get("embeddings") or [row["embedding"] for row in sent["data"]]
        tokens = sent["prompt_eval_count"] if "embeddings" in sent else sent["usage"]["prompt_tokens"]
        assert [list(vector) for vector in reply.vectors] == vectors
        assert reply.usage == Usage(prompt_tokens=tokens)


ANSWER = (
    "The `ls -la` command lists the output of the `ls` command in a human-readable format, with the output in the "
    "format of a list of lines, each line being a list of the current command's output."
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
            *("anthropic-thinking", "It is an animal.", "stop", None),
            ignored=(*BLOCKS, "thinking", "temperature", "max_tokens"),
        ),
    ],
)
async def test_a_recorded_answer_of_another_wire_is_ours(
    llm_cassette: Cassette, text: str, finish: str, tokens: tuple[int, int] | None
) -> None:
    request = _ours(llm_cassette)
    pieces, reply = await attempt(request)
    assert reply.error is None
    assert (reply.text, reply.finish_reason) == (text, finish)
    assert reply.usage is not None
    assert tokens in (None, (reply.usage.prompt_tokens, reply.usage.completion_tokens))
    assert "".join(pieces) == (text if request.stream else "")


# Mistakes of other clients

EXCHANGES = from_yaml((Path(__file__).parents[1] / "support/data/ollama/exchanges.yaml").read_text())["exchanges"]
STREAMED = {"chat-stream-default", "bad-schema-stream"}
KINDS: dict[str, type[errors.LLMError] | None] = {
    **dict.fromkeys(("chat-json", "unknown-option", "wrong-role", "chat-stream-default")),
    **dict.fromkeys(("anthropic-missing-model-404", "unknown-path-404"), errors.ModelNotFoundError),
    **dict.fromkeys(("load", "unload"), errors.BadResponseError),
}
"""Usable answers have no error. All others are InvalidRequestError."""


@pytest.mark.parametrize("name", sorted(set(EXCHANGES) - {"embed-empty-list"}))
async def test_an_odd_answer_is_an_error_or_an_answer(api: Make, name: str) -> None:
    server = api("odd", faults.recorded(name))
    asked = chat(target("ollama/llama-a", url=server.url, key=None), "?", num_ctx=2048, stream=name in STREAMED)
    _, reply = await attempt(asked)
    assert len(server.asked) == 1
    kind = KINDS.get(name, errors.InvalidRequestError)
    assert type(reply.error) is (kind or type(None))
    assert reply.text if reply.error is None else reply.error.status == EXCHANGES[name]["response"]["status"]
