"""What a provider is sent for a schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faults
import pytest
from manager_kit import Api, manager, model

pytestmark = pytest.mark.usefixtures("provider_keys")


@pytest.mark.parametrize(
    ("wire", "fields", "bounded"),
    [("openai", {}, True), ("openai", {"model": "openai/ft:gpt-4o-mini:me::1"}, False), ("azure", {}, False)],
)
def test_openai_is_sent_the_bounds_that_it_takes(
    api: Callable[..., Api], wire: str, fields: dict[str, Any], bounded: bool
) -> None:
    """Its fine-tuned models and Azure refuse bounds: there they stand in the prompt."""
    a = api("a", faults.good('{"n": 3}'))
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    with manager({"m": model(wire, a, **fields)}) as llm:
        assert llm.complete("t", "hi", schema=schema).parsed == {"n": 3}
    (body,) = a.bodies
    sent = body["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert ("minimum" in sent["schema"]["properties"]["n"]) is bounded
    assert ("minimum 1" in str(body["messages"])) is not bounded
