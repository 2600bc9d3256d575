"""One attempt: the request and its worst-case cost before it, and what its reply is and cost after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from testronaut_llm.errors import ContextWindowError, LLMError, OutputInvalidError, OutputTruncatedError
from testronaut_llm.gateway.evidence import Counts
from testronaut_llm.gateway.model_request import Request
from testronaut_llm.gateway.provider_errors import refused_settings
from testronaut_llm.money.prices import Cost
from testronaut_llm.records import Answer, Attempt, Embeddings, Message, Result, Usage
from testronaut_llm.routing.retry import Failure
from testronaut_llm.routing.task_router import prompt_bound, schema_text, service_asked
from testronaut_llm.schema.output_schema import is_runaway_whitespace
from testronaut_llm.support.text import counted

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.gateway.model_request import Reply
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


LONG_PROMPT, LEAST_SHARE_READ = 1000, 0.7
"""A prompt of at least so many tokens counts as cut if less than this share of the estimate was read."""
_ALMOST = 0.95
"""Share of a window above which it counts as full: servers reserve some tokens, and do not count all."""


def attempt_of(
    services: Services, planned: PlannedRequest, reply: Reply, *, waited: float, latency: float = 0.0
) -> tuple[Attempt, str | None]:
    """Returns the record of an attempt with its usage and cost, and the source of the price."""
    usage = _usage(services, planned, reply)
    cost = _cost(services, planned, reply, usage)
    attempt = Attempt(
        model=planned.row.alias,
        provider_model=planned.row.model,
        outcome="answer" if reply.error is None else "error",
        error=reply.error,
        waited=waited,
        latency=latency,
        usage=usage,
        cost=cost.amount,
        finish_reason=reply.finish_reason,
        request_id=reply.request_id,
        reason=planned.step.reason or planned.candidate.reason,
        dropped_params=reply.dropped_params,
    )
    return attempt, cost.source


def _usage(services: Services, planned: PlannedRequest, reply: Reply) -> Usage | None:
    """Returns the tokens as reported, else estimated; None if unknown."""
    if isinstance(reply.usage, Usage):
        return reply.usage
    if reply.usage is None and reply.error is not None and not reply.text:
        return None
    counts, counter, step = reply.usage or Counts(), services.counter, planned.step
    if planned.call.texts and reply.usage is not None:
        counts = replace(counts, completion_tokens=0)
    prompt = planned.candidate.est_tokens or 1
    if step.repair:
        prompt += counter.text_length(planned.row, step.answered + step.repair)
    said = reply.reasoning + reply.text

    def answer() -> int:
        return planned.most[1] if reply.finish_reason == "length" else counter.text_length(planned.row, said)

    usage, doubts = counts.proven(most=planned.most, guess=(prompt, answer), least_answer=int(bool(said)))
    if doubts:
        services.warn_of_usage(planned.row.alias, doubts)
    return usage


def _cost(services: Services, planned: PlannedRequest, reply: Reply, usage: Usage | None) -> Cost:
    """Returns the cost in the service tier that answered, or that was asked for if the answer names none."""
    refused = reply.error is not None and (reply.error.status or 0) >= 400
    if not reply.sent or (refused and usage is None):
        return Cost(amount=Decimal(0), source=None)
    whole = reply.error is None or reply.finish_reason is not None or planned.call.texts
    if usage is None or not whole:
        return Cost(amount=planned.worst, source=None)  # the reply is incomplete, and the bill is unknown
    service = planned.service if reply.service is None else reply.service
    service = "" if service == "auto" else service
    return services.prices.cost(planned.row, usage, reply.response_model or None, service=service)


def judged(
    services: Services, planned: PlannedRequest, reply: Reply, attempt: Attempt, source: str | None, spent: Decimal
) -> Result | Failure:
    """Returns the accepted result, or why the reply is not one and what may help.

    Runs the caller's validators and `accept`, which may take long. `source` is that of the price, `spent` is USD of all
    attempts of the call.
    """
    call, row, output = planned.call, planned.row, planned.call.output
    if reply.error is not None:
        return _failed(services, planned, reply, reply.error)
    usage = attempt.usage or Usage(estimated=True)
    common: dict[str, Any] = {
        "model": row.alias,
        "provider_model": row.model,
        "task": call.task,
        "usage": usage,
        "cost_source": source,
        "request_id": reply.request_id,
        "masked": call.masking.count if planned.candidate.secrets == "mask" or call.texts else 0,
    }
    if call.texts:
        return Embeddings(vectors=reply.vectors, **common)
    if (unread := _unread(planned, reply)) is not None:
        return Failure(error=unread)
    cut = reply.finish_reason == "length" and not (output is not None and is_runaway_whitespace(reply.text))
    # half a JSON value is not an answer
    if cut and not (call.settings.allow_truncated and output is None and reply.text.strip()):
        return _truncated(services, planned, reply, usage, spent)
    said, text = call.masking.mask(reply.text), call.masking.restore(reply.text, as_json=output is not None)
    try:
        parsed = output.read(text, services.dialect(planned.candidate)) if output is not None else None
    except OutputInvalidError as error:
        repair = call.masking.mask(output.repair_request(error)) if output is not None else None
        invalid = _error(OutputInvalidError, planned, reply, call.masking.mask(error.args[0]), text=said)
        return Failure(error=invalid, repair=repair, answered=said)
    answer: Answer[Any] = Answer(
        text=text,
        parsed=parsed,
        response_model=reply.response_model,
        finish_reason=reply.finish_reason or "",
        logprobs=reply.logprobs,
        **common,
    )
    if call.accept is None or call.accept(answer):
        return answer
    refused = _error(OutputInvalidError, planned, reply, "`accept` refused the answer", text=said)
    return Failure(error=refused)


def _error(kind: type[LLMError], planned: PlannedRequest, reply: Reply, what: str, **facts: Any) -> LLMError:
    row = planned.row
    facts |= {"model": row.alias, "provider": row.provider, "request_id": reply.request_id}
    return kind(f"{row.alias} ({row.model}): {what}", **facts)


def _failed(services: Services, planned: PlannedRequest, reply: Reply, error: LLMError) -> Failure:
    """Returns the failure of a reply; with a repair if the server itself refused the answer of the model."""
    error = (None if reply.text else services.local.explain(planned.row, error)) or error
    if error.model is None:
        error.model, error.provider = planned.candidate.alias, planned.candidate.provider
    call, repair = planned.call, None
    if call.output is not None and isinstance(error, OutputInvalidError):
        repair = call.output.repair_request(OutputInvalidError("It is not the JSON that was asked for."))
    return Failure(
        error=error,
        repair=repair,
        answered=call.masking.mask(getattr(error, "text", reply.text)),
        not_taken=refused_settings(error),
    )


def _unread(planned: PlannedRequest, reply: Reply) -> LLMError | None:
    """Returns an error if Ollama cut the prompt (ollama#3839), which only its token count shows."""
    expected, read = planned.candidate.est_tokens or 0, reply.usage.prompt_tokens if reply.usage else None
    is_ollama = planned.row.provider == "ollama"
    if not is_ollama or read is None or expected < LONG_PROMPT or read >= expected * LEAST_SHARE_READ:
        return None
    what = f"the server read {read:,} of about {expected:,} prompt tokens"
    return _error(ContextWindowError, planned, reply, f"{what}; raise `num_ctx` of the model, or shorten the prompt")


def _truncated(services: Services, planned: PlannedRequest, reply: Reply, usage: Usage, spent: Decimal) -> Failure:
    """Returns the failure of a cut answer: what used the tokens, the setting to raise, and if twice as many fit."""
    call, cap, prompt = planned.call, planned.most[1], planned.candidate.est_tokens or 0
    used, thought, window = usage.completion_tokens, usage.reasoning_tokens, reply.num_ctx
    doubles = False
    if window is not None and used < cap and usage.prompt_tokens + used >= window * _ALMOST:
        what = f"prompt and answer filled its window of {counted(window, 'token')}"
        fix = "raise `num_ctx` of the model, or shorten the prompt"
    else:
        facts, twice = services.prices.facts(planned.row), 2 * call.max_tokens
        fits = facts.max_output is None or twice <= facts.max_output
        fits = fits and (facts.context_window is None or prompt + twice <= facts.context_window)
        worst = planned.price.worst(planned.most[0], twice) if planned.price is not None else None
        doubles = fits and services.budgets.affords(call, worst, spent=spent)
        if not reply.text.strip() and (reply.reasoning or thought):
            what = f"all {counted(used, 'token')} went into reasoning"
            fix = "set `reasoning: off` for the model, or raise `max_tokens`"
        else:
            part = f", of which {counted(thought, 'token')} went into reasoning" if thought else ""
            again = " and at twice that" if cap > call.max_tokens else ""
            what = f"the answer was cut at max_tokens {min(cap, call.max_tokens)}{again}{part}"
            fix = "raise `max_tokens`"
            if call.output is None and not call.settings.allow_truncated:
                fix += f", or set `allow_truncated: true` for {call.task}"
    error = _error(OutputTruncatedError, planned, reply, f"{what}; {fix}", text=call.masking.mask(reply.text))
    return Failure(error=error, may_double=doubles)
