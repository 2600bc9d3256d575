"""`prompt_cache` marks the system text, for Anthropic only."""

from __future__ import annotations

from typing import Any

import faults
import pytest
from manager_kit import Make, manager, model

pytestmark = pytest.mark.usefixtures("provider_keys")
SYSTEM = "You read manuals."
MARKED = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]


@pytest.mark.parametrize(("wire", "marks", "system", "sent"), [
    ("anthropic", True, SYSTEM, MARKED),
    ("anthropic", False, SYSTEM, SYSTEM),
    ("anthropic", True, None, None),
    ("openai", True, SYSTEM, SYSTEM),
])  # fmt: skip
def test_the_system_text_is_marked(api: Make, wire: str, marks: bool, system: str | None, sent: Any) -> None:
    a = api("a", faults.good())
    with manager({"a": model(wire, a)}, prompt_cache=marks, system=system) as llm:
        llm.complete("t", "What is ls?")
        assert "".join(llm.stream("t", "What is ls?"))
    for body in a.bodies:
        found = body["system"] if "system" in body else body["messages"][0]["content"] if sent else None
        plain = found[0]["text"] if isinstance(found, list) and "cache_control" not in found[0] else found
        assert plain == sent
        assert str(body).count("cache_control") == (sent == MARKED)
