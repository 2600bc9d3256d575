"""A replay never reaches a server, over any provider's client, in any mode, or after its end."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import faults
import pytest
from fault_server import Endpoint, FaultServer
from gateway_kit import WIRES, attempt, chat, target
from manager_kit import ask, manager, model

from testronaut_llm.errors import CassetteMissError, LLMError
from testronaut_llm.testing.cassettes import use_cassette
from testronaut_llm.testing.network import NetworkGuard

CASSETTES = Path(__file__).parents[2] / "cassettes"
CASES = [(wire, call) for wire in WIRES for call in ("complete", "astream", "embed")]
CASES.remove(("anthropic", "embed"))


@pytest.fixture
def trap(server: FaultServer) -> Endpoint:
    return server.plan("trap", faults.good())


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize(("wire", "call"), CASES)
async def test_a_miss_is_a_miss_and_sends_nothing(
    wire: str, call: str, trap: Endpoint, tmp_path: Path, llm_network: NetworkGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trap.connections
    monkeypatch.setattr("testronaut_llm.local.ollama_models.ollama_missing", lambda _: None)
    async with manager({name: model(wire, trap.url) for name in ("first", "second")}) as llm:
        with use_cassette(tmp_path / "empty.yaml"), monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: pytest.fail("a miss is nothing to wait for"))
            with pytest.raises(CassetteMissError, match="does not exist") as miss:
                await (llm.aembed("t", ["Hello"]) if call == "embed" else ask(llm, call))
        assert len(miss.value.attempts) <= 1
        assert (trap.connections, llm_network.connects) == (before, [])
        with suppress(LLMError):  # without a cassette the server is reached
            await (llm.aembed("t", ["Hello"]) if call == "embed" else ask(llm, call))
        assert trap.connections > before


async def test_nothing_follows_a_replay(llm_network: NetworkGuard) -> None:
    """No thread of LiteLLM asks a server anything after the cassette has closed (P49)."""
    where = target("ollama/smollm2:135m", key=None)
    asked = chat(where, "What does `ls -la` do? Answer in one sentence.", temperature=0, seed=7, num_ctx=2048)
    with use_cassette(CASSETTES / "ollama" / "litellm-chat.yaml", ignored=("options.num_ctx", "truncate", "shift")):
        _, reply = await attempt(asked)
    assert reply.error is None
    await asyncio.sleep(0.5)
    assert (llm_network.connects, llm_network.blocked) == ([], [])
