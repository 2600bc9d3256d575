"""Selects the models that a task allows, and estimates each: readiness, window, tokens, price."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from testronaut_llm.config.sections import Secrets
from testronaut_llm.local.readiness import Readiness
from testronaut_llm.money.price_rows import ModelFacts, Price, service_of
from testronaut_llm.providers.provider_registry import is_local, provider_of
from testronaut_llm.records import Candidate, Usage
from testronaut_llm.support.text import counted, usd

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
    from testronaut_llm.local.model_store import Speed
    from testronaut_llm.money.budgets import Money
    from testronaut_llm.money.prices import PriceTable
    from testronaut_llm.money.token_counter import TokenCounter
    from testronaut_llm.records import Call, Message
    from testronaut_llm.schema.output_schema import WireSchema

NOT_READY, UNREACHABLE = "no_ready_model", "connection_failed"
WINDOW, MONEY = "context_window", "budget_exceeded"
READY = Readiness(ready=True)
_SETTINGS = 200  # characters of `extra` that hold no documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Estimates the models of one call.

    Attributes:
        money: for the call; None without a limit.
        count_all: True for a dry run, which counts tokens also for models that cannot be asked. A call does not
            load a vocabulary that it does not need.
    """

    call: Call
    prices: PriceTable
    counter: TokenCounter
    money: Money | None = None
    count_all: bool = False

    def weigh(
        self,
        one: Candidate,
        ready: Readiness = READY,
        *,
        schema: WireSchema | None = None,
        context: int | None = None,
        speed: Speed | None = None,
        dropped_params: tuple[str, ...] = (),
    ) -> Candidate:
        """Returns the candidate with estimates, dropped if it cannot be asked.

        One that is over budget is kept, with that `problem`: the choice depends on its place among the others.
        `context` is the window (tokens) that its server reports, `schema` the one for its wire.
        """
        row, facts = one.row, self.prices.facts(one.row)
        if context is not None:  # a model cannot read more than it was trained for
            facts = replace(facts, context_window=min(context, facts.context_window or context))
        price = self.prices.price(row, service_asked(self.call, row))
        found: dict[str, Any] = {"context_window": facts.context_window, "dropped_params": dropped_params}
        if price is not None:
            found["cost_source"] = price.source
        longest = 0
        if self.count_all or (one.kept and ready.ready):
            counted, longest = self._counted(row, price, schema, speed)
            found |= counted
        weighed = replace(one, **found)
        if not one.kept:
            return weighed
        reason, problem = self._obstacle(weighed, ready, facts, longest)
        return replace(weighed, kept=not reason or problem == MONEY, reason=reason, problem=problem)

    def _counted(
        self, row: ModelConfig, price: Price | None, schema: WireSchema | None, speed: Speed | None
    ) -> tuple[dict[str, Any], int]:
        """Returns fields of the candidate (tokens, costs, time), and the tokens that must fit into the window."""
        call, counter, shape = self.call, self.counter, schema_text(schema)
        longest = prompt = counter.estimate(row, call.messages, shape, embedding=bool(call.texts))
        answer = most = 0
        if call.texts:  # a window holds one text at a time
            longest = max(counter.text_length(row, text) for text in call.texts)
        else:
            answer, most = counter.answer_length(call.task, row, call.max_tokens), call.max_tokens
        counted: dict[str, Any] = {"est_tokens": prompt, "est_completion_tokens": answer}
        if speed is not None:
            counted["est_seconds"] = speed.seconds(prompt, answer)
        if price is not None:
            counted["est_cost"] = price.cost(Usage(prompt_tokens=prompt, completion_tokens=answer))
            counted["worst_cost"] = price.worst(prompt_bound(call, row, call.messages, shape, counter), most)
        return counted, longest

    def _obstacle(self, one: Candidate, ready: Readiness, facts: ModelFacts, longest: int) -> tuple[str, str | None]:
        """Returns why a model cannot be asked, and the error code; an empty reason if it can."""
        call, money, worst = self.call, self.money, one.worst_cost
        most = 0 if call.texts else call.max_tokens
        if not ready.ready:
            reason = f"not ready: {ready.missing}; {ready.fix}".removesuffix("; ")
            return reason, UNREACHABLE if ready.unreachable else NOT_READY
        if call.output is not None and facts.supports_schema is False:
            return "cannot answer in a given shape (JSON Schema)", None
        if facts.max_output is not None and most > facts.max_output:
            return f"its answers have at most {counted(facts.max_output, 'token')}, and max_tokens is {most:,}", WINDOW
        window = facts.context_window
        if window is not None and self.counter.cautious(one.row, longest) + most > window:
            prompt = f"the prompt (about {one.est_tokens or 0:,}) and an answer of {most:,}"
            return f"window too small: {counted(window, 'token')}, for {prompt}", WINDOW
        if money is not None and worst is None:
            return f"no known price, and a limit holds ({money.limit}): {self.prices.fix(one.row)}", MONEY
        if money is not None and worst is not None and worst > max(money.left, Decimal(0)):
            return f"over budget: worst case {usd(worst)}, and {money.words}", MONEY
        return "", None


