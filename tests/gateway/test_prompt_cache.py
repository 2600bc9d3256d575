"""`prompt_cache` marks what never changes, for Anthropic alone."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import faults
import pytest
from manager_kit import Api, manager, model

from testronaut_llm.records import Usage
from testronaut_llm.testing.fake import FakeAnswer, FakeLLM

pytestmark = pytest.mark.usefixtures("provider_keys")

Make = Callable[..., Api]
MARKED = [{"type": "text", "text": "You read manuals.", "cache_control": {"type": "ephemeral"}}]


def system_text(body: dict[str, Any]) -> Any:
    """Where the wire has it."""
    return body["system"] if "system" in body else body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("wire", "on", "sent"),
    [
        ("anthropic", True, MARKED),
        ("anthropic", False, "You read manuals."),
        ("openai", True, "You read manuals."),
        ("ollama", True, "You read manuals."),
    ],
)
def test_the_system_text_is_marked(api: Make, wire: str, on: bool, sent: Any) -> None:
    """One mark, on the last stable part, and only where it has to be asked for (P35)."""
    a = api("a", faults.good())
    with manager({"a": model(wire, a)}, prompt_cache=on, system="You read manuals.") as llm:
        llm.complete("t", "What is ls?")
        assert "".join(llm.stream("t", "What is ls?"))
    for body in a.bodies:
        found = system_text(body)
        plain = found[0]["text"] if isinstance(found, list) and "cache_control" not in found[0] else found
        assert plain == sent
        assert str(body).count("cache_control") == (sent == MARKED)


def test_without_a_system_text_nothing_is_marked(api: Make) -> None:
    """A question changes each time: to keep it would cost more."""
    a = api("a", faults.good())
    with manager({"a": model("anthropic", a)}, prompt_cache=True) as llm:
        llm.complete("t", "What is ls?")
    assert "cache_control" not in str(a.bodies)


def fake(usage: Usage, **task: Any) -> FakeLLM:
    from testronaut_llm import LLMConfig

    row = {"model": "anthropic/claude-haiku-4-5", "price": {"input": 1, "output": 1, "cache_read": "0.1"}}
    settings = {"models": ["m"], "prompt_cache": True, "system": "You read manuals.", **task}
    llm = FakeLLM(config=LLMConfig.model_validate({"version": 1, "models": {"m": row}, "tasks": {"t": settings}}))
    llm.reply(FakeAnswer(text="yes", usage=usage))
    return llm


@pytest.mark.parametrize("kept", [{}, {"cached_tokens": 90}, {"cache_write_tokens": 90}])
def test_what_is_kept_has_a_price_of_its_own(kept: dict[str, int]) -> None:
    """What was read from the provider's cache costs less; nothing else changes."""
    llm = fake(Usage(prompt_tokens=100, completion_tokens=0, **kept))
    with llm:
        for _ in range(3):
            llm.complete("t", "hi")
    price = Decimal("0.1") if "cached_tokens" in kept else Decimal(1)
    assert llm.session.cost == 3 * (10 + 90 * price) / 10**6
