"""What a request holds, and what it costs if it was not sent or had no answer."""

from __future__ import annotations

import socket
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import faults
import pytest
from fault_server import Exchange, refused
from manager_kit import Make, ask, manager, model

from testronaut_llm import LLMManager, errors

pytestmark = pytest.mark.usefixtures("provider_keys")

MODES = ("complete", "astream", "embed")
PROMPT = Decimal("0.0003425")  # 274 tokens at most, at 1.25 USD a million: they may all be written to a cache
ANSWER = Decimal("0.0002")  # 100 tokens at 2 USD a million
BUDGET = Decimal("0.01")
SYSTEM = "You read manuals."


async def _failed(llm: LLMManager, mode: str, **given: Any) -> errors.LLMError:
    with pytest.raises(errors.LLMError) as caught:
        await (llm.aembed("embedding", ["hi"], **given) if mode == "embed" else ask(llm, mode, **given))
    assert len(caught.value.attempts) == 1
    return caught.value


def _llm(wire: str, url: Any) -> LLMManager:
    embedding = {"embedding": {"models": ["a"], "retries": 0, "cache": "off"}}
    return manager({"a": model(wire, url)}, embedding, max_tokens=100, retries=0, budget={"total": BUDGET})


@pytest.mark.parametrize(("how", "wire", "mode"), [
    *(("a refused connection", "openai", mode) for mode in MODES),
    *(("a refused connection", wire, "complete") for wire in ("azure", "anthropic")),
    ("a proxy that wants a password", "openai", "astream"),
    *(("a proxy that never opens the tunnel", "openai", mode) for mode in MODES),
    ("a name that is not found", "openai", "complete"),
])  # fmt: skip
async def test_a_request_that_was_not_sent_costs_nothing(
    api: Make, monkeypatch: pytest.MonkeyPatch, how: str, wire: str, mode: str
) -> None:
    late, url = "never" in how, refused() if "refused" in how else "https://models.example.test"
    if "proxy" in how:
        monkeypatch.setenv("HTTPS_PROXY", api("proxy", faults.silent if late else faults.raw(407, b"")).url)
    elif "name" in how:
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=unknown))
    with _llm(wire, url) as llm:
        error = await _failed(llm, mode, **({"timeout": 0.3} if late else {}))
        kind = errors.LLMTimeoutError if late else errors.ConnectionFailedError
        assert isinstance(getattr(error, "last", error), kind)
        assert error.attempts[0].cost == llm.session.cost == llm.spend().total.cost == Decimal(0)
        assert llm.spend().limits[0].left == BUDGET


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", [Exchange.reset, Exchange.close], ids=["reset", "closed"])
async def test_a_request_without_an_answer_costs_its_worst_case(api: Make, mode: str, broken: Any) -> None:
    with _llm("openai", api("a", broken)) as llm:
        error = await _failed(llm, mode)
        assert llm.session.cost == error.attempts[0].cost == PROMPT + (ANSWER if mode != "embed" else 0)


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