def schema_text(schema: WireSchema | None) -> str:
    """Returns the JSON Schema as it is sent; empty if it is sent as words or not at all."""
    return json.dumps(schema.schema) if schema is not None and schema.schema is not None else ""


def service_asked(call: Call, row: ModelConfig) -> str:
    """Returns the service tier that a request asks for; empty for the standard one."""
    return service_of({**row.extra, **call.extra}) or ""


def prompt_bound(call: Call, row: ModelConfig, turns: Sequence[Message], shape: str, counter: TokenCounter) -> int:
    """Returns the most tokens that a prompt can have: its turns, its schema as text, and documents in `extra`."""
    extra = json.dumps({**row.extra, **call.extra}, default=str)
    return counter.upper_bound(turns, shape + (extra if len(extra) > _SETTINGS else ""))


def select(config: LLMConfig, call_model: str | None, task: TaskConfig) -> tuple[Candidate, ...]:
    """Returns the models of a task in its order; one that a rule of the task excludes is not `kept`.

    A model named in the call (`call_model`) is the only candidate. It need not be listed nor reach
    `min_quality`; a private task still refuses it when it is not local. (`TESTRONAUT_LLM_MODEL`
    was put into the tasks when the configuration was read.)

    Raises:
        ConfigError: a name is neither an alias nor `provider/model`.
    """
    names, floor = ((call_model,), 0) if call_model else (task.models, task.min_quality)
    return tuple([_candidate(config.model(name), task, floor, task.secrets or config.secrets) for name in names])


def _candidate(row: ModelConfig, task: TaskConfig, floor: int, secrets: Secrets | None) -> Candidate:
    provider, local, reason = provider_of(row), is_local(row), ""
    if row.quality < floor:
        wanted = f"quality {row.quality}, and {task.name} wants at least {floor}"
        reason = f"too weak: {wanted}; lower `min_quality` of the task, or name the model: --model {row.alias}"
    elif task.private and not local:
        reason = f"not private: {task.name} may not leave this machine, and {row.model} is not local"
    return Candidate(
        alias=row.alias,
        model=row.model,
        provider=provider.name,
        quality=row.quality,
        row=row,
        provider_row=provider,
        local=local,
        secrets=secrets or ("allow" if local else "mask"),
        kept=not reason,
        reason=reason,
    )


def one_vector_space(selected: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Drops models whose base model or dimensions differ from those of the first, which defines the vector space."""
    first, *_ = spaces = [(one.row.base_model or one.row.name, one.row.dimensions) for one in selected]
    reason = f"another vector space than {selected[0].alias}: set the same base_model and dimensions"
    return tuple(
        replace(one, kept=False, reason=reason) if one.kept and space != first else one
        for one, space in zip(selected, spaces, strict=True)
    )
