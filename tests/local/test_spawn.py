"""A pool of spawned processes: each has a manager of its own, and answers and errors come back whole (P25)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import faults
import pytest
from manager_kit import Api, manager, model

from testronaut_llm import AllModelsFailedError, Answer

pytestmark = pytest.mark.usefixtures("provider_keys")


def ask(url: str) -> Answer:
    """In another process."""
    with manager({"m": model("openai", url)}, retries=0) as llm:
        return llm.complete("t", "hi")


def test_answers_and_errors_cross_processes(api: Callable[..., Api]) -> None:
    """With their facts and attempts."""
    good, bad = api("good", faults.good("fine")), api("bad", faults.error("authentication"))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        answered, failed = pool.submit(ask, good.url), pool.submit(ask, bad.url)
        assert answered.result(100).text == "fine"
        with pytest.raises(AllModelsFailedError) as caught:
            failed.result(100)
    assert caught.value.last.status == 401
    assert [one.model for one in caught.value.attempts] == ["m"]
    assert len(bad.asked) == 1
