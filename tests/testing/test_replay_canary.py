"""A replay never reaches a server, over any provider's client, in any mode, or after its end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import Endpoint, FaultServer
from gateway_kit import WIRES, attempt, chat, target
from manager_kit import MODES, ask, manager, model

from testronaut_llm import LLMManager
from testronaut_llm.errors import CassetteMissError
from testronaut_llm.testing.cassettes import use_cassette
from testronaut_llm.testing.network import NetworkGuard

CASSETTES = Path(__file__).parents[2] / "cassettes"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CASES = [
    (wire, call) for wire in WIRES for call in (*MODES, "schema", "embed") if (wire, call) != ("anthropic", "embed")
]


@pytest.fixture(scope="module")
def trap(server: FaultServer) -> Endpoint:
    """A real server that would answer."""
    return server.plan("trap", faults.good('{"a": 1}'))


def _manager(wire: str, trap: Endpoint) -> LLMManager:
    return manager({name: model(wire, trap.url) for name in ("first", "second")})


async def _asked(llm: LLMManager, call: str) -> Any:
    if call == "embed":
        return llm.embed("t", ["Hello"])
    return await (ask(llm, "complete", schema=SCHEMA) if call == "schema" else ask(llm, call))


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize(("wire", "call"), CASES)
async def test_a_miss_is_a_miss_and_sends_nothing(
    wire: str, call: str, trap: Endpoint, tmp_path: Path, llm_network: NetworkGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty cassette each call is one CassetteMissError: no retry, no second model, no connection."""
    before = trap.connections
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("a miss is nothing to wait for"))
    with use_cassette(tmp_path / "empty.yaml"):
        async with _manager(wire, trap) as llm:
            with pytest.raises(CassetteMissError, match="does not exist") as miss:
                await _asked(llm, call)
    assert len(miss.value.attempts) <= 1
    assert (trap.connections, llm_network.connects) == (before, [])


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize("wire", WIRES)
def test_the_trap_would_have_answered(wire: str, trap: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cassette the same manager reaches the server, so the test above can fail."""
    before = trap.connections
    with _manager(wire, trap) as llm:
        monkeypatch.setattr("testronaut_llm.local.ollama_models.ollama_missing", lambda _: None)
        assert llm.complete("t", "Hello?").text == '{"a": 1}'
    assert trap.connections > before


async def test_nothing_follows_a_replay(llm_network: NetworkGuard) -> None:
    """No thread of LiteLLM asks a server anything after the cassette has closed (P49)."""
    where = target("ollama/smollm2:135m", key=None)
    asked = chat(where, "What does `ls -la` do? Answer in one sentence.", temperature=0, seed=7, num_ctx=2048)
    with use_cassette(CASSETTES / "ollama" / "litellm-chat.yaml", ignored=("options.num_ctx", "truncate", "shift")):
        _, reply = await attempt(asked)
    assert reply.error is None
    await asyncio.sleep(0.5)
    assert llm_network.connects == []
    assert llm_network.blocked == []
