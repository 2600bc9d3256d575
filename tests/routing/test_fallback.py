"""The next step after a failure: most of it decided without a clock or a server."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import faults
import pytest
from manager_kit import MODES, Make, ask, manager, model

from testronaut_llm import errors
from testronaut_llm.config.model_config import ModelConfig, TaskConfig
from testronaut_llm.gateway.gateway import Gateway
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Attempt, Candidate
from testronaut_llm.routing.retry import End, Failure, Try, all_failed, first_try, next_try


def _candidate(alias: str, **fields: Any) -> Candidate:
    row = ModelConfig(alias=alias, model=f"openai/{alias}")
    known = {"model": row.model, "provider": "openai", "quality": 5, "row": row, "provider_row": provider_of(row)}
    return Candidate(alias=alias, **{**known, **fields})


A, B = _candidate("a"), _candidate("b")


def _run(candidates: Sequence[Candidate], failures: Any, *, jitter: float = 0, left: float = 900, **task: Any) -> Any:
    """Returns the tries that these failures lead to, and the end if it was reached."""
    settings = TaskConfig(name="t", models=("a",)).model_copy(update=task)
    tries = [first_try(candidates)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "random", lambda: jitter)
        for one in failures:
            failure = one if isinstance(one, Failure) else Failure(error=one)
            step = next_try(tries[-1], failure, settings, left=left)
            if isinstance(step, End):
                return tries, step
            tries.append(step)
    return tries, None


def _asked(tries: Sequence[Try]) -> list[str]:
    return [step.candidate.alias for step in tries]


RETRY = [errors.RateLimitError, errors.OverloadedError, errors.ServerError, errors.LLMTimeoutError,
         errors.ConnectionFailedError]  # fmt: skip
STOP = [errors.ContentFilteredError, errors.InvalidRequestError, errors.OutputTruncatedError]


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("kind", RETRY)
def test_a_failure_that_may_pass_is_tried_again(kind: type[errors.LLMError], retries: int) -> None:
    tries, end = _run([A, B], [kind("no")] * (2 * (retries + 1)), retries=retries)
    assert _asked(tries) == ["a"] * (retries + 1) + ["b"] * (retries + 1)
    again = [f"retry {number} after {kind.code}" for number in range(1, retries + 1)]
    assert [step.reason for step in tries] == ["", *again, f"fell back: a failed ({kind.code})", *again]
    assert not end.stopped


@pytest.mark.parametrize("kind", [*STOP, *RETRY])
def test_fallback_on_goes_to_the_next_model(kind: type[errors.LLMError]) -> None:
    tries, end = _run([A, B], [kind("1"), kind("2")], fallback_on=(kind.code,))
    assert _asked(tries) == ["a", "b"]
    assert not end.stopped


@pytest.mark.parametrize(
    ("error", "jitter", "waits"),
    [
        (errors.ServerError("x"), 0.0, [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]),
        (errors.ServerError("x"), 1.0, [0.5, 1, 2, 4, 8, 8]),
        (errors.RateLimitError("x"), 1.0, [1, 2, 4, 8, 8]),
        (errors.RateLimitError("x", retry_after=7.0), 0.0, [7.0]),
        (errors.RateLimitError("x", retry_after=7.0), 1.0, [7.05]),
    ],
)
def test_waits_double_up_to_a_limit(error: errors.LLMError, jitter: float, waits: list[float]) -> None:
    tries, _ = _run([A], [error] * len(waits), retries=6, jitter=jitter)
    assert [step.wait for step in tries[1:]] == pytest.approx(waits)


@pytest.mark.parametrize(
    ("asked", "models", "again"),
    [(0.0, 2, True), (31.9, 2, True), (33.0, 2, False), (119.0, 1, True), (121.0, 1, False)],
)
def test_a_long_wait_goes_to_the_next_model(asked: float, models: int, again: bool) -> None:
    tries, _ = _run([A, B][:models], [errors.RateLimitError("x", retry_after=asked)])
    assert _asked(tries[1:]) == (["a"] if again else ["b"] * (models - 1))


@pytest.mark.parametrize("kind", [errors.RateLimitError, errors.QuotaExceededError, errors.InvalidRequestError])
def test_the_end_of_the_deadline_is_a_timeout(kind: type[errors.LLMError]) -> None:
    _, end = _run([A, B], [kind("why", model="a")], left=0.0)
    assert end.stopped
    assert isinstance(end.last, errors.LLMTimeoutError)
    assert ("why" in str(end.last), end.last.model) == (True, "a")


def test_a_local_model_that_times_out_is_not_asked_again() -> None:
    """It would wait in line behind its own first request."""
    local = _candidate("local", local=True)
    assert _asked(_run([local, B], [errors.LLMTimeoutError("x")])[0]) == ["local", "b"]
    assert _asked(_run([local, B], [errors.ServerError("x")])[0]) == ["local", "local"]


def test_one_repair_a_model() -> None:
    wrong = Failure(error=errors.OutputInvalidError("x"), repair="correct it")
    tries, end = _run([A, B], [wrong, errors.ServerError("x"), wrong, wrong, wrong])
    assert _asked(tries) == ["a", "a", "a", "b", "b"]
    assert [step.repair for step in tries] == [None, "correct it", "correct it", None, "correct it"]
    assert [tries[number].wait for number in (1, 3, 4)] == [0, 0, 0]
    assert not end.stopped


def test_a_refused_setting_is_left_out_once() -> None:
    refused = Failure(error=errors.InvalidRequestError("x"), not_taken=("reasoning",))
    tries, end = _run([A, B], [refused, refused])
    assert [(step.candidate.alias, step.without) for step in tries] == [("a", ()), ("a", ("reasoning",))]
    assert end == End(last=refused.error, stopped=True)


def test_a_cascade_skips_what_is_no_better() -> None:
    weak, same, better = (_candidate(name, quality=q) for name, q in (("weak", 3), ("same", 3), ("better", 6)))
    refused = errors.OutputInvalidError("x")
    assert _asked(_run([weak, same, better], [refused], strategy="cascade")[0]) == ["weak", "better"]
    assert _asked(_run([weak, same, better], [refused], strategy="cheapest")[0]) == ["weak", "same"]
    assert _asked(_run([weak, same, better], [errors.BadResponseError("x")], strategy="cascade")[0]) == ["weak", "same"]


def test_a_long_prompt_goes_to_a_larger_window_only() -> None:
    models = [_candidate(name, context_window=w) for name, w in (("a", 8), ("b", 8), ("c", None), ("d", 16))]
    tries, _ = _run(models, [errors.ContextWindowError("x")] * 2)
    assert _asked(tries) == ["a", "c", "d"]


@pytest.mark.parametrize(("error", "delivered"), [(errors.ServerError, True), (errors.CassetteMissError, False)])
def test_a_delivered_piece_or_a_missing_recording_ends_the_call(error: type[errors.LLMError], delivered: bool) -> None:
    failure = Failure(error=error("x"), delivered=delivered)
    _, end = _run([A, B], [failure], fallback_on=("cassette_miss", "server_error"))
    assert end == End(last=failure.error, stopped=True)


def test_the_last_error_tells_all() -> None:
    last = errors.RateLimitError("slow", model="b", provider="p", status=429, retry_after=3.0, request_id="r")
    tried = (
        Attempt(model="a", provider_model="openai/a", outcome="error", error=errors.ServerError("broken")),
        Attempt(model="b", provider_model="openai/b", outcome="error", error=last),
        Attempt(model="b", provider_model="openai/b", outcome="error"),
    )
    error = all_failed("task", last, tried)
    assert str(error) == "task: all 2 models failed in 3 attempts:\n  a: broken\n  b: slow"
    assert (error.last, error.model, error.status, error.retry_after, error.request_id) == (last, "b", 429, 3.0, "r")
    assert "task: a failed in 1 attempt:" in str(all_failed("task", last, tried[:1]))


@pytest.mark.usefixtures("provider_keys")
def test_a_provider_may_forbid_retries(api: Make) -> None:
    a, b = api("a", faults.error("server_error", headers={"x-should-retry": "false"})), api("b", faults.good())
    with manager({"a": model("openai", a), "b": model("openai", b)}) as llm:
        assert llm.complete("t", "hi").model == "b"
    assert len(a.asked) == 1


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize("mode", MODES)
async def test_a_programming_error_is_raised_unchanged(api: Make, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(Gateway, "send", lambda *_: 1 / 0)
    async with manager({"a": model("openai", api("a", faults.good()))}) as llm:
        with pytest.raises(ZeroDivisionError):
            await ask(llm, mode)
