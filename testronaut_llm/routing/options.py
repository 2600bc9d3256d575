"""A candidate with all that is known of it before the choice: ready or not, window, tokens, price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.pricing.rows import ModelFacts, Price
from testronaut_llm.provider_registry import Readiness, is_local
from testronaut_llm.records import Candidate, Message, Usage

if TYPE_CHECKING:
    from testronaut_llm.local.speeds import Speed
    from testronaut_llm.model_config import ModelConfig
    from testronaut_llm.prices import PriceTable
    from testronaut_llm.task_router import Selected
    from testronaut_llm.token_counter import TokenCounter


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


def weigh(
    selected: Sequence[Selected],
    readiness: Mapping[str, Readiness],
    *,
    task: str,
    messages: Sequence[Message],
    max_tokens: int,
    prices: PriceTable,
    counter: TokenCounter,
    contexts: Mapping[str, int | None] | None = None,
    speeds: Mapping[str, Speed | None] | None = None,
    schema_texts: Mapping[str, str] | None = None,
    dropped_params: Mapping[str, tuple[str, ...]] | None = None,
    count_all: bool = False,
    embedding: bool = False,
) -> tuple[Option, ...]:
    """Looks up what `plan` wants to know of each model.

    Args:
        selected: from the task router.
        readiness: by alias, of those that are not excluded.
        task: its name, for the answer's expected length.
        messages: the whole prompt with its system text, or the texts to embed.
        max_tokens: the longest answer.
        prices: price table.
        counter: token counter.
        contexts: by alias, the tokens of context that a local model was made for, as its server says.
        speeds: by alias, what was measured of a local model.
        schema_texts: by alias, the JSON Schema as it goes on that model's wire.
        dropped_params: by alias, what that model does not take.
        count_all: count for models that cannot be asked, too. A dry run wants to see that; a call
            does not wait for a vocabulary that it will not need.
        embedding: is each message a text to embed?
    """
    ready = Readiness(ready=True, missing="", mend="")
    options = []
    for one in selected:
        alias, schema = one.model.alias, (schema_texts or {}).get(one.model.alias, "")
        option = _uncounted(one, readiness.get(alias, ready), prices, (dropped_params or {}).get(alias, ()))
        facts = _within(option.facts, (contexts or {}).get(alias))
        bound, speed = counter.upper_bound(messages, schema), (speeds or {}).get(alias)
        option = replace(option, facts=facts, bound=bound, speed=speed)
        if count_all or (one.excluded is None and option.ready.ready):
            tokens = counter.estimate(one.model, messages, schema, embedding=embedding)
            longest = _longest(one.model, messages, counter) if embedding else tokens
            answer = 0 if embedding else counter.answer_length(task, one.model, max_tokens)
            option = replace(option, tokens=tokens, cautious=counter.cautious(one.model, longest), answer=answer)
        options.append(option)
    return tuple(options)


def _uncounted(one: Selected, ready: Readiness, prices: PriceTable, dropped_params: tuple[str, ...]) -> Option:
    return Option(
        selected=one,
        local=is_local(one.model),
        ready=ready,
        facts=prices.facts(one.model),
        price=prices.price(one.model),
        price_mend=prices.mend(one.model),
        dropped_params=dropped_params,
    )


def _within(facts: ModelFacts, context: int | None) -> ModelFacts:
    """No `num_ctx` makes a model read more than it was made for."""
    if context is None:
        return facts
    return replace(facts, context_window=min(context, facts.context_window or context))


def _longest(model: ModelConfig, texts: Sequence[Message], counter: TokenCounter) -> int:
    """Tokens of the longest text to embed: a window holds one at a time."""
    return max((counter.text_length(model, text.content) for text in texts), default=0)
