"""Decides what to try after a failure: the same model again, the next one, or nothing. No I/O and no clock."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from testronaut_llm.errors import (
    AllModelsFailedError,
    BudgetExceededError,
    CassetteMissError,
    ContextWindowError,
    LLMError,
    LLMTimeoutError,
    OutputInvalidError,
    OutputTruncatedError,
    OverloadedError,
    RateLimitError,
    Verdict,
)
from testronaut_llm.limits.rules import key_of
from testronaut_llm.records import Attempt, Candidate
from testronaut_llm.support.text import counted

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import TaskConfig
    from testronaut_llm.limits.rate_limiter import RateLimiter, Ticket

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED_WAIT = 0.5, 8.0, 120.0
"""Seconds: our first and longest wait, and the longest wait that a provider may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One attempt to make. `wait` is seconds to wait before it.

    Attributes:
        later: the candidates after this one, in the order to try them.
        retries: how often this candidate was asked again after a failure that may pass.
        repair: text of a user's turn that asks to correct the previous answer; `answered` is that answer.
        doubled: ask for twice the tokens, since the answer was cut.
        without: settings to leave out, since the model refused them.
    """

    candidate: Candidate
    later: tuple[Candidate, ...] = ()
    wait: float = 0.0
    retries: int = 0
    repair: str | None = None
    answered: str = ""
    doubled: bool = False
    without: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How an attempt failed.

    Attributes:
        repair: text that asks the model to correct its answer, None if that cannot help.
        answered: the text of that answer.
        delivered: True if the caller has already received a piece of it.
        may_double: True if twice the tokens fit the model and the budget.
        not_taken: settings that the model refused and that can be left out.
    """

    error: LLMError
    repair: str | None = None
    answered: str = ""
    delivered: bool = False
    may_double: bool = False
    not_taken: tuple[str, ...] = ()


class End(NamedTuple):
    """The end of all tries. `stopped`: the last error itself ends the call; else every candidate has failed."""

    last: LLMError
    stopped: bool


def first_try(candidates: Sequence[Candidate], reason: str = "") -> Try:
    """Returns the first attempt at these candidates, of which there is at least one, in their order."""
    first, *later = candidates
    return Try(candidate=first, later=tuple(later), reason=reason)


def next_try(step: Try, failure: Failure, task: TaskConfig, *, left: float) -> Try | End:
    """Returns the attempt to make after a failed one, or the end.

    `task` has the number of retries, and the errors that go on to the next model; `left` is seconds until the deadline.
    """
    error, goes_on = failure.error, failure.error.code in task.fallback_on
    if (final := _final(failure, left)) is not None:
        return End(final, stopped=True)
    if isinstance(error, OutputTruncatedError) and failure.may_double and not step.doubled:
        return replace(step, wait=0.0, doubled=True, reason="once more with a doubled cap: its answer was cut")
    if failure.not_taken and not step.without:
        reason = f"once more without {', '.join(failure.not_taken)}"
        return replace(step, wait=0.0, without=failure.not_taken, reason=reason)
    if failure.repair is not None and step.repair is None:
        reason = "asked to correct its answer"
        return replace(step, wait=0.0, repair=failure.repair, answered=failure.answered, reason=reason)
    if not goes_on and error.verdict is Verdict.STOP:
        return End(error, stopped=True)
    if not goes_on and error.verdict is Verdict.RETRY and step.retries < task.retries:
        wait = _wait(error, step.retries)
        longest = LONGEST_WAIT * 4 if step.later else LONGEST_ASKED_WAIT
        if wait < left and wait <= longest and not _would_queue(error, step.candidate):
            number = step.retries + 1
            return replace(step, wait=wait, retries=number, reason=f"retry {number} after {error.code}")
    return _next_model(step, error, task)


def _next_model(step: Try, error: LLMError, task: TaskConfig) -> Try | End:
    """Returns the first attempt at the next model: one with a larger window, or a better one, if that is the point."""
    failed, later = step.candidate, step.later
    if isinstance(error, ContextWindowError) and (window := failed.context_window) is not None:
        later = tuple([one for one in later if one.context_window is None or one.context_window > window])
    elif task.strategy == "cascade" and isinstance(error, OutputInvalidError):
        later = tuple([one for one in later if one.quality > failed.quality])
    if not later:
        return End(error, stopped=False)
    return first_try(later, f"fell back: {failed.alias} failed ({error.code})")


