"""A candidate with all that is known of it before the choice: ready or not, window, tokens, price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.money.price_rows import ModelFacts, Price
from testronaut_llm.providers.provider_registry import Readiness, is_local
from testronaut_llm.records import Candidate, Message, Usage

if TYPE_CHECKING:
    from testronaut_llm.local.bench import Speed
    from testronaut_llm.money.prices import PriceTable
    from testronaut_llm.money.token_counter import TokenCounter
    from testronaut_llm.routing.task_router import Selected

READY = Readiness(ready=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One selected model.

    Attributes:
        selected: the model and its provider.
        local: does it keep the text on this machine?
        ready: can it be asked now?
        facts: window and abilities.
        price: what it costs, None where nobody says.
        price_mend: the line of `llm.yaml` that would say so.
        tokens: what the prompt will most likely have; None where it was not counted.
        cautious: what it (or the longest of the texts to embed) may well have.
        answer: what the answer will most likely have.
        bound: what the prompt has at most, whatever the tokenizer.
        dropped_params: settings of the task that this model does not take.
        speed: how fast it was when it was measured; None where it never was.
    """

    selected: Selected
    local: bool
    ready: Readiness
    facts: ModelFacts = field(default_factory=ModelFacts)
    price: Price | None = None
    price_mend: str = ""
    tokens: int | None = None
    cautious: int = 0
    answer: int = 0
    bound: int = 0
    dropped_params: tuple[str, ...] = ()
    speed: Speed | None = None

    def candidate(self, max_tokens: int) -> Candidate:
        """The record of it, before it was judged."""
        counted = self.price is not None and self.tokens is not None
        model = self.selected.model
        return Candidate(
            alias=model.alias,
            model=model.model,
            provider=self.selected.provider.name,
            quality=model.quality,
            local=self.local,
            est_tokens=self.tokens,
            est_completion_tokens=self.answer if self.tokens is not None else None,
            est_cost=self._expected(self.price) if self.price and counted else None,
            worst_cost=self.price.worst(self.bound, max_tokens) if self.price and counted else None,
            cost_source=self.price.source if self.price else None,
            dropped_params=self.dropped_params,
            context_window=self.facts.context_window,
            est_seconds=self.speed.seconds(self.tokens, self.answer) if self.speed and self.tokens else None,
        )

    def _expected(self, price: Price) -> Decimal:
        return price.cost(Usage(prompt_tokens=self.tokens or 0, completion_tokens=self.answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Weighs the models of one call: looks up what `plan` wants to know of each.

    Attributes:
        task: its name, for the answer's expected length.
        messages: the whole prompt with its system text, or the texts to embed.
        max_tokens: the longest answer.
        count_all: count for models that cannot be asked, too: a call does not wait for a vocabulary that it will
            not need, but a dry run wants to see that.
        embedding: is each message a text to embed?
    """

    task: str
    messages: Sequence[Message]
    max_tokens: int
    prices: PriceTable
    counter: TokenCounter
    count_all: bool = False
    embedding: bool = False

    def weigh(
        self,
        one: Selected,
        ready: Readiness = READY,
        *,
        schema: str = "",
        bound: int | None = None,
        service: str = "",
        context: int | None = None,
        speed: Speed | None = None,
        dropped_params: tuple[str, ...] = (),
    ) -> Option:
        """Looks one model up; `context` is what its server says it was made for, `schema` as it goes on its wire.

        `bound` is the most tokens that its prompt may have, `service` the service tier that is asked for.
        """
        model, counter = one.model, self.counter
        tokens, longest, answer = None, 0, 0
        if self.count_all or (one.excluded is None and ready.ready):
            longest = tokens = counter.estimate(model, self.messages, schema, embedding=self.embedding)
            if self.embedding:  # a window holds one text at a time
                longest = max((counter.text_length(model, text.content) for text in self.messages), default=0)
            else:
                answer = counter.answer_length(self.task, model, self.max_tokens)
        return Option(
            selected=one,
            local=is_local(model),
            ready=ready,
            facts=_within(self.prices.facts(model), context),
            price=self.prices.price(model, service),
            price_mend=self.prices.mend(model),
            tokens=tokens,
            cautious=counter.cautious(model, longest),
            answer=answer,
            bound=counter.upper_bound(self.messages, schema) if bound is None else bound,
            dropped_params=dropped_params,
            speed=speed,
        )


def _within(facts: ModelFacts, context: int | None) -> ModelFacts:
    """No `num_ctx` makes a model read more than it was made for."""
    if context is None:
        return facts
    return replace(facts, context_window=min(context, facts.context_window or context))
