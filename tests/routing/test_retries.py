"""Retries in whole calls: as many as the task says, and not before the provider wants them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import faults
import pytest
from gateway_kit import WIRES
from manager_kit import Make, manager, model

from testronaut_llm import LLMManager, errors
from testronaut_llm.gateway.gateway import Gateway

pytestmark = pytest.mark.usefixtures("provider_keys")


async def _complete(llm: LLMManager, *, asynchronous: bool) -> str:
    return (await llm.acomplete("t", "hi") if asynchronous else llm.complete("t", "hi")).text


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("wire", WIRES)
async def test_a_failure_that_passes_is_survived(api: Make, wire: str, asynchronous: bool) -> None:
    """Two failures and an answer are three requests, each after the wait that was asked for."""
    later = {"retry-after-ms": "80"}
    a = api("a", faults.error("rate_limit", headers=later), faults.error("server_error", headers=later), faults.good())
    async with manager({"m": model(wire, a)}, retries=2) as llm:
        assert await _complete(llm, asynchronous=asynchronous) == "Hello from the fault server."
    assert len(a.asked) == 3
    assert all(second.at - first.at >= 0.08 for first, second in pairwise(a.asked))


def test_a_provider_may_forbid_retries(api: Make) -> None:
    """`x-should-retry: false` goes to the next model at once."""
    a, b = api("a", faults.error("server_error", headers={"x-should-retry": "false"})), api("b", faults.good())
    with manager({"a": model("openai", a), "b": model("openai", b)}) as llm:
        assert llm.complete("t", "hi").model == "b"
    assert len(a.asked) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_key_command_that_fails_is_an_error_of_the_attempt(
    api: Make, tmp_path: Path, asynchronous: bool
) -> None:
    """Nothing is sent, and it costs nothing."""
    a = api("a", faults.good())
    row = model("openai", a, api_key_command="false")
    async with manager({"a": row}) as llm:
        with pytest.raises(errors.LLMError) as caught:
            await _complete(llm, asynchronous=asynchronous)
    assert caught.value.attempts[0].cost == 0
    assert caught.value.model == "a"
    assert not a.asked


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_programming_error_is_raised_as_it_is(
    api: Make, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """An error of our own code is not retried, nor taken for a provider's failure."""

    def broken(self: Gateway, *_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Gateway, "send", broken)
    a = api("a", faults.good())
    async with manager({"a": model("openai", a)}) as llm:
        with pytest.raises(ZeroDivisionError):
            await _complete(llm, asynchronous=asynchronous)
