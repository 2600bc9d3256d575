"""Judges replies: whether one is an answer, and what it cost. The rules for text, schema, truncation and vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.errors import ContextWindowError, LLMError, OutputInvalidError, OutputTruncatedError
from testronaut_llm.gateway.provider_errors import refused_settings
from testronaut_llm.gateway.usage import Counts
from testronaut_llm.records import Answer, Attempt, Embeddings, Result, Usage
from testronaut_llm.schema.answer import is_runaway_whitespace
from testronaut_llm.support.money import tokens

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.gateway.model_request import Reply
    from testronaut_llm.money.prices import Cost
    from testronaut_llm.requests import Requests
    from testronaut_llm.routing.retry import Try

LONG_PROMPT, LEAST_SHARE_READ = 1000, 0.7
"""From how many tokens on, and below which share of the estimate, a prompt counts as cut."""
_ALMOST = 0.95
"""Share of a window that is used when it is full: the server keeps a few tokens, and its counts leave some out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a reply is: a result, or an error and what another attempt could do about it.

    Attributes:
        repair: text of a user's turn that asks for a corrected answer.
        may_double: True if twice the tokens fit the model and the money.
        not_taken: settings that the model refused, and that it can be asked without.
    """

    result: Result | None = None
    error: LLMError | None = None
    repair: str | None = None
    may_double: bool = False
    not_taken: tuple[str, ...] = ()


class Judge:
    """Judges the replies to one call.

    Args:
        requests: what was sent.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests, self._services, self._call = requests, requests.services, requests.call

    def attempt(self, step: Try, reply: Reply, *, latency: float) -> Attempt:
        """Returns the record of an attempt, with its usage and what it cost."""
        model, usage = self._requests.model(step), self._usage(step, reply)
        return Attempt(
            model=model.alias,
            provider_model=model.model,
            outcome="answer" if reply.error is None else "error",
            error=reply.error,
            waited=step.wait,
            latency=latency,
            usage=usage,
            cost=self._cost(step, reply, usage),
            finish_reason=reply.finish_reason,
            request_id=reply.request_id,
            reason=step.reason or step.candidate.reason,
            dropped_params=reply.dropped_params,
        )

    def judgement(
        self, step: Try, reply: Reply, attempt: Attempt, affordable: Callable[[Decimal | None], bool]
    ) -> Judgement:
        """Returns whether a reply is an answer. Runs the caller's validators and `accept`, which may take long.

        Args:
            step: what was tried.
            reply: how it ended.
            attempt: the record of it.
            affordable: True if that many USD can still be spent on this call.
        """
        model = self._requests.model(step)
        if reply.error is not None:
            error = (None if reply.text else self._services.local.explain(model, reply.error)) or reply.error
            if error.model is None:
                error.model, error.provider = step.candidate.alias, step.candidate.provider
            return Judgement(error=error, repair=self._repair(error), not_taken=refused_settings(error))
        usage = attempt.usage or Usage(estimated=True)
        if self._call.texts:
            return Judgement(result=self._embeddings(step, model, reply, usage))
        if (unread := _unread(model, step, reply)) is not None:
            return Judgement(error=unread)
        output = self._call.output
        cut = reply.finish_reason == "length" and not (output is not None and is_runaway_whitespace(reply.text))
        # half a JSON value is no answer
        good_enough = self._call.settings.allow_truncated and output is None and reply.text.strip()
        if cut and not good_enough:
            doubled = self._requests.worst(replace(step, doubled=True))
            may_double = self._may_double(step, reply, usage) and affordable(doubled)
            return Judgement(error=self._truncated(step, reply, usage), may_double=may_double)
        try:
            parsed = output.read(reply.text, self._services.dialect(model)) if output is not None else None
        except OutputInvalidError as error:
            return self._invalid(model, reply, error)
        answer = self._answer(step, model, reply, usage, parsed)
        if self._call.accept is None or self._call.accept(answer):
            return Judgement(result=answer)
        message = f"{model.alias} ({model.model}): `accept` refused the answer"
        return Judgement(error=OutputInvalidError(message, text=reply.text, model=model.alias))

    def _invalid(self, model: ModelConfig, reply: Reply, error: OutputInvalidError) -> Judgement:
        repair = self._call.output.repair_request(error) if self._call.output is not None else None
        error.args = (f"{model.alias} ({model.model}): {error.args[0]}",)
        error.model, error.provider = model.alias, model.provider
        error.request_id, error.text = reply.request_id, reply.text
        return Judgement(error=error, repair=repair)

    def _usage(self, step: Try, reply: Reply) -> Usage | None:
        """Tokens as reported where that is possible, else estimated; None if unknown."""
        if isinstance(reply.usage, Usage):
            return reply.usage
        if reply.usage is None and reply.error is not None and not reply.text:
            return None
        counts = reply.usage or Counts()
        if self._call.texts and reply.usage is not None:
            counts = replace(counts, completion_tokens=0)
        length = partial(self._services.counter.text_length, self._requests.model(step))
        prompt = (step.candidate.est_tokens or 1) + (length(step.answered + step.repair) if step.repair else 0)
        said, cut = reply.reasoning + reply.text, reply.finish_reason == "length"
        answer = partial(self._requests.longest_answer, step) if cut else partial(length, said)
        usage, doubts = counts.proven(
            most=self._requests.most(step), guess=(prompt, answer), least_answer=int(bool(said))
        )
        if doubts:
            self._services.warn_of_usage(step.candidate.alias, doubts)
        return usage

    def _cost(self, step: Try, reply: Reply, usage: Usage | None) -> Decimal | None:
        refused = reply.error is not None and (reply.error.status or 0) >= 400
        if not reply.sent or (refused and usage is None):
            return Decimal(0)
        whole = reply.error is None or reply.finish_reason is not None or self._call.texts
        if usage is None or not whole:
            return self._requests.worst(step)  # it broke off, and nobody knows what was billed
        return self._priced(step, reply, usage).amount

    def _priced(self, step: Try, reply: Reply, usage: Usage) -> Cost:
        """By the service tier that answered; where the answer names none, by the one that was asked for."""
        model = self._requests.model(step)
        service = self._requests.service_asked(model) if reply.service is None else reply.service
        service = "" if service == "auto" else service
        return self._services.prices.cost(model, usage, reply.response_model or None, service=service)

    def _repair(self, error: LLMError) -> str | None:
        """What to say to a model whose server itself refused its answer."""
        if self._call.output is None or not isinstance(error, OutputInvalidError):
            return None
        return self._call.output.repair_request(OutputInvalidError("It is not the JSON that was asked for."))

    def _may_double(self, step: Try, reply: Reply, usage: Usage) -> bool:
        if self._filled(step, reply, usage) is not None:
            return False
        facts = self._services.prices.facts(self._requests.model(step))
        wanted = 2 * self._call.max_tokens
        if facts.max_output is not None and wanted > facts.max_output:
            return False
        prompt = step.candidate.est_tokens or 0
        return facts.context_window is None or prompt + wanted <= facts.context_window

    def _filled(self, step: Try, reply: Reply, usage: Usage) -> int | None:
        """Tokens of a local model's window, if it was full before the answer reached its cap."""
        window = reply.num_ctx
        if window is None or usage.completion_tokens >= self._requests.longest_answer(step):
            return None
        return window if usage.prompt_tokens + usage.completion_tokens >= window * _ALMOST else None

    def _truncated(self, step: Try, reply: Reply, usage: Usage) -> OutputTruncatedError:
        """Returns the error that says what used the tokens up, and which setting gives more of them."""
        model, cap = self._requests.model(step), self._requests.longest_answer(step)
        spent, thought = usage.completion_tokens, usage.reasoning_tokens
        if (window := self._filled(step, reply, usage)) is not None:
            what = f"prompt and answer filled its window of {tokens(window)}"
            fix = "raise `num_ctx` of the model, or shorten the prompt"
        elif not reply.text.strip() and (reply.reasoning or thought):
            what = f"all {tokens(spent)} went into thinking"
            fix = "set `reasoning: off` for the model, or raise `max_tokens`"
        else:
            part = f", of which {tokens(thought)} went into thinking" if thought else ""
            what, fix = f"the answer was cut at max_tokens {cap}{part}", "raise `max_tokens`"
            if self._call.output is None and not self._call.settings.allow_truncated:
                fix += f", or set `allow_truncated: true` for {self._call.task}"
        return OutputTruncatedError(
            f"{model.alias} ({model.model}): {what}; {fix}",
            text=reply.text,
            model=model.alias,
            provider=model.provider,
            request_id=reply.request_id,
        )

    def _answer(self, step: Try, model: ModelConfig, reply: Reply, usage: Usage, parsed: Any) -> Answer[Any]:
        return Answer(
            text=reply.text,
            parsed=parsed,
            model=model.alias,
            provider_model=model.model,
            response_model=reply.response_model,
            task=self._call.task,
            usage=usage,
            cost_source=self._priced(step, reply, usage).source,
            finish_reason=reply.finish_reason or "",
            request_id=reply.request_id,
            logprobs=reply.logprobs,
        )

    def _embeddings(self, step: Try, model: ModelConfig, reply: Reply, usage: Usage) -> Embeddings:
        return Embeddings(
            vectors=reply.vectors,
            model=model.alias,
            provider_model=model.model,
            task=self._call.task,
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
