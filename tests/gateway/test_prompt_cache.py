"""`prompt_cache` marks what never changes, for Anthropic alone, and what is kept has a price of its own."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import faults
import pytest
from manager_kit import Api, manager, model

from testronaut_llm import LLMConfig
from testronaut_llm.records import Usage
from testronaut_llm.testing.fake import FakeAnswer, FakeLLM

pytestmark = pytest.mark.usefixtures("provider_keys")
SYSTEM = "You read manuals."
MARKED = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]


@pytest.mark.parametrize(
    ("wire", "task", "sent"),
    [
        ("anthropic", {"prompt_cache": True, "system": SYSTEM}, MARKED),
        ("anthropic", {"prompt_cache": False, "system": SYSTEM}, SYSTEM),
        ("anthropic", {"prompt_cache": True}, None),
        ("openai", {"prompt_cache": True, "system": SYSTEM}, SYSTEM),
        ("ollama", {"prompt_cache": True, "system": SYSTEM}, SYSTEM),
    ],
)
def test_the_system_text_is_marked(api: Callable[..., Api], wire: str, task: dict[str, Any], sent: Any) -> None:
    """One mark, on the last stable part, and only where it has to be asked for (P35); never on a question."""
    a = api("a", faults.good())
    with manager({"a": model(wire, a)}, **task) as llm:
        llm.complete("t", "What is ls?")
        assert "".join(llm.stream("t", "What is ls?"))
    for body in a.bodies:
        found = body["system"] if "system" in body else body["messages"][0]["content"] if sent else None
        plain = found[0]["text"] if isinstance(found, list) and "cache_control" not in found[0] else found
        assert plain == sent
        assert str(body).count("cache_control") == (sent == MARKED)


@pytest.mark.parametrize("kept", [{}, {"cached_tokens": 90}, {"cache_write_tokens": 90}])
def test_what_is_kept_has_a_price_of_its_own(kept: dict[str, int]) -> None:
    """What was read from the provider's cache costs less; nothing else changes."""
    row = {"model": "anthropic/claude-haiku-4-5", "price": {"input": 1, "output": 1, "cache_read": "0.1"}}
    task = {"models": ["m"], "prompt_cache": True, "system": SYSTEM}
    config = LLMConfig.model_validate({"version": 1, "models": {"m": row}, "tasks": {"t": task}})
    with FakeLLM(config=config) as llm:
        llm.reply(FakeAnswer(text="yes", usage=Usage(prompt_tokens=100, completion_tokens=0, **kept)))
        llm.complete("t", "hi")
    price = Decimal("0.1") if "cached_tokens" in kept else Decimal(1)
    assert llm.session.cost == (10 + 90 * price) / 10**6
