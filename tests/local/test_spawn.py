"""A pool of spawned processes: each has a manager of its own, and answers and errors come back whole (P25)."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from testronaut_llm import AllModelsFailedError, Answer, AuthenticationError
from testronaut_llm.testing.fake import FakeLLM


def ask(prompt: str) -> Answer:
    """In another process. The models are fakes, since a process takes seconds to load LiteLLM."""
    with FakeLLM() as llm:
        llm.reply(lambda call: AuthenticationError("no", status=401) if call.prompt == "fail" else "fine")
        return llm.complete(None, prompt)


def test_answers_and_errors_cross_processes() -> None:
    """With their facts and attempts."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        answered, failed = pool.submit(ask, "hi"), pool.submit(ask, "fail")
        assert answered.result(100).text == "fine"
        with pytest.raises(AllModelsFailedError) as caught:
            failed.result(100)
    assert caught.value.last.status == 401
    assert [one.model for one in caught.value.attempts] == ["fake"]
