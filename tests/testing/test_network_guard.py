"""No connection leaves the machine, and a replay reaches no server: with any client, in any mode, or after its end."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import faults
import pytest
from fault_server import FaultServer
from gateway_kit import WIRES, attempt, chat, target
from manager_kit import ask, manager, model

from testronaut_llm.errors import CassetteMissError, LLMError
from testronaut_llm.local import readiness
from testronaut_llm.testing.cassettes import NetworkBlockedError, NetworkGuard, network_guard, stays_here, use_cassette

CASSETTES = Path(__file__).parents[2] / "cassettes"
CASES = [(wire, call) for wire in WIRES for call in ("complete", "astream", "embed")]
CASES.remove(("anthropic", "embed"))


def test_what_leaves_is_refused_and_noted(llm_network: NetworkGuard) -> None:
    """It is refused before a packet is sent or a name is looked up, for any library."""
    there, named = ("192.0.2.1", 443), ("api.example.com", 443)
    with pytest.raises(NetworkBlockedError, match=there[0]):
        socket.create_connection(there)
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(NetworkBlockedError, match=there[0]):
        sock.sendto(b"x", there)
    with pytest.raises(NetworkBlockedError, match=named[0]):
        asyncio.run(asyncio.wait_for(asyncio.open_connection(*named), 60))
    assert llm_network.blocked == [there, there, named]
    llm_network.blocked.clear()


def test_loopback_works_and_guards_nest(llm_network: NetworkGuard, server: FaultServer) -> None:
    here = server.plan("a", faults.echo)
    urllib.request.urlopen(here.url).read()
    with network_guard() as inner:
        urllib.request.urlopen(here.url).read()
    urllib.request.urlopen(here.url).read()
    assert [contact.port for contact in llm_network.connects] == [here.port] * 3
    assert len(inner.connects) == 1
    hosts = ("127.0.0.1", "127.9.9.9", "::1", "localhost", "", "0.0.0.0")
    others = ("example.com", "10.0.0.1", "169.254.169.254", "192.0.2.1", "localhost.example.com")
    assert [host for host in (*hosts, *others) if stays_here(host)] == list(hosts)


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize(("wire", "call"), CASES)
async def test_a_miss_is_a_miss_and_sends_nothing(
    wire: str, call: str, server: FaultServer, llm_network: NetworkGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = server.plan("trap", faults.good())
    monkeypatch.setitem(readiness._PROBES, "ollama", lambda _: None)
    async with manager({name: model(wire, trap.url) for name in ("first", "second")}) as llm:
        with use_cassette(CASSETTES / "no-such-file.yaml"), monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: pytest.fail("a miss is nothing to wait for"))
            with pytest.raises(CassetteMissError, match="does not exist") as miss:
                await (llm.aembed("t", ["Hello"]) if call == "embed" else ask(llm, call))
        assert len(miss.value.attempts) <= 1
        assert (trap.connections, llm_network.connects) == (0, [])
        with suppress(LLMError):  # without a cassette the server is reached
            await (llm.aembed("t", ["Hello"]) if call == "embed" else ask(llm, call))
        assert trap.connections > 0


async def test_nothing_follows_a_replay(llm_network: NetworkGuard) -> None:
    """No thread of LiteLLM asks a server anything after the cassette has closed (P49)."""
    where = target("ollama/smollm2:135m", key=None)
    asked = chat(where, "What does `ls -la` do? Answer in one sentence.", temperature=0, seed=7, num_ctx=2048)
    with use_cassette(CASSETTES / "ollama" / "litellm-chat.yaml", ignored=("options.num_ctx", "truncate", "shift")):
        _, reply = await attempt(asked)
    assert reply.error is None
    await asyncio.sleep(0.5)
    assert (llm_network.connects, llm_network.blocked) == ([], [])
