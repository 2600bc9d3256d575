"""What to try next: the same model again, the next one, or nothing. No I/O and no clock.

A generator: it yields a `Try` and is sent the `Outcome`. It ends with the error to raise; whoever
drives it stops asking when an attempt brings an answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

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
from testronaut_llm.routing.strategies import better_than, larger_than

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED_WAIT = 0.5, 8.0, 120.0
"""Seconds: of the first and the longest wait of our own, and of the longest that a provider may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One attempt to make. `wait` is seconds to wait before it.

    Attributes:
        repair: text of a user's turn that asks to mend the answer before.
        answered: the text of that answer.
        doubled: ask for twice the tokens, since the answer was cut.
        without: settings to leave out, since the model has said that it does not take them.
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
    """How an attempt failed.

    Attributes:
        error: why it brought no answer.
        remaining: seconds left until the call's deadline.
        repair: what to say to the model to have its answer mended, None where that cannot help.
        delivered: has the caller seen a piece of it already?
        may_double: would twice the tokens fit the model and the money?
        not_taken: settings that the model refused, and that it can be asked without.
    """

    error: LLMError
    remaining: float
    repair: str | None = None
    delivered: bool = False
    may_double: bool = False
    not_taken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a task wants to be retried.

    Attributes:
        retries: how often one model is asked again.
        fallback_on: error codes that go on to the next model though they would stop the call.
        cascade: does a refused answer rule out all models that are no better?
        jitter: a number between 0 and 1, new at each call.
    """

    retries: int = 2
    fallback_on: tuple[str, ...] = ()
    cascade: bool = False
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Nothing is left to try. `stopped`: the last error itself ends the call; else every candidate has failed."""

    last: LLMError
    stopped: bool


def attempts(candidates: Sequence[Candidate], policy: Policy) -> Generator[Try, Outcome, End]:
    """Yields what to try; returns how it ended when nothing is left.

    Args:
        candidates: at least one, in the order of trying.
        policy: the task's.
    """
    queue = list(candidates)
    reason = ""
    while queue:
        candidate = queue.pop(0)
        ended, last = yield from _one_model(Try(candidate=candidate, reason=reason), policy, bool(queue))
        if ended:
            return End(last=last, stopped=True)
        reason = f"fell back: {candidate.alias} failed ({last.code})"
        if isinstance(last, ContextWindowError):
            queue = list(larger_than(candidate, queue))
        elif policy.cascade and isinstance(last, OutputInvalidError):
            queue = list(better_than(candidate, queue))
    return End(last=last, stopped=False)


def _one_model(step: Try, policy: Policy, more: bool) -> Generator[Try, Outcome, tuple[bool, LLMError]]:
    """Tries one model; returns whether the call ends with it, and its last error."""
    retried, may_repair, may_double = 0, True, True
    while True:
        outcome = yield step
        error = outcome.error
        if (final := _final(outcome)) is not None:
            return True, final
        if isinstance(error, OutputTruncatedError) and may_double and outcome.may_double:
            may_double = False
            step = replace(step, wait=0.0, doubled=True, reason="once more with a doubled cap: its answer was cut")
        elif outcome.not_taken and not step.without:
            refused = ", ".join(outcome.not_taken)
            step = replace(step, wait=0.0, without=outcome.not_taken, reason=f"once more without {refused}")
        elif outcome.repair is not None and may_repair:
            may_repair = False
            step = replace(step, wait=0.0, repair=outcome.repair, reason="asked to mend its answer")
        elif error.code in policy.fallback_on or error.verdict is not Verdict.RETRY:
            return error.verdict is Verdict.STOP and error.code not in policy.fallback_on, error
        else:
            wait = _wait(error, retried, policy)
            if retried >= policy.retries or not _worth_waiting(error, step.candidate, wait, outcome.remaining, more):
                return False, error
            retried += 1
            step = replace(step, wait=wait, reason=f"retry {retried} after {error.code}")


def _final(outcome: Outcome) -> LLMError | None:
    """The error that ends the call whatever the task says, or None."""
    error = outcome.error
    if outcome.delivered or isinstance(error, CassetteMissError):
        return error
    if outcome.remaining <= 0:
        return error if isinstance(error, LLMTimeoutError) else _too_late(error)
    return None


def _worth_waiting(error: LLMError, candidate: Candidate, wait: float, remaining: float, more: bool) -> bool:
    if (candidate.local or candidate.provider == "ollama") and isinstance(error, LLMTimeoutError):
        return False  # it would queue behind its own first request, or begin to load anew
    return wait < remaining and wait <= (LONGEST_WAIT * 4 if more else LONGEST_ASKED_WAIT)


def _wait(error: LLMError, retried: int, policy: Policy) -> float:
    """What the provider asks for, and a little more so that callers do not come back together; else our own wait."""
    own = min(LONGEST_WAIT, FIRST_WAIT * 2.0**retried)
    if error.retry_after is not None:
        return error.retry_after + 0.1 * own * policy.jitter()
    if isinstance(error, RateLimitError):
        own = min(LONGEST_WAIT, 2 * own)
    return own * (0.5 + 0.5 * policy.jitter())


def _too_late(error: LLMError) -> LLMTimeoutError:
    return LLMTimeoutError(
        f"the deadline of the call has passed; the last failure was: {error}; raise `deadline` if it needs longer",
        model=error.model,
        provider=error.provider,
    )


def passed_over(error: LLMError) -> LLMError:
    """Returns the error of a model that was not asked; one that the money does not reach is followed by the next."""
    if isinstance(error, BudgetExceededError):
        error.verdict = Verdict.NEXT  # type: ignore[misc]
    return error


def out_of_time(task: str, candidate: Candidate, deadline: float) -> LLMTimeoutError:
    """Returns the error of a call whose deadline (seconds) passed before a request could be sent."""
    return LLMTimeoutError(
        f"{task}: the deadline of {deadline:g} s has passed; raise `deadline` if it needs longer",
        model=candidate.alias,
        provider=candidate.provider,
    )


def another_too_slow(task: str, deadline: float) -> LLMTimeoutError:
    """Returns the error of a call that waited for an identical one, for all of its deadline (seconds)."""
    return LLMTimeoutError(
        f"{task}: an identical call did not end within the deadline of {deadline:g} s; "
        "raise `deadline`, or ask for yourself with cache `off`"
    )


def all_failed(task: str, last: LLMError, tried: tuple[Attempt, ...]) -> AllModelsFailedError:
    """The error that holds every failure, in order."""
    lines = "".join(f"\n  {one.model}: {one.error}" for one in tried if one.error is not None)
    models = len({one.model for one in tried})
    attempts_made = f"{len(tried)} attempt{'s' if len(tried) != 1 else ''}"
    return AllModelsFailedError(
        f"{task}: all {models} model{'s' if models != 1 else ''} failed in {attempts_made}:{lines}",
        last=last,
        model=last.model,
        provider=last.provider,
        status=last.status,
        retry_after=last.retry_after,
        request_id=last.request_id,
    )
