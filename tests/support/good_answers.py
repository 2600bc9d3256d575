"""Good answers on each provider's wire, written by hand for the fault server; they prove nothing about a provider."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Body = tuple[str, list[bytes]]  # the content type, and the pieces in which a server would send the body
Fields = dict[str, Any]

_ID = "made-by-hand-for-the-fault-server"
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


@dataclass(frozen=True, kw_only=True)
class Good:
    """The content of an answer; what is None is left out."""

    text: str = "Hello from the fault server."
    finish: str | None = "stop"  # or `length`, `content_filter`: OpenAI's word, put into the wire's own
    usage: tuple[int, int] | None = (12, 6)  # tokens of prompt and answer
    reasoning: str = ""
    model: str | None = None
    vectors: tuple[tuple[float, ...], ...] | None = None
    pieces: int = 4  # of a stream

    def parts(self) -> list[str]:
        size = max(1, -(-len(self.text) // self.pieces))
        return [self.text[start : start + size] for start in range(0, len(self.text), size)]

    def counts(self, *names: str) -> Fields:
        return dict(zip(names, self.usage or (), strict=False))


def answer(wire: str, path: str, request: Any, good: Good) -> Body:
    """The body that answers `request` in `wire`, streamed when the request asks for a stream."""
    body = request if isinstance(request, dict) else {}
    model = good.model or body.get("model") or "a-model"
    if "embed" in path:
        return _embeddings(wire, body, good, model)
    if wire == "anthropic":
        return (_anthropic_stream if body.get("stream") else _anthropic)(body, good, model)
    if wire == "ollama":
        return _ollama(good, model, stream=body.get("stream", True))
    return (_openai_stream if body.get("stream") else _openai)(body, good, model)


def sse(event: Any, name: str = "") -> bytes:
    data = event if isinstance(event, str) else json.dumps(event)
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


def _json(value: Any) -> Body:
    return "application/json", [json.dumps(value).encode()]


def _completion(kind: str, model: str, part: Fields, finish: str | None = None) -> Fields:
    choice = {"index": 0, kind: part, "finish_reason": finish}
    name = "chat.completion" if kind == "message" else "chat.completion.chunk"
    return {"id": _ID, "object": name, "created": 1, "model": model, "choices": [choice]}


def _openai_usage(good: Good) -> Fields:
    usage = {**good.counts("prompt_tokens", "completion_tokens"), "total_tokens": sum(good.usage or ())}
    return {"usage": usage} if good.usage else {}


def _openai(_: Fields, good: Good, model: str) -> Body:
    message = {"role": "assistant", "content": good.text}
    message |= {"reasoning_content": good.reasoning} if good.reasoning else {}
    return _json(_completion("message", model, message, good.finish) | _openai_usage(good))


def _openai_stream(body: Fields, good: Good, model: str) -> Body:
    deltas: list[Fields] = [{"role": "assistant", "content": ""}, *({"content": part} for part in good.parts())]
    deltas[1:1] = [{"reasoning_content": good.reasoning}] if good.reasoning else []
    events = [_completion("delta", model, delta) for delta in deltas]
    if good.finish:
        events.append(_completion("delta", model, {}, good.finish))
    if good.usage and (body.get("stream_options") or {}).get("include_usage"):
        events.append({**_completion("delta", model, {}), "choices": [], **_openai_usage(good)})
    return "text/event-stream", [sse(event) for event in [*events, *(["[DONE]"] if good.finish else [])]]


def _stop(good: Good) -> Fields:
    return {"stop_reason": _STOP_REASONS.get(good.finish or "", good.finish), "stop_sequence": None}


def _message(good: Good, model: str, content: list[Fields], output: int) -> Fields:
    usage = {"usage": {**good.counts("input_tokens"), "output_tokens": output}} if good.usage else {}
    return {"id": _ID, "type": "message", "role": "assistant", "model": model, "content": content, **usage}


def _anthropic(body: Fields, good: Good, model: str) -> Body:
    blocks: list[Fields] = []
    if good.reasoning:
        blocks.append({"type": "thinking", "thinking": good.reasoning, "signature": "c2ln"})
    if forced := (body.get("tool_choice") or {}).get("name"):
        blocks.append({"type": "tool_use", "id": "toolu_1", "name": forced, "input": json.loads(good.text)})
    elif good.text:
        blocks.append({"type": "text", "text": good.text})
    end = {**_stop(good), "stop_reason": "tool_use"} if forced else _stop(good)
    return _json(_message(good, model, blocks, good.usage[1] if good.usage else 0) | end)


def _anthropic_stream(_: Fields, good: Good, model: str) -> Body:
    events: list[Fields] = [{"type": "message_start", "message": _message(good, model, [], 1) | {"stop_reason": None}}]
    blocks = [("thinking", [good.reasoning])] if good.reasoning else []
    for index, (kind, parts) in enumerate([*blocks, ("text", good.parts())]):
        deltas = [{"type": f"{kind}_delta", kind: part} for part in parts]
        events.append({"type": "content_block_start", "index": index, "content_block": {"type": kind, kind: ""}})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    if good.finish:
        usage = {"usage": {"output_tokens": good.usage[1]}} if good.usage else {}
        events += [{"type": "message_delta", "delta": _stop(good), **usage}, {"type": "message_stop"}]
    return "text/event-stream", [sse(event, event["type"]) for event in events]


def _ollama(good: Good, model: str, *, stream: bool) -> Body:
    def line(text: str, thinking: str = "", *, done: bool = False) -> Fields:
        message = {"role": "assistant", "content": text} | ({"thinking": thinking} if thinking else {})
        end = {"done_reason": good.finish, **good.counts("prompt_eval_count", "eval_count")} if done else {}
        return {"model": model, "message": message, "done": done, **end}

    if not stream:
        return _json(line(good.text, good.reasoning, done=bool(good.finish)))
    lines = [line("", good.reasoning)] if good.reasoning else []
    lines += [line(part) for part in good.parts()] + ([line("", done=True)] if good.finish else [])
    return "application/x-ndjson", [json.dumps(one).encode() + b"\n" for one in lines]


def _embeddings(wire: str, body: Fields, good: Good, model: str) -> Body:
    texts = body.get("input", "")
    count = len(texts) if isinstance(texts, list) else 1
    vectors = good.vectors if good.vectors is not None else tuple((float(n + 1), 0.5, -0.25) for n in range(count))
    if wire == "ollama":
        return _json({"model": model, "embeddings": vectors, **good.counts("prompt_eval_count")})
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(vectors)]
    usage = {"usage": {**good.counts("prompt_tokens"), "total_tokens": good.usage[0]}} if good.usage else {}
    return _json({"object": "list", "model": model, "data": data, **usage})
