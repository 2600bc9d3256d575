"""The requests of one call: what each attempt sends, and the most that it can cost."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import LLMTimeoutError
from testronaut_llm.gateway.model_request import Reply, Request
from testronaut_llm.money.price_rows import service_of
from testronaut_llm.records import Message

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.gateway.exchange import Exchange
    from testronaut_llm.records import Call
    from testronaut_llm.routing.retry import Try
    from testronaut_llm.services import Services


class Requests:
    """Makes the requests of one call.

    Args:
        services: prices, token counts and local models of the manager.
        call: what is asked.
    """

    def __init__(self, services: Services, call: Call) -> None:
        self.services, self.call = services, call

    def model(self, step: Try) -> ModelConfig:
        """Returns the row of the model that an attempt asks."""
        return self.call.config.model(step.candidate.alias)

    def request(self, step: Try, timeout: float) -> Request:
        """Returns what an attempt sends. May start a local model, or run a command that prints a key.

        Raises:
            LLMError: there is no key, or the local model cannot be served.
        """
        services, call, model = self.services, self.call, self.model(step)
        if "reasoning" in step.without:
            services.local.note_cannot_think(model)
        target = services.target(model, embeddings=bool(call.texts))
        longest = max(
            (services.counter.text_length(model, one) for one in call.texts), default=step.candidate.est_tokens or 0
        )
        needed = int(longest * 1.3) + 256 + self.longest_answer(step)
        num_ctx = services.local.window(model, needed=needed, most=step.candidate.context_window)
        return Request(
            target=target,
            messages=() if call.texts else self._turns(step),
            texts=call.texts,
            max_tokens=self.longest_answer(step),
            timeout=timeout,
            temperature=call.temperature,
            stop=call.stop,
            seed=call.seed,
            schema=services.wire_schema(call, model),
            num_ctx=num_ctx,
            stream=call.stream,
            prompt_cache=call.settings.prompt_cache and target.provider.wire == "anthropic",
            logprobs=call.logprobs and "logprobs" not in step.without,
            extra=call.extra,
            task=call.task,
        )

    def longest_answer(self, step: Try) -> int:
        """Returns the cap of one attempt, in tokens; 0 for vectors."""
        return 0 if self.call.texts else self.call.max_tokens * (2 if step.doubled else 1)

    def _turns(self, step: Try) -> tuple[Message, ...]:
        """The messages, with the schema in words where the wire does not take it, and with a request for a repair."""
        messages, schema = self.call.messages, self.services.wire_schema(self.call, self.model(step))
        if schema is not None and schema.instructions:
            last = messages[-1]
            messages = (*messages[:-1], replace(last, content=f"{last.content}\n\n{schema.instructions}"))
        if step.repair is not None:
            said = (Message(role="assistant", content=step.answered),) if step.answered.strip() else ()
            messages = (*messages, *said, Message(role="user", content=step.repair))  # an empty turn is refused
        return messages

    def worst(self, step: Try) -> Decimal | None:
        """Returns the most an attempt may cost, in USD; None where no price is known."""
        model = self.model(step)
        price = self.services.prices.price(model, self.service_asked(model))
        return price.worst(*self.most(step)) if price else None

    def most(self, step: Try) -> tuple[int, int]:
        """Returns the most tokens that prompt and answer of an attempt can have."""
        bound = self.services.prompt_bound(self.call, self.model(step), self._turns(step))
        return bound, self.longest_answer(step)

    def service_asked(self, model: ModelConfig) -> str:
        """Returns the service tier that a request asks for; empty for the standard one."""
        return service_of({**model.extra, **self.call.extra}) or ""


def cancelled(exchange: Exchange) -> Reply:
    """Returns the reply of a request that was left before its answer was complete: nobody knows what was billed."""
    return Reply(error=LLMTimeoutError("the call was cancelled before its answer was complete"), sent=exchange.left)
