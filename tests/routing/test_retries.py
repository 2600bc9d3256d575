"""Retries in complete calls: as many as the task allows, and not before the provider's wait is over."""

from __future__ import annotations

from itertools import pairwise

import faults
import pytest
from manager_kit import MODES, Make, ask, manager, model

from testronaut_llm.gateway.gateway import Gateway

pytestmark = pytest.mark.usefixtures("provider_keys")


def test_a_provider_may_forbid_retries(api: Make) -> None:
    a, b = api("a", faults.error("server_error", headers={"x-should-retry": "false"})), api("b", faults.good())
    with manager({"a": model("openai", a), "b": model("openai", b)}) as llm:
        assert llm.complete("t", "hi").model == "b"
    assert len(a.asked) == 1


def test_a_failure_that_passes_is_survived(api: Make) -> None:
    later = {"retry-after-ms": "80"}
    a = api("a", faults.error("rate_limit", headers=later), faults.error("server_error", headers=later), faults.good())
    with manager({"m": model("openai", a)}, retries=2) as llm:
        assert len(llm.complete("t", "hi").attempts) == len(a.asked) == 3
    assert all(second.at - first.at >= 0.08 for first, second in pairwise(a.asked))


@pytest.mark.parametrize("mode", MODES)
async def test_a_programming_error_is_raised_unchanged(api: Make, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    def broken(self: Gateway, *_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Gateway, "send", broken)
    async with manager({"a": model("openai", api("a", faults.good()))}) as llm:
        with pytest.raises(ZeroDivisionError):
            await ask(llm, mode)
