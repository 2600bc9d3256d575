"""What a request holds, and what it costs if it was not sent or had no answer."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import faults
import pytest
from manager_kit import Make, ask, manager, model

from testronaut_llm import errors

pytestmark = pytest.mark.usefixtures("provider_keys")

SYSTEM = "You read manuals."


async def _failed(url: Any, mode: str, **given: Any) -> errors.LLMError:
    """The error of one attempt, which is also what the attempt cost in the books."""
    embedding = {"embedding": {"models": ["a"], "retries": 0, "cache": "off"}}
    with manager({"a": model("openai", url)}, embedding, retries=0, budget={"total": 1}) as llm:
        with pytest.raises(errors.LLMError) as caught:
            await (llm.aembed("embedding", ["hi"], **given) if mode == "embed" else ask(llm, mode, **given))
        (attempt,) = caught.value.attempts
        assert attempt.cost == llm.session.cost == llm.spend().total.cost == 1 - (llm.spend().limits[0].left or 0)
    return caught.value


@pytest.mark.parametrize("mode", ["complete", "astream", "embed"])
@pytest.mark.parametrize(
    ("reply", "kind"),
    [(faults.raw(407, b""), errors.ConnectionFailedError), (faults.silent, errors.LLMTimeoutError)],
    ids=["wants a password", "never opens the tunnel"],
)
async def test_a_request_that_stops_at_a_proxy_costs_nothing(
    api: Make, monkeypatch: pytest.MonkeyPatch, reply: faults.Reply, kind: type[errors.LLMError], mode: str
) -> None:
    """Other requests that are not sent are in the fault matrix."""
    monkeypatch.setenv("HTTPS_PROXY", api("proxy", reply).url)
    error = await _failed("https://models.example.test", mode, timeout=0.3 if reply is faults.silent else 20)
    assert isinstance(getattr(error, "last", error), kind)
    assert error.attempts[0].cost == 0


async def test_vectors_that_never_come_cost_their_worst_case(api: Make) -> None:
    error = await _failed(api("a", faults.reset_before_headers), "embed")
    assert error.attempts[0].cost == Decimal("0.0003425")  # 274 tokens at most, at 1.25 USD a million


@pytest.mark.parametrize("wire", ["anthropic", "openai"])
@pytest.mark.parametrize(("marks", "system"), [(True, SYSTEM), (False, SYSTEM), (True, None)])
def test_the_system_text_is_marked(api: Make, wire: str, marks: bool, system: str | None) -> None:
    a = api("a", faults.good())
    with manager({"a": model(wire, a)}, prompt_cache=marks, system=system) as llm:
        llm.complete("t", "What is ls?")
        assert "".join(llm.stream("t", "What is ls?"))
    for body in a.bodies:
        assert (SYSTEM in str(body)) == bool(system)
        is_marked = bool(wire == "anthropic" and marks and system)
        assert str(body).count("cache_control") == is_marked
        assert not is_marked or body["system"][0]["cache_control"] == {"type": "ephemeral"}
