"""Good answers on each provider's wire, written by hand for the fault server.

They follow failures in a plan. They prove nothing about a real provider, and are never cassettes.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from typing import Any

Body = tuple[str, list[bytes]]
"""Content type, and the body in the pieces in which a server would send it."""

_ID = "made-by-hand-for-the-fault-server"


@dataclass(frozen=True, kw_only=True)
class Good:
    """The content of an answer.

    `finish` is OpenAI's word (`stop`, `length`, `content_filter`), put into the wire's own; None leaves it
    out. `usage` is prompt and answer tokens, None leaves it out. `pieces` is the number of a stream's texts.
    """

    text: str = "Hello from the fault server."
    finish: str | None = "stop"
    usage: tuple[int, int] | None = (12, 6)
    reasoning: str = ""
    model: str | None = None
    vectors: tuple[tuple[float, ...], ...] | None = None
    pieces: int = 4

    def parts(self) -> list[str]:
        """The text in pieces, for a stream."""
        size = max(1, -(-len(self.text) // self.pieces))
        return [self.text[start : start + size] for start in range(0, len(self.text), size)]


def answer(wire: str, path: str, request: Any, good: Good) -> Body:
    """The body that answers `request` in `wire`, streamed when the request asks for a stream."""
    body = request if isinstance(request, dict) else {}
    model = good.model or body.get("model") or "a-model"
    if "embed" in path:
        return _embeddings(wire, body, good, model)
    if wire == "anthropic":
        return (_anthropic_stream if body.get("stream") else _anthropic)(body, good, model)
    if wire == "ollama":
        return (_ollama_stream if body.get("stream", True) else _ollama)(good, model)
    return (_openai_stream if body.get("stream") else _openai)(body, good, model)


def sse(event: Any, name: str = "") -> bytes:
    """One server-sent event."""
    data = event if isinstance(event, str) else json.dumps(event)
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


def _json(value: Any) -> Body:
    return "application/json", [json.dumps(value).encode()]


def _openai_usage(good: Good) -> dict[str, int]:
    prompt, completion = good.usage or (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _openai(_: dict[str, Any], good: Good, model: str) -> Body:
    message = {"role": "assistant", "content": good.text}
    if good.reasoning:
        message["reasoning_content"] = good.reasoning
    choice = {"index": 0, "message": message, "finish_reason": good.finish}
    answer = {"id": _ID, "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    return _json(answer | ({"usage": _openai_usage(good)} if good.usage else {}))


def _openai_stream(body: dict[str, Any], good: Good, model: str) -> Body:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": _ID, "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}

    events: list[bytes] = [sse(chunk({"role": "assistant", "content": ""}))]
    if good.reasoning:
        events.append(sse(chunk({"reasoning_content": good.reasoning})))
    events += [sse(chunk({"content": part})) for part in good.parts()]
    if good.finish:
        events.append(sse(chunk({}, good.finish)))
    if good.usage and (body.get("stream_options") or {}).get("include_usage"):
        events.append(sse({**chunk({}), "choices": [], "usage": _openai_usage(good)}))
    if good.finish:
        events.append(sse("[DONE]"))
    return "text/event-stream", events


_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


def _stop_reason(good: Good) -> str | None:
    return _STOP_REASONS.get(good.finish, good.finish) if good.finish else None


def _anthropic(body: dict[str, Any], good: Good, model: str) -> Body:
    blocks: list[dict[str, Any]] = []
    if good.reasoning:
        blocks.append({"type": "thinking", "thinking": good.reasoning, "signature": "c2ln"})
    if forced := (body.get("tool_choice") or {}).get("name"):
        blocks.append({"type": "tool_use", "id": "toolu_1", "name": forced, "input": json.loads(good.text)})
    elif good.text:
        blocks.append({"type": "text", "text": good.text})
    reason = "tool_use" if forced else _stop_reason(good)
    message = {"id": _ID, "type": "message", "role": "assistant", "model": model, "content": blocks}
    message |= {"stop_reason": reason, "stop_sequence": None}
    prompt, completion = good.usage or (0, 0)
    return _json(message | ({"usage": {"input_tokens": prompt, "output_tokens": completion}} if good.usage else {}))


def _anthropic_stream(_: dict[str, Any], good: Good, model: str) -> Body:
    prompt, completion = good.usage or (0, 0)
    start = {"id": _ID, "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None}
    if good.usage:
        start["usage"] = {"input_tokens": prompt, "output_tokens": 1}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    blocks = [("thinking", "thinking_delta", "thinking", [good.reasoning])] if good.reasoning else []
    blocks.append(("text", "text_delta", "text", good.parts()))
    for index, (kind, delta, key, parts) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": {"type": kind, key: ""}})
        events += [
            {"type": "content_block_delta", "index": index, "delta": {"type": delta, key: part}} for part in parts
        ]
        events.append({"type": "content_block_stop", "index": index})
    if good.finish:
        usage = {"usage": {"output_tokens": completion}} if good.usage else {}
        events.append(
            {"type": "message_delta", "delta": {"stop_reason": _stop_reason(good), "stop_sequence": None}, **usage}
        )
        events.append({"type": "message_stop"})
    return "text/event-stream", [sse(event, event["type"]) for event in events]


def _ollama_line(good: Good, model: str, *, text: str, thinking: str = "", done: bool = False) -> dict[str, Any]:
    message = {"role": "assistant", "content": text} | ({"thinking": thinking} if thinking else {})
    line = {"model": model, "created_at": "2026-01-01T00:00:00Z", "message": message, "done": done}
    if not done:
        return line
    prompt, completion = good.usage or (0, 0)
    counts = {"prompt_eval_count": prompt, "eval_count": completion} if good.usage else {}
    return line | {"done_reason": good.finish, "total_duration": 9, "load_duration": 1, "eval_duration": 5, **counts}


def _ollama(good: Good, model: str) -> Body:
    return _json(_ollama_line(good, model, text=good.text, thinking=good.reasoning, done=bool(good.finish)))


def _ollama_stream(good: Good, model: str) -> Body:
    lines = [_ollama_line(good, model, text="", thinking=good.reasoning)] if good.reasoning else []
    lines += [_ollama_line(good, model, text=part) for part in good.parts()]
    if good.finish:
        lines.append(_ollama_line(good, model, text="", done=True))
    return "application/x-ndjson", [json.dumps(line).encode() + b"\n" for line in lines]


def _embeddings(wire: str, body: dict[str, Any], good: Good, model: str) -> Body:
    texts = body.get("input", "")
    count = len(texts) if isinstance(texts, list) else 1
    vectors = good.vectors if good.vectors is not None else tuple((float(n + 1), 0.5, -0.25) for n in range(count))
    prompt = (good.usage or (0, 0))[0]
    if wire == "ollama":
        counts = {"prompt_eval_count": prompt} if good.usage else {}
        return _json({"model": model, "embeddings": vectors, "total_duration": 9, "load_duration": 1, **counts})
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
        for index, vector in enumerate(vectors)
    ]
    answer = {"object": "list", "model": model, "data": data}
    return _json(answer | ({"usage": {"prompt_tokens": prompt, "total_tokens": prompt}} if good.usage else {}))


def _packed(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
