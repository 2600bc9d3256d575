"""A candidate with all that is known of it before the choice: ready or not, window, tokens, price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from testronaut_llm.price_rows import ModelFacts, Price
from testronaut_llm.provider_registry import Readiness, is_local
from testronaut_llm.records import Candidate, Message, Usage

if TYPE_CHECKING:
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
        messages: the whole prompt, system text included.
        max_tokens: the longest answer.
        prices: price table.
        counter: token counter.
        schema_texts: by alias, the JSON Schema as it goes on that model's wire.
        dropped_params: by alias, what that model does not take.
        count_all: count tokens for models that are not ready or excluded too (a dry run wants to
            see them; a call does not wait for a vocabulary it will not need).
        embedding: are the messages texts to embed, each for itself?
    """
    known = Readiness(ready=True, missing="", mend="")
    return tuple(
        _weighed(
            Option(
                selected=one,
                local=is_local(one.model),
                ready=readiness.get(one.model.alias, known),
                facts=prices.facts(one.model),
                price=prices.price(one.model),
                price_mend=prices.mend(one.model),
                bound=counter.upper_bound(messages, (schema_texts or {}).get(one.model.alias, "")),
                dropped_params=(dropped_params or {}).get(one.model.alias, ()),
            ),
            _Prompt(task, messages, max_tokens, (schema_texts or {}).get(one.model.alias, ""), embedding),
            counter,
            count_all,
        )
        for one in selected
    )


class _Prompt(NamedTuple):
    task: str
    messages: Sequence[Message]
    max_tokens: int
    schema: str
    embedding: bool


def _weighed(option: Option, prompt: _Prompt, counter: TokenCounter, count_all: bool) -> Option:
    """With its tokens counted, where that is wanted."""
    model = option.selected.model
    if not count_all and (option.selected.excluded is not None or not option.ready.ready):
        return option
    tokens = counter.estimate(model, prompt.messages, prompt.schema, embedding=prompt.embedding)
    if prompt.embedding:  # a window holds one text at a time, and nothing is answered
        longest = max((counter.text_length(model, text.content) for text in prompt.messages), default=0)
        return replace(option, tokens=tokens, cautious=counter.cautious(model, longest))
    answer = counter.answer_length(prompt.task, model, prompt.max_tokens)
    return replace(option, tokens=tokens, cautious=counter.cautious(model, tokens), answer=answer)
