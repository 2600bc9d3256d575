"""Is a reply an answer, and what did it cost? The rules for text, schema, truncation and vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any

from testronaut_llm.calls.request_maker import longest_answer, prompt_bound
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import (
    ContextWindowError,
    LLMError,
    OutputInvalidError,
    OutputTruncatedError,
)
from testronaut_llm.gateway.model_request import Reply
from testronaut_llm.gateway.provider_errors import refused_settings
from testronaut_llm.gateway.usage import Counts
from testronaut_llm.money.price_rows import service_of
from testronaut_llm.money.prices import Cost, PriceTable
from testronaut_llm.money.token_counter import TokenCounter
from testronaut_llm.records import Answer, Attempt, Call, Embeddings, Usage
from testronaut_llm.routing.retry import Try
from testronaut_llm.schema.answer import is_runaway_whitespace
from testronaut_llm.schema.output_schema import SchemaDialect
from testronaut_llm.support.money import tokens

LONG_PROMPT, LEAST_SHARE_READ = 1000, 0.7
"""From how many tokens on, and below which share of the estimate, a prompt counts as cut."""
_ALMOST = 0.95
"""Share of a window that is used when it is full: the server keeps a few tokens, and its counts leave some out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A reply, judged: a result, or the error that it is."""

    result: Answer[Any] | Embeddings | None = None
    error: LLMError | None = None
    repair: str | None = None
    may_double: bool = False
    not_taken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Judges the replies to one call.

    Attributes:
        call: what was asked.
        models: by alias.
        vectors: is it an embedding?
        allow_truncated: does the task take a cut answer?
        dialect: which JSON Schema a model was given.
        explain: a better word for a failure of a local model, None where there is none.
        affordable: may that many USD still be spent on this call?
        doubt: is told which counts of an alias cannot be.
    """

    call: Call
    models: Mapping[str, ModelConfig]
    prices: PriceTable
    counter: TokenCounter
    dialect: Callable[[ModelConfig], SchemaDialect]
    explain: Callable[[ModelConfig, LLMError], LLMError | None]
    affordable: Callable[[Decimal | None], bool]
    doubt: Callable[[str, tuple[str, ...]], None]
    allow_truncated: bool = False
    vectors: bool = False

    def worst(self, step: Try) -> Decimal | None:
        """The most an attempt may cost, in USD; None where no price is known."""
        model = self.models[step.candidate.alias]
        price = self.prices.price(model, self._service_asked(model))
        return price.worst(*self._most(step)) if price else None

    def _most(self, step: Try) -> tuple[int, int]:
        """The most tokens that prompt and answer of an attempt may have."""
        model, output = self.models[step.candidate.alias], self.call.output
        schema = output.wire(self.dialect(model)) if output else None
        bound = prompt_bound(self.counter, self.call, model, schema, step)
        return bound, 0 if self.vectors else longest_answer(self.call, step)

    def _service_asked(self, model: ModelConfig) -> str:
        return service_of({**model.extra, **self.call.extra}) or ""

    def verdict(self, step: Try, reply: Reply) -> Judged:
        """Is it an answer?"""
        model = self.models[step.candidate.alias]
        if reply.error is not None:
            error = (None if reply.text else self.explain(model, reply.error)) or reply.error
            if error.model is None:
                error.model, error.provider = step.candidate.alias, step.candidate.provider
            return Judged(error=error, repair=self._repair(error), not_taken=refused_settings(error))
        if self.vectors:
            return Judged(result=self._embeddings(step, model, reply))
        if (unread := _unread(model, step, reply)) is not None:
            return Judged(error=unread)
        cut = reply.finish_reason == "length"
        runaway = cut and self.call.output is not None and is_runaway_whitespace(reply.text)
        output, parsed = self.call.output, None
        good_enough = self.allow_truncated and output is None and reply.text.strip()  # half a JSON value is none
        if cut and not runaway and not good_enough:
            return Judged(error=self._truncated(step, reply), may_double=self._may_double(step, reply))
        if output is not None:
            try:
                parsed = output.read(reply.text, self.dialect(model))
            except OutputInvalidError as error:
                repair = output.repair_request(error)
                error.args = (f"{model.alias} ({model.model}): {error.args[0]}",)
                error.model, error.provider = model.alias, model.provider
                error.request_id, error.text = reply.request_id, reply.text
                return Judged(error=error, repair=repair)
        return Judged(result=self._answer(step, model, reply, parsed))

    def refused(self, result: Answer[Any] | Embeddings, tried: tuple[Attempt, ...]) -> OutputInvalidError | None:
        """What `accept` says of an answer: None, or the error that it is."""
        accept = self.call.accept
        if accept is None or not isinstance(result, Answer) or accept(result):
            return None
        message = f"{result.model} ({result.provider_model}): `accept` refused the answer"
        return OutputInvalidError(message, text=result.text, model=result.model, attempts=tried)

    def attempt(self, step: Try, reply: Reply, *, latency: float, error: LLMError | None = None) -> Attempt:
        """The attempt as a record, with what it cost."""
        model = self.models[step.candidate.alias]
        usage = self.usage(step, reply)
        failure = error or reply.error
        return Attempt(
            model=model.alias,
            provider_model=model.model,
            outcome="answer" if failure is None else "rejected" if reply.error is None else "error",
            error=failure,
            waited=step.wait,
            latency=latency,
            usage=usage,
            cost=self._cost(step, reply, usage),
            finish_reason=reply.finish_reason,
            request_id=reply.request_id,
            reason=step.reason or step.candidate.reason,
            dropped_params=reply.dropped_params,
        )

    def usage(self, step: Try, reply: Reply) -> Usage | None:
        """The tokens of an attempt: as reported where that can be, else estimated; None where nobody knows."""
        if isinstance(reply.usage, Usage):
            return reply.usage
        if reply.usage is None and reply.error is not None and not reply.text:
            return None
        counts = reply.usage or Counts()
        if self.vectors and reply.usage is not None:
            counts = replace(counts, completion_tokens=0)
        length = partial(self.counter.text_length, self.models[step.candidate.alias])
        prompt = (step.candidate.est_tokens or 1) + (length(step.answered + step.repair) if step.repair else 0)
        said, cut = reply.reasoning + reply.text, reply.finish_reason == "length"
        answer = partial(longest_answer, self.call, step) if cut else partial(length, said)
        usage, doubts = counts.proven(most=self._most(step), guess=(prompt, answer), least_answer=int(bool(said)))
        if doubts:
            self.doubt(step.candidate.alias, doubts)
        return usage

    def _cost(self, step: Try, reply: Reply, usage: Usage | None) -> Decimal | None:
        refused = reply.error is not None and (reply.error.status or 0) >= 400
        if not reply.sent or (refused and usage is None):
            return Decimal(0)
        whole = reply.error is None or reply.finish_reason is not None or self.vectors
        if usage is None or not whole:
            return self.worst(step)  # it broke off, and nobody knows what was billed
        return self._priced(step, reply, usage).amount

    def _priced(self, step: Try, reply: Reply, usage: Usage) -> Cost:
        """By the service tier that answered; where the answer names none, by the one that was asked for."""
        model = self.models[step.candidate.alias]
        service = self._service_asked(model) if reply.service is None else reply.service
        service = "" if service == "auto" else service
        return self.prices.cost(model, usage, reply.response_model or None, service=service)

    def _repair(self, error: LLMError) -> str | None:
        """What to say to a model whose server itself refused its answer."""
        if self.call.output is None or not isinstance(error, OutputInvalidError):
            return None
        return self.call.output.repair_request(OutputInvalidError("It is not the JSON that was asked for."))

    def _may_double(self, step: Try, reply: Reply) -> bool:
        if self._filled(step, reply) is not None:
            return False
        facts = self.prices.facts(self.models[step.candidate.alias])
        wanted = 2 * self.call.max_tokens
        if facts.max_output is not None and wanted > facts.max_output:
            return False
        if facts.context_window is not None and (step.candidate.est_tokens or 0) + wanted > facts.context_window:
            return False
        return self.affordable(self.worst(replace(step, doubled=True)))

    def _filled(self, step: Try, reply: Reply) -> int | None:
        """Tokens of a local model's window that was full before the answer had all that it may have."""
        usage, window = self.usage(step, reply), reply.num_ctx
        if usage is None or window is None or usage.completion_tokens >= longest_answer(self.call, step):
            return None
        return window if usage.prompt_tokens + usage.completion_tokens >= window * _ALMOST else None

    def _truncated(self, step: Try, reply: Reply) -> OutputTruncatedError:
        """Says what used the tokens up, and which setting gives more of them."""
        model, cap = self.models[step.candidate.alias], longest_answer(self.call, step)
        usage = self.usage(step, reply) or Usage(completion_tokens=cap)
        spent, thought = usage.completion_tokens, usage.reasoning_tokens
        if (window := self._filled(step, reply)) is not None:
            what = f"prompt and answer filled its window of {tokens(window)}"
            fix = "raise `num_ctx` of the model, or shorten the prompt"
        elif not reply.text.strip() and (reply.reasoning or thought):
            what = f"all {tokens(spent)} went into thinking"
            fix = "set `reasoning: off` for the model, or raise `max_tokens`"
        else:
            part = f", of which {tokens(thought)} went into thinking" if thought else ""
            what, fix = f"the answer was cut at max_tokens {cap}{part}", "raise `max_tokens`"
            if self.call.output is None and not self.allow_truncated:
                fix += f", or set `allow_truncated: true` for {self.call.task}"
        return OutputTruncatedError(
            f"{model.alias} ({model.model}): {what}; {fix}",
            text=reply.text,
            model=model.alias,
            provider=model.provider,
            request_id=reply.request_id,
        )

    def _answer(self, step: Try, model: ModelConfig, reply: Reply, parsed: Any) -> Answer[Any]:
        usage = self.usage(step, reply) or Usage(estimated=True)
        return Answer(
            text=reply.text,
            parsed=parsed,
            model=model.alias,
            provider_model=model.model,
            response_model=reply.response_model,
            task=self.call.task,
            usage=usage,
            cost_source=self._priced(step, reply, usage).source,
            finish_reason=reply.finish_reason or "",
            request_id=reply.request_id,
        )

    def _embeddings(self, step: Try, model: ModelConfig, reply: Reply) -> Embeddings:
        usage = self.usage(step, reply) or Usage(estimated=True)
        return Embeddings(
            vectors=reply.vectors,
            model=model.alias,
            provider_model=model.model,
            task=self.call.task,
            usage=usage,
            cost_source=self._priced(step, reply, usage).source,
            request_id=reply.request_id,
        )


def _unread(model: ModelConfig, step: Try, reply: Reply) -> ContextWindowError | None:
    """Ollama cuts a prompt that is too long and answers about the rest (ollama#3839); the count gives it away."""
    expected, read = step.candidate.est_tokens or 0, reply.usage.prompt_tokens if reply.usage else None
    if model.provider != "ollama" or read is None or expected < LONG_PROMPT or read >= expected * LEAST_SHARE_READ:
        return None
    return ContextWindowError(
        f"{model.alias} ({model.model}): the server read {read:,} of about {expected:,} prompt tokens; "
        "raise `num_ctx` of the model, or shorten the prompt",
        model=model.alias,
        provider=model.provider,
        request_id=reply.request_id,
    )
