"""Decides what to try next: the same model again, the next one, or nothing. No I/O and no clock.

A generator: it yields a `Try` and is sent the `Outcome`. It returns the error to raise; its
caller stops it when an answer is accepted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Sequence
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
    RateLimitError,
    Verdict,
)
from testronaut_llm.records import Attempt, Candidate
from testronaut_llm.routing.strategies import larger_than

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import TaskConfig

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED_WAIT = 0.5, 8.0, 120.0
"""Seconds: our first and longest wait, and the longest wait that a provider may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One attempt to make. `wait` is seconds to wait before it.

    Attributes:
        repair: text of a user's turn that asks to correct the previous answer; `answered` is that answer.
        doubled: ask for twice the tokens, since the answer was cut.
        without: settings to leave out, since the model refused them.
    """

    candidate: Candidate
    wait: float = 0.0
    repair: str | None = None
    answered: str = ""
    doubled: bool = False
    without: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The failure of an attempt.

    Attributes:
        remaining: seconds left until the call's deadline.
        repair: text that asks the model to correct its answer, None if that cannot help.
        answered: the text of that answer.
        delivered: True if the caller has already received a piece of it.
        may_double: True if twice the tokens fit the model and the budget.
        not_taken: settings that the model refused and that can be left out.
    """

    error: LLMError
    remaining: float
    repair: str | None = None
    answered: str = ""
    delivered: bool = False
    may_double: bool = False
    not_taken: tuple[str, ...] = ()


class End(NamedTuple):
    """The end of all tries. `stopped`: the last error itself ends the call; else every candidate has failed."""

    last: LLMError
    stopped: bool


def attempts(candidates: Sequence[Candidate], task: TaskConfig) -> Generator[Try, Outcome, End]:
    """Yields the next try; returns an `End` when nothing is left to try.

    Args:
        candidates: at least one, in the order to try them.
        task: the number of retries, the failures that go on to the next model, and if a refused answer rules out
            all models that are not better.
    """
    queue, reason = list(candidates), ""
    while queue:
        candidate = queue.pop(0)
        last, stopped = end = yield from _one_model(Try(candidate=candidate, reason=reason), task, bool(queue))
        if stopped:
            return end
        reason = f"fell back: {candidate.alias} failed ({last.code})"
        if isinstance(last, ContextWindowError):
            queue = larger_than(candidate, queue)
        elif task.strategy == "cascade" and isinstance(last, OutputInvalidError):
            queue = [one for one in queue if one.quality > candidate.quality]
    return end


def _one_model(step: Try, task: TaskConfig, more: bool) -> Generator[Try, Outcome, End]:
    retried, may_repair, may_double = 0, True, True
    while True:
        outcome = yield step
        error, goes_on = outcome.error, outcome.error.code in task.fallback_on
        if (final := _final(outcome)) is not None:
            return End(final, stopped=True)
        if isinstance(error, OutputTruncatedError) and may_double and outcome.may_double:
            may_double = False
            step = replace(step, wait=0.0, doubled=True, reason="once more with a doubled cap: its answer was cut")
        elif outcome.not_taken and not step.without:
            refused = ", ".join(outcome.not_taken)
            step = replace(step, wait=0.0, without=outcome.not_taken, reason=f"once more without {refused}")
        elif outcome.repair is not None and may_repair:
            may_repair, reason = False, "asked to correct its answer"
            step = replace(step, wait=0.0, repair=outcome.repair, answered=outcome.answered, reason=reason)
        elif goes_on or error.verdict is not Verdict.RETRY:
            return End(error, stopped=error.verdict is Verdict.STOP and not goes_on)
        else:
            wait = _wait(error, retried)
            longest = LONGEST_WAIT * 4 if more else LONGEST_ASKED_WAIT
            late = wait >= outcome.remaining or wait > longest
            if retried >= task.retries or late or _would_queue(error, step.candidate):
                return End(error, stopped=False)
            retried += 1
            step = replace(step, wait=wait, reason=f"retry {retried} after {error.code}")


def _final(outcome: Outcome) -> LLMError | None:
    """Returns the error that ends the call regardless of the task, or None."""
    error = outcome.error
    if outcome.delivered or isinstance(error, CassetteMissError):
        return error
    if outcome.remaining > 0:
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


def passed_over(error: LLMError) -> LLMError:
    """Returns the error of a model that was not asked; if it is over budget, the next model follows."""
    if isinstance(error, BudgetExceededError):
        error.verdict = Verdict.NEXT  # type: ignore[misc]
    return error


def all_failed(task: str, last: LLMError, tried: tuple[Attempt, ...]) -> AllModelsFailedError:
    """Returns the error that holds every failure, in order."""
    failures = Counter((one.model, str(one.error)) for one in tried if one.error is not None)
    lines = "".join(f"\n  {model}: {words}{f' ({n} times)' if n > 1 else ''}" for (model, words), n in failures.items())
    models = {one.model for one in tried}
    who = f"all {len(models)} models" if len(models) > 1 else "".join(models) or "the model"
    attempts_made = f"{len(tried)} attempt{'s' if len(tried) != 1 else ''}"
    return AllModelsFailedError(
        f"{task}: {who} failed in {attempts_made}:{lines}",
        last=last,
        model=last.model,
        provider=last.provider,
        status=last.status,
        retry_after=last.retry_after,
        request_id=last.request_id,
    )
