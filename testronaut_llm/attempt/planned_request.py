"""Prepares one attempt: its messages, its worst-case cost, and the request to send."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.gateway.model_request import Request
from testronaut_llm.records import Message
from testronaut_llm.routing.estimates import prompt_bound, schema_text, service_asked

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.money.price_rows import Price
    from testronaut_llm.records import Call, Candidate
    from testronaut_llm.routing.retry import Try
    from testronaut_llm.schema.output_schema import WireSchema
    from testronaut_llm.services import Services


_MOST_BYTES = 600_000  # of texts in one request; OpenAI takes 300,000 tokens (its API reference, "Create embeddings")


def in_requests(call: Call) -> list[Call]:
    """Returns a call to embed as calls of one request each: not more texts than each of its models takes at once."""
    groups: list[list[str]] = [[]]
    most, room = min([one.provider_row.texts for one in call.candidates], default=1), _MOST_BYTES
    for text in call.texts:
        size = len(text.encode())
        if groups[-1] and (len(groups[-1]) == most or size > room):
            groups, room = [*groups, []], _MOST_BYTES
        groups[-1].append(text)
        room -= size
    return [call] if len(groups) == 1 else [call.with_texts(group) for group in groups]


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """The request of one attempt, as far as it is known before money is reserved for it.

    It cannot be a `Request` yet: that needs a key, and maybe a local server that starts for it.

    Attributes:
        schema: the call's schema in the form of the wire.
        service: the service tier that is asked for; empty for the standard one.
        most: the most tokens that prompt and answer can have; the answer's are its cap, 0 for vectors.
        price: None if unknown.
        worst: the worst-case cost in USD; None if no price is known.
    """

    call: Call
    step: Try
    candidate: Candidate
    row: ModelConfig
    turns: tuple[Message, ...]
    schema: WireSchema | None
    service: str
    most: tuple[int, int]
    price: Price | None
    worst: Decimal | None


def planned_request(services: Services, call: Call, step: Try) -> PlannedRequest:
    """Returns the request of an attempt before money is reserved.

    The schema is sent as words if the wire does not take it; a repair follows the refused answer.
    """
    row, turns = step.candidate.row, call.messages
    schema = services.wire_schema(call, step.candidate)
    if schema is not None and schema.instructions:
        last = turns[-1]
        turns = (*turns[:-1], replace(last, content=f"{last.content}\n\n{schema.instructions}"))
    if step.repair is not None:
        said = (Message(role="assistant", content=step.answered),) if step.answered.strip() else ()
        turns = (*turns, *said, Message(role="user", content=step.repair))  # an empty turn is refused
    longest = 0 if call.texts else call.max_tokens * (2 if step.doubled else 1)
    most = prompt_bound(call, row, turns, schema_text(schema), services.counter), longest
    price = services.prices.price(row, service := service_asked(call, row))
    worst = price.worst(*most) if price is not None else None
    return PlannedRequest(call, step, step.candidate, row, turns, schema, service, most, price, worst)


def request_of(services: Services, planned: PlannedRequest, timeout: float) -> Request:
    """Returns the request to send. May start a local model, or run a command that prints a key.

    Raises:
        LLMError: the key is missing, or the local model cannot be served.
    """
    call, row, candidate, without = planned.call, planned.row, planned.candidate, planned.step.without
    if "reasoning" in without:
        services.local.note_cannot_think(row)
    target = services.target(candidate, embeddings=bool(call.texts))
    turns, hidden, originals = planned.turns, 0, call.masking.originals
    if candidate.secrets == "allow" and originals:
        turns = tuple([replace(one, content=call.masking.restore(one.content)) for one in turns])
        hidden = sum(map(len, originals.values()))
    longest = candidate.est_tokens or 0
    if call.texts:
        longest = max(services.counter.text_length(row, text) for text in call.texts)
    needed = int(longest * 1.3) + hidden + 256 + planned.most[1]
    return Request(
        target=target,
        messages=() if call.texts else turns,
        texts=call.texts,
        max_tokens=planned.most[1],
        timeout=timeout,
        temperature=call.temperature,
        stop=call.stop,
        seed=call.seed,
        schema=planned.schema,
        num_ctx=services.local.window(row, needed=needed, most=candidate.context_window),
        stream=call.stream,
        prompt_cache=call.settings.prompt_cache and target.provider.wire == "anthropic",
        logprobs=call.logprobs and "logprobs" not in without,
        extra=call.extra,
        task=call.task,
    )
