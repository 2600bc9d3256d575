"""What a request is spared: LiteLLM's record of it, and on an event loop the threads that nothing has to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import faults
import pytest
from manager_kit import Api, ask, manager, model

from testronaut_llm.gateway import load_litellm
from testronaut_llm.provider_registry import Probes
from testronaut_llm.transport.silent_log import silent

Make = Callable[..., Api]
MODES = pytest.mark.parametrize("mode", ["complete", "acomplete", "stream", "astream"])
WIRES = pytest.mark.parametrize("wire", ["openai", "anthropic", "azure", "ollama"])

pytestmark = pytest.mark.usefixtures("provider_keys")


@MODES
@WIRES
async def test_litellm_keeps_no_record(api: Make, monkeypatch: pytest.MonkeyPatch, wire: str, mode: str) -> None:
    """No callback of the application hears of a call, and LiteLLM works out no price, whether it succeeds or fails."""
    litellm = load_litellm()
    told: list[Any] = []

    def note(*given: Any, **named: Any) -> None:
        told.append((given, named))

    for kind in ("input_callback", "success_callback", "failure_callback"):
        monkeypatch.setattr(litellm, kind, [note])
    monkeypatch.setattr(litellm, "response_cost_calculator", note)
    monkeypatch.setattr(litellm, "completion_cost", note)
    good, bad = api("good", faults.good("fine")), api("bad", faults.error("authentication"))
    with manager({"bad": model(wire, bad), "good": model(wire, good)}, retries=0) as llm:
        answer = await ask(llm, mode)
    await asyncio.sleep(0.05)
    assert (answer.text, answer.model, answer.usage.estimated) == ("fine", "good", False)
    assert [one.outcome for one in answer.attempts] == ["error", "answer"]
    assert told == []


@pytest.mark.parametrize(
    ("wire", "prompt", "remembers", "hops"),
    [("openai", "hi", 5, 0), ("openai", "hi " * 4000, 5, 1), ("ollama", "hi", 5, 0), ("ollama", "hi", 0, 1)],
)
async def test_a_warm_call_takes_no_thread_from_an_event_loop(
    api: Make, monkeypatch: pytest.MonkeyPatch, wire: str, prompt: str, remembers: float, hops: int
) -> None:
    """The first one does, and one whose server has to be asked whether it is there, or whose prompt is long."""
    real, taken = asyncio.to_thread, []

    async def hop(*given: Any) -> Any:
        if getattr(given[0], "__name__", "") != "get_platform":  # the SDK's own, once a process
            taken.append(given)
        return await real(*given)

    with manager({"m": model(wire, api("a", faults.good()), context_window=32_000)}) as llm:
        llm._engine.probes = Probes(remember=remembers)
        monkeypatch.setattr(asyncio, "to_thread", hop)
        await llm.acomplete("t", prompt)
        assert len(taken) == 1
        taken.clear()
        await llm.acomplete("t", prompt)
        assert len(taken) == hops


def test_a_stream_that_tells_nobody_stays_as_it_is() -> None:
    """Some of LiteLLM's streams are plain generators, which take no attribute."""
    assert list(silent(one for one in "ab")) == ["a", "b"]
