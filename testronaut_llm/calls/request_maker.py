"""From a call and a step of its fallback to the chat request that one model is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from testronaut_llm.gateway.model_request import Request, Target
from testronaut_llm.records import Call, Message

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.money.token_counter import TokenCounter
    from testronaut_llm.routing.retry import Try
    from testronaut_llm.schema.output_schema import WireSchema

_SETTINGS = 200  # characters of `extra` that hold no documents


def chat_request(
    call: Call,
    target: Target,
    step: Try,
    *,
    schema: WireSchema | None,
    num_ctx: int | None,
    timeout: float,
    answered: str,
) -> Request:
    """The request of one attempt.

    Args:
        call: what is asked.
        target: where it goes.
        step: whether it repairs an answer, or may have twice the tokens.
        schema: what this wire takes of the caller's schema.
        num_ctx: tokens of window that an Ollama model is asked for.
        timeout: seconds.
        answered: the answer that a repair is about.
    """
    return Request(
        target=target,
        messages=_messages(call, schema.instructions if schema else "", step.repair, answered),
        max_tokens=longest_answer(call, step),
        timeout=timeout,
        temperature=call.temperature,
        stop=call.stop,
        seed=call.seed,
        schema=schema,
        num_ctx=num_ctx,
        stream=call.stream,
        prompt_cache=call.prompt_cache and target.provider.wire == "anthropic",
        extra=call.extra,
        task=call.task,
    )


def prompt_bound(
    counter: TokenCounter, call: Call, model: ModelConfig, schema: WireSchema | None, step: Try | None = None
) -> int:
    """Tokens that the prompt of such a request has at most: its turns, its schema, and documents in `extra`."""
    repair, answered = (step.repair, step.answered) if step else (None, "")
    turns = _messages(call, schema.instructions if schema else "", repair, answered)
    beside = json.dumps(schema.schema) if schema and schema.schema is not None else ""
    extra = json.dumps({**model.extra, **call.extra}, default=str)
    return counter.upper_bound(turns, beside + (extra if len(extra) > _SETTINGS else ""))


def _messages(call: Call, instructions: str, repair: str | None, answered: str) -> tuple[Message, ...]:
    messages = call.messages
    if instructions:
        last = messages[-1]
        messages = (*messages[:-1], replace(last, content=f"{last.content}\n\n{instructions}"))
    if repair is not None:
        said = (Message(role="assistant", content=answered),) if answered.strip() else ()  # an empty turn is refused
        messages = (*messages, *said, Message(role="user", content=repair))
    return messages


def longest_answer(call: Call, step: Try) -> int:
    """The cap of one attempt, in tokens."""
    return call.max_tokens * (2 if step.doubled else 1)