def _final(failure: Failure, left: float) -> LLMError | None:
    """Returns the error that ends the call regardless of the task, or None."""
    error = failure.error
    if failure.delivered or isinstance(error, CassetteMissError):
        return error
    if left > 0:
        return None
    if isinstance(error, LLMTimeoutError):
        return error
    return LLMTimeoutError(
        f"the deadline of the call has passed; the last failure was: {error}; raise `deadline` if it needs longer",
        model=error.model,
        provider=error.provider,
    )


def _would_queue(error: LLMError, candidate: Candidate) -> bool:
    """True if a retry would queue behind its own first request, or start to load the model again."""
    return isinstance(error, LLMTimeoutError) and (candidate.local or candidate.provider == "ollama")


def _wait(error: LLMError, retried: int) -> float:
    """Returns the wait that the provider asks for, plus some random time so that callers spread; else our own wait."""
    own, jitter = min(LONGEST_WAIT, FIRST_WAIT * 2.0**retried), random.random()  # noqa: S311
    if error.retry_after is not None:
        return error.retry_after + 0.1 * own * jitter
    if isinstance(error, RateLimitError):
        own = min(LONGEST_WAIT, 2 * own)
    return own * (0.5 + 0.5 * jitter)


def patience(step: Try, ticket: Ticket, limiter: RateLimiter) -> float:
    """Returns the longest useful wait for a turn in seconds, without regard to the deadline.

    For a limit of `llm.yaml`: any time. For a pause that the provider asks for: as long as for a retry. A model in a
    cooldown is skipped if a later one can be asked sooner, and is waited for only once.
    """
    if ticket.in_cooldown:
        own = limiter.cooldown(key_of(step.candidate.row))
        sooner = any(limiter.cooldown(key_of(one.row)) < own for one in step.later)
        return 0.0 if sooner or ticket.is_in_vain else math.inf
    return LONGEST_WAIT * 4 if ticket.is_alone and step.later else math.inf


def no_turn(candidate: Candidate, ticket: Ticket, left: float) -> LLMError:
    """Returns the error if nothing was sent; the next model follows. `left`: seconds until the deadline."""
    wait = f"at least {ticket.at_least:.3g} s" if ticket.at_least > 0 else "longer"
    if ticket.in_cooldown or ticket.is_alone:
        what, fix = f"{ticket.blocked_by} takes {wait}", "list another model, or try later"
    else:
        what = f"{ticket.blocked_by} makes it wait {wait}, and the call has {max(0.0, left):.3g} s left"
        fix = "raise the limit or the call's `deadline`"
    error = (OverloadedError if ticket.in_cooldown else RateLimitError)(
        f"{candidate.alias} ({candidate.model}): not tried: {what}; {fix}",
        model=candidate.alias,
        provider=candidate.provider,
        retry_after=ticket.at_least or None,
    )
    error.verdict = Verdict.NEXT  # type: ignore[misc]
    return error


def passed_over(error: LLMError) -> LLMError:
    """Returns the error of a model that was not asked; if it is over budget, the next model follows."""
    if isinstance(error, BudgetExceededError):
        error.verdict = Verdict.NEXT  # type: ignore[misc]
    return error


def all_failed(task: str, last: LLMError, tried: tuple[Attempt, ...]) -> AllModelsFailedError:
    """Returns the error that holds every failure, in order."""
    failures = Counter((one.model, str(one.error)) for one in tried if one.error is not None)
    lines = ""
    for (model, words), times in failures.items():
        name = "" if words.startswith(f"{model} (") else f"{model}: "
        lines += f"\n  {name}{words}{f' ({times} times)' if times > 1 else ''}"
    models = {one.model for one in tried}
    who = f"all {len(models)} models" if len(models) > 1 else "".join(models) or "the model"
    return AllModelsFailedError(
        f"{task}: {who} failed in {counted(len(tried), 'attempt')}:{lines}",
        last=last,
        model=last.model,
        provider=last.provider,
        status=last.status,
        retry_after=last.retry_after,
        request_id=last.request_id,
    )
